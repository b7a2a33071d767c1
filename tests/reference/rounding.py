"""To and from the half precisions, by ml_dtypes and NumPy."""

import ml_dtypes
import numpy as np

STORED = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def widen(array):
    return np.asarray(array).astype(np.float32)


def rounded(array, dtype):
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return array.astype(STORED[dtype])


def bits(array):
    return np.asarray(array).view({2: np.uint16, 4: np.uint32}[array.dtype.itemsize])
