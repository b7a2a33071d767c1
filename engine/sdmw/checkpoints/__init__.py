"""What lies on disk: input formats, their tensors, and the output."""
