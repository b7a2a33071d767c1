"""The public functions; each composes the other folders and does nothing itself."""

from sdmw.api.archiving import apply, pack, revert
from sdmw.api.checking import inspect, verify
from sdmw.api.extracting import extract
from sdmw.api.merging import explain, merge, open, plan  # noqa: A004  the word of safetensors

__all__ = ["apply", "explain", "extract", "inspect", "merge", "open", "pack", "plan", "revert", "verify"]
