"""Carries a plan out: hands pieces to workers, decides, watches for signals, tells what happens."""
