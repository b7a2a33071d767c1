"""File systems in files, mounted for a test."""

import contextlib
import os
import subprocess


def sh(*arguments):
    """A command that must succeed."""
    return subprocess.run(list(map(str, arguments)), check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def mounted(kind, size, at, *, image=None, options=""):
    """A file system of so many bytes at a new directory: tmpfs, or one in an image (made where there is none yet)."""
    os.makedirs(at, exist_ok=True)
    if kind == "tmpfs":
        sh("mount", "-t", "tmpfs", f"-osize={size}", "none", at)
    else:
        if not os.path.exists(image):
            with open(image, "wb") as file:
                file.truncate(size)
            sh(f"mkfs.{kind}", "-q", image)
        sh("mount", "-t", kind, "-oloop" + (f",{options}" if options else ""), image, at)
    try:
        yield at
    finally:
        # A disk that has failed may be busy for a moment; lazily, so that a test never leaves it behind.
        if subprocess.run(["umount", at], capture_output=True).returncode:
            subprocess.run(["umount", "-l", at], capture_output=True)
