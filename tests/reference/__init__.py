"""The methods in plain NumPy, one file each, to be checked by eye against METHOD.md."""
