"""Compiles what a wheel brings: the page's template, and all kernels for two levels of x86-64 processors.

An sdist and an editable install hold neither, a wheel for other processors no kernels; what they lack is compiled when
it is needed.
"""

import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path(__file__).resolve().parent / "engine"
TEMPLATE = (
    "import sys; from pathlib import Path; from sdmw.reporting.pages import rendering; "
    "rendering.compile_into(Path(sys.argv[1]))"
)
COMPILE = (
    "import sys; from pathlib import Path; from sdmw.kernels import shipped; "
    "shipped.compile_into(Path(sys.argv[1]), sys.argv[2])"
)
LEVELS = "from sdmw.kernels import processor; print(*processor.LEVELS)"


class Compiled(BuildHookInterface[Any]):
    """Compiles before the wheel is packed, and removes afterwards what it made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say which files go into the wheel, and for which machines it is."""
        if version == "editable":
            return
        self.made = tempfile.TemporaryDirectory()
        pages, kernels = (os.path.join(self.made.name, name) for name in ("pages", "kernels"))
        _run(TEMPLATE, pages)
        build_data["force_include"][pages] = "sdmw/reporting/pages/compiled"
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            return
        os.mkdir(kernels)
        levels = _run(LEVELS).split()
        with ThreadPoolExecutor() as each_apart:
            list(each_apart.map(lambda level: _run(COMPILE, kernels, level), levels))
        build_data["force_include"][kernels] = "sdmw/kernels/compiled"
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-linux_x86_64"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was made."""
        if hasattr(self, "made"):
            self.made.cleanup()


def _run(code: str, *arguments: str) -> str:
    """What a process of its own prints: Numba compiles for one processor in each.

    Without `site`, which in pip's isolated builds drops the sources where they are installed in editable form.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(SOURCES), *filter(None, sys.path)])
    command = [sys.executable, "-S", "-c", code, *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
