"""What a tile comes from: stored tensors, mapped or read, and those that are computed."""
