"""All Numba code and only that. Imports nothing of ours; kernels that call each other share a file."""
