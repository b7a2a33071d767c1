"""Merge large language models out of core: exact, in bounded memory, at the speed of the disk."""
