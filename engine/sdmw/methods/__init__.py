"""Merge methods, one file a family, found by listing this folder. The table of them is in README.md beside this."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache, cached_property

from sdmw.methods.method import AnyMethod


@cache
def all_methods() -> Mapping[str, AnyMethod]:
    """Every method by its name in a recipe: the `METHODS` of each file here that has them."""
    return _Methods()


class _Methods(Mapping[str, AnyMethod]):
    """A method whose file is called as it is needs no other file to be loaded; most recipes name such a one."""

    def __getitem__(self, name: str) -> AnyMethod:
        if name in self._files:
            for method in _methods_in(name):
                if method.name == name:
                    return method
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @cached_property
    def _files(self) -> tuple[str, ...]:
        return tuple(module.name for module in pkgutil.iter_modules(__path__))

    @cached_property
    def _all(self) -> dict[str, AnyMethod]:
        return {method.name: method for file in self._files for method in _methods_in(file)}


def _methods_in(file: str) -> tuple[AnyMethod, ...]:
    return getattr(importlib.import_module(f"{__name__}.{file}"), "METHODS", ())
