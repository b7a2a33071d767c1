"""How a recipe names models: mergekit's spellings, one model named in two ways, the base among the models."""

import os
from typing import Any

from sdmw.errors import quoted
from sdmw.recipes.findings import Findings, Path, dotted
from sdmw.recipes.recipe import MethodGrammar
from sdmw.recipes.schema import ReferenceShape, shaped

Entry = tuple[int, str, Any]  # its index in the recipe, its model, its parameters as they are given


def shorten_references(data: dict[str, Any], findings: Findings, *, ignore_unknown: bool) -> None:
    """Put mergekit's long form, `{model: {path, revision}, lora: {path}}`, as `path@revision+path`, in place."""
    holders: list[tuple[Path, Any, str]] = [((), data, "base_model")]
    if isinstance(data.get("models"), list):
        holders += [(("models", index), entry, "model") for index, entry in enumerate(data["models"])]
    for at, holder, name in holders:
        if isinstance(holder, dict) and isinstance(holder.get(name), dict):
            holder[name] = _shortened(holder[name], (*at, name), findings, ignore_unknown)


def _shortened(given: dict[str, Any], at: Path, findings: Findings, ignore_unknown: bool) -> str:
    if isinstance(given.get("model"), str):
        given["model"] = {"path": given["model"]}
    if isinstance(given.get("lora"), str):
        given["lora"] = {"path": given["lora"]}
    if given.get("override_architecture") is not None:
        findings.add((*at, "override_architecture"), "not supported yet", key=True)
    reference = shaped(ReferenceShape, given, at, findings, ignore_unknown=ignore_unknown)
    if reference is None:
        return dotted(at)  # some text, unlike any other model's: what is wrong has been told
    parts = [reference.model, *([reference.lora] if reference.lora else [])]
    return "+".join(f"{part.path}@{part.revision}" if part.revision else part.path for part in parts)


def entries_of(data: dict[str, Any]) -> list[Entry]:
    """The models that have the shape of one, so that the rest of a recipe at fault is checked too."""
    models = data.get("models")
    return [
        (index, entry["model"], entry.get("parameters"))
        for index, entry in enumerate(models if isinstance(models, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("model"), str)
    ]


def check_name(path: Path, model: Any, findings: Findings) -> None:
    """What a model cannot be called."""
    if not isinstance(model, str):
        return
    if "\0" in model:
        findings.add(path, quoted(model), expected="a path or a Hub name")
    elif "+" in model and not _is_directory(model) and not all(model.split("+", 1)):
        findings.add(path, quoted(model), expected="model+adapter")


def check_models(entries: list[Entry], findings: Findings) -> None:
    """Each has a name that a model can have, and none is listed twice, which would merge it with itself."""
    first: dict[tuple[str, ...], int] = {}
    for index, model, _ in entries:
        check_name(("models", index, "model"), model, findings)
        other = first.setdefault(_identity(model), index)
        if other != index:
            mend = f"It is models.{other} too"
            findings.add(("models", index, "model"), quoted(model), expected="each model once", mend=mend)


def without_base(entries: list[Entry], base: Any, method: MethodGrammar, findings: Findings) -> list[Entry]:
    """The models that are merged; what becomes of a base that is, or is not, among `models` is noted."""
    identity = _identity(base) if isinstance(base, str) else None
    among = [entry for entry in entries if _identity(entry[1]) == identity]
    if not method.needs_base:
        if identity and entries and not among:
            gives = "gives config, tokenizer and names and is not merged (mergekit averages it in)"
            findings.note(f"base_model {quoted(base)} is not among models: it {gives}")
        return entries
    if identity is None:
        mend = f"Write base_model: {method.name} merges what the models changed of it"
        findings.add(("base_model",), "missing", mend=mend)
    for _, model, _ in among:
        findings.note(f"{quoted(model)} among models is base_model: its weight and other parameters are ignored")
    rest = [entry for entry in entries if entry not in among]
    if among and not rest:
        findings.add(("models",), "only the base", expected="at least one fine-tune")
    return rest


def check_weights(entries: list[Entry], top: Any, method: MethodGrammar, findings: Findings) -> None:
    """Weights that some models have and others lack have no meaning together."""
    if not any(parameter.name == "weight" and parameter.by_model for parameter in method.parameters):
        return
    lacking = [model for _, model, given in entries if not (isinstance(given, dict) and "weight" in given)]
    if (isinstance(top, dict) and "weight" in top) or len(lacking) in (0, len(entries)):
        return
    shown = ", ".join(map(quoted, lacking[:10])) + (f" and {len(lacking) - 10} more" if len(lacking) > 10 else "")
    findings.add(("models",), f"none for {shown}", expected="weights for all fine-tunes or none")


def _parts(model: str) -> tuple[str, str]:
    """The path and the revision of `path@revision`; a directory may have an @ in its name."""
    if _is_directory(model):
        return model, ""
    path, _, revision = model.partition("@")
    return path, revision


def _is_directory(path: str) -> bool:
    return os.path.isdir(os.path.expanduser(path))


def _identity(model: str) -> tuple[str, ...]:
    """What is equal where two names mean one model."""
    parts = [model] if _is_directory(model) else model.split("+", 1)
    return tuple(piece for part in parts for piece in _resolved(*_parts(part)))


def _resolved(path: str, revision: str) -> tuple[str, str]:
    try:
        return os.path.realpath(os.path.expanduser(path)), revision
    except (OSError, ValueError):  # a NUL in the name, no working directory: the name itself must do
        return path, revision
