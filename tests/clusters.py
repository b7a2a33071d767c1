"""A dask cluster as processes: a scheduler, and workers that can be killed, slowed or given other files."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

SECONDS = 60  # that a process may take to be there


class Cluster:
    """A scheduler and its workers.

    Attributes:
        address: of the scheduler.
        workers: the workers' processes, in the order in which they were started.
        scheduler: its process.
    """

    def __init__(self, folder, host):
        self._folder, self._logs = folder, []
        self.workers = []
        arguments = ["dask_scheduler", "--host", host, "--port", "0", "--no-dashboard", "--no-show"]
        self.scheduler, said = self._started(arguments, r"Scheduler at:\s+(\S+)")
        self.address = said[1]

    def add_worker(self, *, preload=None, before=(), threads=1):
        """One more worker, without a nanny: what is killed stays away.

        Args:
            preload: lines of Python that it runs first.
            before: a command that starts the worker's, such as `unshare`.
            threads: of it.
        """
        arguments = ["dask_worker", self.address, "--no-nanny", "--no-dashboard", "--nthreads", str(threads)]
        arguments += ["--local-directory", str(self._folder)]
        if preload:
            path = self._folder / f"preload_{len(self.workers)}.py"
            path.write_text(preload)
            arguments += ["--preload", str(path)]
        process, _ = self._started(arguments, r"Registered to:", before)
        self.workers.append(process)
        return process

    def close(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        for log in self._logs:
            log.close()

    def _started(self, arguments, ready, before=()):
        name, *others = arguments
        log = (self._folder / f"log_{len(self._logs)}").open("w+")
        self._logs.append(log)
        process = subprocess.Popen(
            [*before, sys.executable, "-m", f"distributed.cli.{name}", *others],
            stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        until = time.monotonic() + SECONDS
        while not (said := re.search(ready, (self._folder / os.path.basename(log.name)).read_text())):
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                process.wait()
                raise AssertionError((self._folder / os.path.basename(log.name)).read_text())
            time.sleep(0.05)
        return process, said


@contextmanager
def cluster(folder, workers=2, host="127.0.0.1"):
    """A cluster in a folder of its own, with so many workers of one thread."""
    with suppress(FileExistsError):
        folder.mkdir()
    found = Cluster(folder, host)
    try:
        for _ in range(workers):
            found.add_worker()
        yield found
    finally:
        found.close()


@contextmanager
def hosts(count):
    """Network namespaces on one bridge; needs root.

    Yields:
        The bridge's address here, and for each namespace the beginning of a command that runs in it.
    """
    number = os.getpid() % 200 + 20
    bridge, names = f"sdmwbr{number}", [f"sdmw{number}x{n}" for n in range(count)]
    made = [f"link add {bridge} type bridge", f"addr add 10.213.{number}.1/24 dev {bridge}", f"link set {bridge} up"]
    for n, name in enumerate(names):
        made += [
            f"netns add {name}", f"link add {name}h type veth peer name eth0 netns {name}",
            f"link set {name}h master {bridge}", f"link set {name}h up",
            f"-n {name} addr add 10.213.{number}.{n + 2}/24 dev eth0", f"-n {name} link set eth0 up",
            f"-n {name} link set lo up",
        ]  # fmt: skip
    try:
        for line in made:
            subprocess.run(["ip", *line.split()], check=True, capture_output=True)
        yield f"10.213.{number}.1", [["ip", "netns", "exec", name] for name in names]
    finally:
        for line in (*(f"netns del {name}" for name in names), f"link del {bridge}"):
            subprocess.run(["ip", *line.split()], check=False, capture_output=True)
