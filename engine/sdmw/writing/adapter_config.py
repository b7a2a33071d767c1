"""adapter_config.json of an adapter that we write, as peft and vLLM read it."""

import json
from collections.abc import Iterable
from typing import Any

from sdmw.recipes.model_ref import ModelRef


def adapter_config(
    *, base: ModelRef | None, rank: int, modules: Iterable[str], fan_in_fan_out: bool, task_type: str | None
) -> bytes:
    """A plain LoRA adapter whose scaling is 1. Source: peft 0.21, LoraConfig; what is not said is its default.

    Args:
        base: what the adapter is for, as it was named.
        rank: of all its modules.
        modules: their whole names.
        fan_in_fan_out: weights lie as (in, out).
        task_type: peft's word for what the model is for.
    """
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        **_named(base),
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(modules),
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "use_rslora": False,
    }
    return json.dumps(config, indent=2).encode() + b"\n"


def _named(base: ModelRef | None) -> dict[str, str]:
    # peft keeps a revision in a field of its own, and has no way to name a base that has an adapter itself.
    if base is None or base.adapter is not None:
        return {"base_model_name_or_path": str(base or "")}
    return {"base_model_name_or_path": base.path, **({"revision": base.revision} if base.revision else {})}
