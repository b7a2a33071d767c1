"""The lambda that preserves norms, on whole arrays."""

import numpy as np


def preserve_norm(weights, deltas):
    """deltas: of each model a list of arrays, which all have the model's weight."""
    vectors = [np.concatenate([each.ravel() for each in model]).astype(np.float64) for model in deltas]
    vectors = [np.where(np.isfinite(vector), vector, 0.0) for vector in vectors]
    gram = np.array([[one @ other for other in vectors] for one in vectors])
    w = np.array(weights, np.float64)
    parts, whole = float(np.abs(w) @ np.sqrt(np.diag(gram))), float(np.sqrt(max(w @ gram @ w, 0.0)))
    return 1.0 if whole <= 1e-6 * parts else float(np.float32(parts / whole))
