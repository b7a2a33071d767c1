"""Rows of a vocabulary, token by token. METHODS.md, section 8."""

import numpy as np


def aligned(models, output, *, base=None, sources=None, force=(), padding=0):
    """Each model's rows for the output's tokens, in float32.

    Args:
        models: by name, the tokens with their numbers, and the rows (tokens, width).
        output: the output's tokens, in order.
        base: the name of the model that is the base, if one is.
        sources: by token, what is configured: (model, token), or None for zeros.
        force: tokens whose own rows do not count.
        padding: rows more.
    """
    sources = sources or {}
    width = next(iter(models.values()))[1].shape[1]
    zeros = np.zeros(width, np.float32)

    def own(model, token):
        tokens, rows = models[model]
        return rows[tokens[token]].astype(np.float32) if token in tokens else None

    def stand_in(token):
        if token in sources:
            return zeros if sources[token] is None else own(*sources[token])
        having = [model for model in models if token in models[model][0]]
        if len(having) == 1:
            return own(having[0], token)
        if base in having:
            return own(base, token)
        if not having:
            return zeros
        total = own(having[0], token)
        for model in having[1:]:
            total = total + own(model, token)
        return total / np.float32(len(having))

    found = {}
    for model in models:
        rows = [own(model, token) if token not in force else None for token in output]
        rows = [stand_in(token) if row is None else row for token, row in zip(output, rows, strict=True)]
        mean = np.mean(np.array(rows, np.float64), axis=0).astype(np.float32)
        found[model] = np.array([*rows, *[mean] * padding], np.float32)
    return found
