"""Statistics of a family of models in a zarr store: measured once, asked without the models."""
