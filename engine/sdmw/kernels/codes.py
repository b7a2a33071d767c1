"""The numbers by which kernels know dtypes."""

F32, F16, BF16 = 0, 1, 2  # the dtypes that float32 holds exactly
DELTA = 3  # float32 too, and no values: what is to be added to the base
