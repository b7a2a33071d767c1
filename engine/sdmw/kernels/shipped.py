"""Machine code that a wheel brings: all kernels, compiled when the wheel was built, for levels of x86-64 processors.

It lies beside this file, and is as safe as the code there. It depends neither on Python's version nor on NumPy's. What
was made from other sources, or by other releases of Numba and llvmlite than those here, has another name.
"""

import hashlib
import os
from pathlib import Path

from sdmw.kernels import calls, folder, libraries, objects, processor

PLACE = Path(__file__).with_name("compiled")
_CHANGES_NOTHING = {"NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS"}

_damaged: set[Path] = set()  # for the rest of the process's life


def file_of(group: str) -> Path | None:
    """The file with a group's machine code for this processor.

    Returns:
        None where the wheel has none, where it is damaged, or where Numba's settings ask for other code.
    """
    level = processor.level()
    asked = {name for name in os.environ if name.startswith("NUMBA_")} - _CHANGES_NOTHING
    if level is None or asked:
        return None
    path = _path(PLACE, level, group)
    return path if path.is_file() and path not in _damaged else None


def pass_over(path: Path) -> None:
    """Use a damaged file no more. It belongs to an installed package, so it stays as it is."""
    _damaged.add(path)


def compile_into(place: Path, level: str) -> None:
    """Compile all kernels for a level of processors; the work of a wheel's build, in a process that does nothing else.

    Args:
        place: the folder that becomes `PLACE`.
        level: one of `processor.LEVELS`.
    """
    os.environ.update(NUMBA_CPU_NAME=level, NUMBA_CPU_FEATURES="")  # Numba reads them when it is imported
    from sdmw.kernels import compiler

    for group in calls.CALLS:
        objects.write(_path(place, level, group), compiler.compiled(group))


def _path(place: Path, level: str, group: str) -> Path:
    key = hashlib.sha256(repr((folder.hash_of_sources(), libraries.releases())).encode()).hexdigest()[:16]
    return place / f"{group}-{level}-{key}.zip"
