"""Runs the command line in this process, and looks at what it leaves on disk."""

import os
import signal
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from sdmw import cli
from sdmw.running.stop import SIGNALS


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self):
        """The lines of the message, without their `error: `; anything else on standard error is a failure."""
        lines = self.err.splitlines()
        strange = [line for line in lines if not line.startswith(("error: ", "warning: ", "note: "))]
        assert not strange, strange
        return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def told(capsys, monkeypatch, *arguments):
    """The real `main`, with these arguments. It leaves signals ignored, as the process is to end."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["sdmw", *map(str, arguments)])
    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    return Told(code, *capsys.readouterr())


def everything_in(folder):
    """All that is in a folder: kind, mode, content and time of last change by path. Links are not followed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            content = ""
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
            elif stat.S_ISLNK(status.st_mode):
                content = str(Path(path).readlink())
            found[os.path.relpath(path, folder)] = (status.st_mode, status.st_mtime_ns, content)
    return found
