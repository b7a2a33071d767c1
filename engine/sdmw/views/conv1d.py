"""Which modules keep their weight as (in, out): transformers' Conv1D, of the models that have any."""

from sdmw.checkpoints.checkpoint import Checkpoint

_MODELS = ("gpt2", "gpt-sw3", "openai-gpt", "imagegpt", "decision_transformer")
_MODULES = ("c_attn", "c_proj", "c_fc", "q_attn")


def is_conv1d(checkpoint: Checkpoint, module: str) -> bool:
    """Whether a module of a model keeps its weight as (in, out)."""
    return (checkpoint.config or {}).get("model_type") in _MODELS and module.split(".")[-1] in _MODULES
