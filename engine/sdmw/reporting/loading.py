"""How a model that was merged is loaded: the line of Python that people are shown."""

import json
from typing import Any

from sdmw.errors import CheckpointError
from sdmw.storage.files import listing, read_bounded

_LARGEST_CONFIG = 16 * 2**20  # bytes


def loading(path: str, called: str | None = None, *, merged: bool = False) -> str:
    """What to write to load an output with PEFT or transformers.

    transformers' AutoModelForCausalLM reads decoders only; other classes are named in the config's `architectures`.

    Args:
        path: a directory: an adapter's or a model's.
        called: what it will be called when it is loaded; None for its path.
        merged: an adapter gives what it stands for only once it is merged.
    """
    where = repr(path if called is None else called)
    try:
        if "adapter_config.json" in listing(path):
            return peft_loading(where, merged=merged)
        config = json.loads(read_bounded(path, "config.json", _LARGEST_CONFIG))
    except (CheckpointError, ValueError, RecursionError):
        config = None
    name, remote = _class_of(config if isinstance(config, dict) else {})
    return f"{name}.from_pretrained({where}{', trust_remote_code=True' if remote else ''})"


def peft_loading(where: str, *, merged: bool) -> str:
    """What to write to load an adapter; `merged`: it gives what it stands for only once it is merged."""
    return f"PeftModel.from_pretrained(base, {where})" + (".merge_and_unload()" if merged else "")


def _class_of(config: dict[str, Any]) -> tuple[str, bool]:
    """The class of a config, and whether its code comes with the model."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    own = config.get("auto_map")
    if isinstance(own, dict):
        autos = {auto: code for auto, code in own.items() if auto.startswith("AutoModel") and auto.isidentifier()}
        loads = {str(code).rpartition(".")[2]: auto for auto, code in autos.items()}
        return str(loads.get(str(first), "AutoModelForCausalLM")), True
    if isinstance(first, str) and first.isidentifier() and not first.endswith("ForCausalLM"):
        return first, False
    return "AutoModelForCausalLM", False
