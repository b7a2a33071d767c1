"""DARE with a vote, in plain NumPy."""

from functools import partial

from reference.dare_linear import dare_linear

dare_ties = partial(dare_linear, vote=True)
