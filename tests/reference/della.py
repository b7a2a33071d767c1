"""DELLA with a vote, in plain NumPy."""

from functools import partial

from reference.della_linear import della_linear

della = partial(della_linear, normalize=True, vote=True)
