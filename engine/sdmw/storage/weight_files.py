"""What a file of a model's folder is, by its name: one table for what is refused, fetched and copied. CHECKPOINT.md."""

from fnmatch import fnmatchcase
from typing import Literal

WEIGHTS = "weights"  # why what is merged is not copied
OTHER_FORM = "another form of the weights"

Format = Literal["safetensors", "pickle", "GGUF", "other"]

# Safetensors alone are read.
_SUFFIXES: dict[str, Format] = {
    ".safetensors": "safetensors",
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt"), "pickle"),
    ".gguf": "GGUF",
    **dict.fromkeys((".h5", ".msgpack", ".onnx", ".tflite", ".mlmodel", ".ot"), "other"),
}
# The same weights once more, with their indices and configs. Patterns match one path component in lower case.
_OTHER_FORMS = (
    "consolidated*", "pytorch_model[!.]*", "pytorch_model.*.*", "tf_model*", "flax_model*", "openvino_model*",
)  # fmt: skip
# In a folder of its own `pytorch_model.bin` may be all there is of a sentence transformer's module.
_OTHER_FORMS_ON_TOP = ("pytorch_model*",)
_FOLDERS_OF_OTHER_FORMS = ("original", "onnx", "openvino", "coreml")
_OTHER_PROGRAMS = ("*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.tflite", "*.mlmodel", "*.ot")
_TRAINING = ("optimizer*", "scheduler*", "rng_state*", "trainer_state.json", "training_args.bin")


def format_of(name: str) -> Format | None:
    """The format of the weights in a file; None for other files, such as an optimizer's state."""
    lower = name.lower()
    if _matches(lower, _TRAINING):
        return None
    return next((found for suffix, found in _SUFFIXES.items() if lower.endswith(suffix)), None)


def not_beside_a_merge(name: str, *, folder: bool, top: bool) -> str:
    """Why a file or folder of this name would be wrong beside merged weights; empty if it would not.

    Other weights are a part that a loader may need: speakers' voices (`spk_dict.pt`), a module of a sentence
    transformer in a folder of its own.

    Args:
        name: one component of a path.
        folder: it is a folder's.
        top: it lies in the model's own folder, of which every safetensors file is read as weights.
    """
    lower = name.lower()
    if _matches(lower, _TRAINING):
        return "state of a training run"
    forms = (*_OTHER_FORMS, *_OTHER_FORMS_ON_TOP) if top else _OTHER_FORMS
    if _matches(lower, forms) or (folder and lower in _FOLDERS_OF_OTHER_FORMS):
        return OTHER_FORM
    if _matches(lower, _OTHER_PROGRAMS):
        return "weights for another program"
    return WEIGHTS if top and format_of(lower) == "safetensors" else ""


def not_fetched() -> list[str]:
    """Patterns of the Hub's client for files that are neither read nor copied. They match whole paths, `*` any `/`."""
    suffixes = list(_OTHER_PROGRAMS)
    names = [*_OTHER_FORMS, *(f"{folder}/*" for folder in _FOLDERS_OF_OTHER_FORMS), *_TRAINING]
    return [*suffixes, *_OTHER_FORMS_ON_TOP, *names, *(f"*/{name}" for name in names)]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
