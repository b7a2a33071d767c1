"""Breadcrumbs with a vote, in plain NumPy."""

from functools import partial

from reference.breadcrumbs import breadcrumbs

breadcrumbs_ties = partial(breadcrumbs, vote=True)
