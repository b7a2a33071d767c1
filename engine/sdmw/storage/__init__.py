"""Where bytes are: finding a model's directory and opening its files without being led astray."""
