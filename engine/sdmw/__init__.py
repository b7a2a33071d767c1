"""Merge large language models out of core: exact, in bounded memory, at the speed of the disk.

Names are loaded when they are first used, so `import sdmw` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sdmw.version import __version__

if TYPE_CHECKING:
    from sdmw import errors
    from sdmw.api import (
        apply,
        compare,
        doctor,
        explain,
        extract,
        inspect,
        measure,
        merge,
        open,  # noqa: A004
        open_store,
        pack,
        plan,
        report,
        revert,
        sweep,
        verify,
    )
    from sdmw.errors import SdmwError
    from sdmw.planning.explain import Explanation
    from sdmw.planning.plan import Plan
    from sdmw.recipes.recipe import Recipe
    from sdmw.reporting.comparison import Comparison
    from sdmw.reporting.diagnosis import Diagnosis
    from sdmw.reporting.extraction import ExtractionReport
    from sdmw.reporting.inspection import Inspection
    from sdmw.reporting.packing import PackReport
    from sdmw.reporting.report import Report
    from sdmw.reporting.sweep import Sweep
    from sdmw.running.reader import MergeReader
    from sdmw.running.verification import Verification
    from sdmw.stores.store import Store

__all__ = [
    "Comparison",
    "Diagnosis",
    "Explanation",
    "ExtractionReport",
    "Inspection",
    "MergeReader",
    "PackReport",
    "Plan",
    "Recipe",
    "Report",
    "SdmwError",
    "Store",
    "Sweep",
    "Verification",
    "__version__",
    "apply",
    "compare",
    "doctor",
    "errors",
    "explain",
    "extract",
    "inspect",
    "measure",
    "merge",
    "open",
    "open_store",
    "pack",
    "plan",
    "report",
    "revert",
    "sweep",
    "verify",
]

_HOMES = {
    "Comparison": "sdmw.reporting.comparison",
    "Diagnosis": "sdmw.reporting.diagnosis",
    "Explanation": "sdmw.planning.explain",
    "ExtractionReport": "sdmw.reporting.extraction",
    "Inspection": "sdmw.reporting.inspection",
    "MergeReader": "sdmw.running.reader",
    "PackReport": "sdmw.reporting.packing",
    "Plan": "sdmw.planning.plan",
    "Recipe": "sdmw.recipes.recipe",
    "Report": "sdmw.reporting.report",
    "SdmwError": "sdmw.errors",
    "Store": "sdmw.stores.store",
    "Sweep": "sdmw.reporting.sweep",
    "Verification": "sdmw.running.verification",
    "apply": "sdmw.api",
    "compare": "sdmw.api",
    "doctor": "sdmw.api",
    "explain": "sdmw.api",
    "extract": "sdmw.api",
    "inspect": "sdmw.api",
    "measure": "sdmw.api",
    "merge": "sdmw.api",
    "open": "sdmw.api",
    "open_store": "sdmw.api",
    "pack": "sdmw.api",
    "plan": "sdmw.api",
    "report": "sdmw.api",
    "revert": "sdmw.api",
    "sweep": "sdmw.api",
    "verify": "sdmw.api",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("errors",):
        return importlib.import_module(f"sdmw.{name}")
    raise AttributeError(f"module 'sdmw' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
