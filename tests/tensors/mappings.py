"""What the kernel says of the mappings of a file in this process."""

import re
from pathlib import Path


def mappings_of(path):
    """What is resident of each mapping of a file, in KiB."""
    smaps = Path("/proc/self/smaps").read_text()
    block = rf"^[0-9a-f]+-.* {re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB"
    return [int(resident) for resident in re.findall(block, smaps, re.MULTILINE)]


def resident(path):
    """Bytes of a file that are resident here, in all its mappings."""
    return 1024 * sum(mappings_of(path))
