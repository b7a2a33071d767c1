"""Modules that wrap others, in the names of tensors that were saved from within them.

Source: torch.compile, FSDP, activation checkpointing and accelerate.
"""

import re
from collections.abc import Iterable

_WRAPPERS = (
    "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module", "_forward_module", "module",
)  # fmt: skip
_WITHIN = re.compile(rf"(?:\A|(?<=\.))(?:(?:{'|'.join(_WRAPPERS)})\.)+")


def bare(name: str) -> str:
    """A name without the modules that wrap others."""
    return _WITHIN.sub("", name)


def around(names: Iterable[str]) -> str:
    """The wrappers within which all names lie, as they begin; empty where there is none, or another for some."""
    found = _WITHIN.match(next(iter(names), ""))
    return found[0] if found and all(name.startswith(found[0]) for name in names) else ""
