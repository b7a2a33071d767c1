"""DARE in plain NumPy: Philox-4x32-10 in Python's integers, then float32."""

import numpy as np
import xxhash

from reference.trimming import merged, scaled

LOW = 0xFFFFFFFF


def philox(key, counter):
    """Four words of 32 bits."""
    low, high = key & LOW, key >> 32
    a, b, c, d = counter & LOW, counter >> 32, 0, 0
    for _ in range(10):
        one, other = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (other >> 32) ^ b ^ low, other & LOW, (one >> 32) ^ d ^ high, one & LOW
        low, high = (low + 0x9E3779B9) & LOW, (high + 0xBB67AE85) & LOW
    return a, b, c, d


def words(key, count):
    """The words of the first elements."""
    return [word for counter in range(-(-count // 4)) for word in philox(key, counter)][:count]


def kept_by_chance(density, seed, place, name, shape):
    """Which elements of a tensor are kept of a model."""
    key = xxhash.xxh3_64_intdigest(f"{seed}\0{place}\0{name}".encode())
    below = int(density * 2.0**32)
    drawn = words(key, int(np.prod(shape)))
    return np.array([word < below for word in drawn]).reshape(shape)


def dare_linear(name, base, models, weights, densities, seed=0, normalize=False, rescale=True, scale=1.0, vote=False):
    """One tensor's float32 result; `name` is the tensor's."""
    kept = []
    for place, (model, density) in enumerate(zip(models, densities, strict=True)):
        delta = model - base
        mask = kept_by_chance(density, seed, place, name, delta.shape)
        delta = scaled(delta, mask) if rescale and density < 1 else delta
        kept.append(np.where(mask, delta, np.float32(0)))
    return merged(base, kept, weights, vote=vote, normalize=normalize, scale=scale)
