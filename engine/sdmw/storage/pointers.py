"""Pointers of Git LFS: what stands for a file where a repository was cloned without its large files.

Source: the Git LFS specification, "The Pointer".
"""

START = b"version https://git-lfs.github.com/spec/"
LARGEST_POINTER = 1024  # bytes
IS_POINTER = "a Git LFS pointer, not the file itself"
FETCH = "Fetch it: git lfs pull, or download the model again"


def is_pointer(content: bytes) -> bool:
    """Whether the whole content of a file is a pointer."""
    return len(content) < LARGEST_POINTER and content.startswith(START)
