"""A copy of the kernels with one more of its own, to be compiled, kept, damaged and linked by processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import sdmw

PACKAGE = Path(sdmw.__file__).parent
PROBE = """
from sdmw.kernels.jit import kernel, widened

@kernel
def probe(words, out):
    out[0] = widened(words[0])
"""
GROUP = """

def _probe():
    from sdmw.kernels import probe

    yield probe.probe, (np.zeros(0, np.uint16), np.zeros(0, np.float32))


CALLS["probe"] = _probe
"""
PROGRAM = """
import sys
import numpy as np
from sdmw.kernels import ready
from sdmw.kernels.probe import probe

told = []
ready.prepare(told.append)
out = np.zeros(1, np.float32)
probe(np.array([0x3F80], np.uint16), out)  # 1.0 in bfloat16
print(out[0], *told, "here" if "numba" in sys.modules else "linked")
"""
KEPT, LOADED, NOT_KEPT = ["1.0", "True", "linked"], ["1.0", "linked"], ["1.0", "False", "here"]


class World:
    """A copy of the kernels with one more, and a cache folder of its own."""

    def __init__(self, place):
        self.root = place / "cache"
        self.sources = place / "source" / "sdmw" / "kernels"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(place / "source"), *filter(None, sys.path)]),
            "HOME": str(place),
            "XDG_CACHE_HOME": str(self.root),
            "TMPDIR": str(place / "tmp"),
        }
        (place / "tmp").mkdir(0o700)
        shutil.copytree(PACKAGE / "kernels", self.sources, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("__init__.py", "version.py"):
            shutil.copy(PACKAGE / name, self.sources.parent)
        (self.sources / "probe.py").write_text(PROBE)
        groups = self.sources / "calls.py"
        groups.write_text(groups.read_text().replace('ALWAYS = "tiles"', 'ALWAYS = "probe"') + GROUP)

    def run(self, before="", after="", **environment):
        """The words that the probe prints, and the warnings."""
        done = subprocess.run(
            [sys.executable, "-c", before + PROGRAM + after], env={**self.environment, **environment},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), [line for line in done.stderr.splitlines() if "Warning: " in line]

    def kept(self):
        """The file of the probe's machine code."""
        (path,) = self.root.rglob("*.zip")
        return path
