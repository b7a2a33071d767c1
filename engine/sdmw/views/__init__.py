"""From tables of tensors to tables of tensors: an adapter put on a model."""
