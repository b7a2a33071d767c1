"""Words that lie in a range, one behind the other. Compiled in `compiled_compress.py`."""

from typing import Any

import numpy as np

SPARE = 16  # words that an output has beyond those that may come: whole vectors are stored


def compress(words: Any, size: int, shift: Any, first: Any, width: Any, out: Any, known: int) -> int:
    """Append those of `size` words w for which w << shift lies from `first` up to first + width, in order, to `out`.

    All words and the three numbers are uint32, and so is what they are compared by. `out` has `known` words and room
    for all the others and `SPARE` more. Returns how many it has then.
    """
    found = words[:size][((words[:size] << shift) - first).astype(np.uint32) < width]
    out[known : known + found.size] = found
    return known + int(found.size)
