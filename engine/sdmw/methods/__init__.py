"""Merge methods, one file a family, found by listing this folder. The table of them is in README.md beside this."""

import importlib
import pkgutil
from functools import cache

from sdmw.methods.method import AnyMethod


@cache
def all_methods() -> dict[str, AnyMethod]:
    """Every method by its name in a recipe: the `METHODS` of each file here that has them."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        for method in getattr(importlib.import_module(f"{__name__}.{module.name}"), "METHODS", ()):
            found[method.name] = method
    return found
