"""The numbers of a store, made from deltas in plain NumPy."""

import numpy as np

from reference import survey as reference
from sdmw.stores.evidence.numbers import Numbers
from sdmw.stores.store import Store, StoredTensor


def numbers_by_hand(deltas, unchanged=None):
    """Numbers of float32 deltas.

    Args:
        deltas: by model, by tensor; float32 arrays of any shape.
        unchanged: by tensor, (M, 2): deltas that bfloat16 and float16 swallow; by default none.
    """
    models, tensors = list(deltas), list(next(iter(deltas.values())))
    rows = [[deltas[model][tensor].reshape(-1) for model in models] for tensor in tensors]
    stored = tuple(StoredTensor(name, deltas[models[0]][name].shape) for name in tensors)
    wide = [[each.astype(np.float64) for each in row] for row in rows]
    conflicts = [np.array(reference.conflict(row)) for row in rows]
    return Numbers(
        store=Store("1", "store", tuple(models), stored, {}, {}, "{}"),
        elements=np.array([tensor.elements for tensor in stored]),
        nonzero=np.array([[np.count_nonzero(each) for each in row] for row in rows]),
        nonfinite=np.zeros((len(tensors), len(models)), np.int64),
        unchanged=np.array([(unchanged or {}).get(name, np.zeros((len(models), 2), np.int64)) for name in tensors]),
        gram=np.array([[[float(a @ b) for a in row] for b in row] for row in wide]),
        conflict=np.array([each + each.T for each in conflicts]),
        overlap=np.array([reference.overlap(row) for row in rows]) if len(models) <= 8 else None,
    )
