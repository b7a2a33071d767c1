"""The public functions; each composes the other folders and does nothing itself.

Each is loaded with its file when it is first used: a merge does without what archives need.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdmw.api.archiving import apply, pack, revert
    from sdmw.api.checking import inspect, verify
    from sdmw.api.comparing import compare
    from sdmw.api.extracting import extract
    from sdmw.api.merging import explain, merge, open, plan  # noqa: A004  the word of safetensors
    from sdmw.api.pages import report
    from sdmw.api.stores import doctor, measure, open_store, sweep

__all__ = [
    "apply", "compare", "doctor", "explain", "extract", "inspect", "measure", "merge", "open", "open_store", "pack",
    "plan", "report", "revert", "sweep", "verify",
]  # fmt: skip

_HOMES = {
    **dict.fromkeys(("apply", "pack", "revert"), "archiving"),
    **dict.fromkeys(("inspect", "verify"), "checking"),
    "compare": "comparing",
    "extract": "extracting",
    **dict.fromkeys(("explain", "merge", "open", "plan"), "merging"),
    "report": "pages",
    **dict.fromkeys(("doctor", "measure", "open_store", "sweep"), "stores"),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"sdmw.api.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sdmw.api' has no attribute {name!r}")
