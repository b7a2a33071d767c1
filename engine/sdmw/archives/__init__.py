"""Sparse archives of what a model changed: pack, apply, revert."""
