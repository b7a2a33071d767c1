"""Tensors that are the same under another spelling: of modules that wrap others, and of older versions.

Source: peft; transformers' `legacy` conversions, which its loaders apply and undo when they save. For modules that wrap
others see checkpoints/wrappers.py.
"""

import re
from collections.abc import Iterable

from sdmw.checkpoints.wrappers import bare

_OLD_MODULES = {"block_sparse_moe": "mlp"}  # Mixtral's, until transformers 5
_OLD_ENDS = {
    "gamma": "weight",
    "beta": "bias",
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_ANY = re.compile(rf"(?:\A|\.)(?:{'|'.join((*_OLD_MODULES, *_OLD_ENDS))})(?:\.|\Z)")
_OF_PEFT = (".lora_", ".base_layer.", ".modules_to_save.", ".original_module.")
_DEFAULT = ".default."  # the usual name of an adapter, which peft leaves out of the files that it writes


def unmerged(names: Iterable[str], base: Iterable[str]) -> list[str]:
    """Names of a PEFT model whose adapter was not merged into it.

    Args:
        names: of a model's tensors.
        base: names that the base has; some models have matrices of this kind themselves, under names of their own.
    """
    own = set(base)
    return [n for n in names if any(part in n for part in _OF_PEFT) and (n not in own or _DEFAULT in n)]


def plainly_spelled(name: str) -> str:
    """A name without the modules that wrap others, as it is spelled today."""
    return spelled_today(bare(name))


def spelled_today(name: str) -> str:
    """A name without wrappers, as today's versions spell it."""
    if not _ANY.search(name):  # most of 100,000 names, at a tenth of the time
        return name
    *modules, last = name.split(".")
    return ".".join((*(_OLD_MODULES.get(each, each) for each in modules), _OLD_ENDS.get(last, last)))
