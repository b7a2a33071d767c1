"""Which Numba and which LLVM machine code is made by; neither is imported to know it."""

import importlib.util
from functools import cache
from pathlib import Path


@cache
def releases() -> tuple[str, ...]:
    """Of Numba and llvmlite: what their own files say, since metadata takes longer to find."""
    return tuple(map(_release, ("numba", "llvmlite")))


def _release(package: str) -> str:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    try:
        return Path(found.origin).with_name("_version.py").read_text()
    except OSError:
        from importlib.metadata import version

        return version(package)
