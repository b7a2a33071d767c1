"""How soon a process ends that was asked to, in a way that a busy machine does not change."""

import os

import psutil


def processor_seconds(process):
    """What a process has used of processors so far; also once it has ended, as long as nobody has waited for it."""
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def seconds_to_its_end(process, since):
    """Waits until a process has ended: the processor seconds that it took for that.

    Args:
        process: what it says fits in its pipes.
        since: its `processor_seconds` when it was asked to end.
    """
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return processor_seconds(process) - since
