"""Parts of a model that are easily lost: layers for drafting, scales of the key-value cache, routers of experts."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.sizes import counted
from sdmw.views.layers import place_in_stack
from sdmw.views.stacked import main_stack

ROUTER = re.compile(r"\.(?:gate|router)(?:\.\w+)*\.(?:weight|bias|e_score_correction_bias|expert_bias)$")
_DRAFTING = "layers for drafting"
_KINDS = (
    ("scales of the key-value cache", re.compile(r"\.(?:[kv]_(?:proj\.output_)?scale|kv_scale)$")),
    ("routers", ROUTER),
)


def auxiliary(base: Checkpoint, models: Iterable[Checkpoint], names: Iterable[str]) -> Iterator[str]:
    """A note that counts them in the output, where there are any.

    Args:
        base: whose config the output has.
        models: what is merged; layers that the config of any counts are for no drafting.
        names: of the output's tensors.
    """
    stack, last = main_stack(base), _most_layers((base, *models))
    with_experts = any("experts." in name for name in base.tensors)
    found: Counter[str] = Counter()
    for name in names:
        place = place_in_stack(name)
        if (place and last is not None and place[0] == stack and place[1] >= last) or "mtp" in name.split("."):
            found[_DRAFTING] += 1
        else:
            found.update(
                kind for kind, pattern in _KINDS if pattern.search(name) and (kind != "routers" or with_experts)
            )
    if found:
        kinds = (_DRAFTING, *(kind for kind, _ in _KINDS))
        parts = (f"{counted(found[kind], 'tensor')} of {kind}" for kind in kinds if found[kind])
        yield f"the output keeps {', '.join(parts)}"


def _most_layers(checkpoints: Iterable[Checkpoint]) -> int | None:
    return max((count for each in checkpoints if (count := _layers(each.config)) is not None), default=None)


def _layers(config: Mapping[str, Any] | None) -> int | None:
    """How many layers the config counts."""
    config = config or {}
    text = config.get("text_config")
    found = (text if isinstance(text, Mapping) else config).get("num_hidden_layers")
    return found if isinstance(found, int) else None
