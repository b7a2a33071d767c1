"""Into which bins magnitudes fall: the high 16 bits of their float32 patterns. Source: METHOD.md, "bins".

Plain numbers in a file of their own, so that planning needs no compiler.
"""

BINS = 1 << 15  # the sign bit of a magnitude is zero
FIRST_NONFINITE_BIN = 0x7F80  # infinity; NaNs lie in it and above
LOW = 1 << 16  # values of the low 16 bits
BLOCK = 4096  # elements that are counted at once
SMALL = 4096  # elements of a tensor that is sorted; with more, counting is faster
