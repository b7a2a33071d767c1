"""How float sums are cut, so that tiles and threads change no bit. Source: DESIGN.md, promise 2."""

GRAIN = 1 << 16  # elements of a block; the next one begins at the next multiple, counted from the tensor's start
LANES = 16  # element i of a block is added to lane i mod 16, each in order
