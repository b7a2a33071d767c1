"""How a recipe names models: mergekit's spellings, one model named in two ways, the base among the models."""

from collections.abc import Sequence
from typing import Any

from sdmw.errors import quoted
from sdmw.recipes.findings import Findings, Path, close, dotted
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import MethodGrammar
from sdmw.recipes.schema import PathShape, ReferenceShape, shaped

Entry = tuple[int, ModelRef, Any]  # its index in the recipe, its model, its parameters as they are given


def read_references(data: dict[str, Any], findings: Findings, *, ignore_unknown: bool) -> dict[Path, ModelRef]:
    """What `base_model` and each `model` refer to, by their paths in the recipe.

    mergekit's long form, `{model: {path, revision}, lora: {path, revision}}`, is replaced in `data` by the name that
    means the same, if there is one. A name alone becomes an entry with nothing but that model.
    """
    holders: list[tuple[Path, Any, str]] = [((), data, "base_model")]
    if isinstance(data.get("models"), list):
        data["models"] = [{"model": each} if isinstance(each, str) else each for each in data["models"]]
        holders += [(("models", index), entry, "model") for index, entry in enumerate(data["models"])]
    found: dict[Path, ModelRef] = {}
    for at, holder, name in holders:
        given = holder.get(name) if isinstance(holder, dict) else None
        path = (*at, name)
        if isinstance(given, str):
            found[path] = ModelRef.parse(given)
        elif isinstance(given, dict):
            found[path] = _from_long_form(given, path, findings, ignore_unknown)
            holder[name] = found[path].plain()
    return found


def _from_long_form(given: dict[str, Any], at: Path, findings: Findings, ignore_unknown: bool) -> ModelRef:
    for name in ("model", "lora"):
        if isinstance(given.get(name), str):
            alone = ModelRef.parse_alone(given[name])
            given[name] = {"path": alone.path, "revision": alone.revision}
    if given.get("override_architecture") is not None:
        findings.add((*at, "override_architecture"), "not supported yet", key=True)
    reference = shaped(ReferenceShape, given, at, findings, ignore_unknown=ignore_unknown)
    if reference is None:
        return ModelRef(dotted(at))  # unlike any other model; the faults are in `findings`
    adapter = None if reference.lora is None else _part(reference.lora)
    return ModelRef(reference.model.path, reference.model.revision, adapter)


def _part(given: PathShape) -> ModelRef:
    return ModelRef(given.path, given.revision)


def entries_of(data: dict[str, Any], references: dict[Path, ModelRef]) -> list[Entry]:
    """The models that have the shape of one, so that the rest of a recipe at fault is checked too."""
    models = data.get("models")
    return [
        (index, references[path], entry.get("parameters"))
        for index, entry in enumerate(models if isinstance(models, list) else [])
        if (path := ("models", index, "model")) in references
    ]


def check_name(path: Path, model: ModelRef, findings: Findings) -> None:
    """Add a problem if no model can have this name."""
    if "\0" in str(model):
        findings.add(path, quoted(str(model)), expected="a path or a Hub name")
    elif not all(part.path for part in model.parts):
        findings.add(path, quoted(str(model)), expected="model+adapter")
    elif any(part.revision == "" for part in model.parts):
        findings.add(path, quoted(str(model)), expected="model@revision")


def check_models(entries: list[Entry], findings: Findings) -> None:
    """Each has a name that a model can have, and none is listed twice, which would merge it with itself."""
    first: dict[tuple[str, ...], int] = {}
    names: dict[str, int] = {}
    for index, model, _ in entries:
        path, name = ("models", index, "model"), str(model)
        check_name(path, model, findings)
        if (other := first.setdefault(model.identity(), index)) != index:
            findings.add(path, quoted(name), expected="each model once", mend=f"It is models.{other} too")
        elif (other := names.setdefault(name, index)) != index:  # the long form can say `a+b` in two ways
            findings.add(path, quoted(name), expected=f"another name than that of models.{other}", mend="Rename one")


def without_base(entries: list[Entry], base: ModelRef | None, method: MethodGrammar, findings: Findings) -> list[Entry]:
    """The models that are merged; what becomes of a base that is, or is not, among `models` is noted."""
    identity = None if base is None else base.identity()
    among = [entry for entry in entries if entry[1].identity() == identity]
    if not method.needs_base and (identity is None or method.takes == "values"):
        if identity and entries and not among:
            gives = "gives config, tokenizer and names and is not merged (mergekit averages it in)"
            findings.note(f"base_model {quoted(str(base))} is not among models: it {gives}")
        return entries
    if identity is None:
        mend = f"Write base_model: {method.name} merges what the models changed of it"
        findings.add(("base_model",), "missing", mend=mend)
    for _, model, _ in among:
        findings.note(f"{quoted(str(model))} among models is base_model: its weight and other parameters are ignored")
    rest = [entry for entry in entries if entry not in among]
    if among and not rest:
        findings.add(("models",), "only the base", expected="at least one fine-tune")
    return rest


def check_count(entries: list[Entry], method: MethodGrammar, findings: Findings) -> None:
    """As many models as the method merges, the base not counted."""
    count, fewest, most = len(entries), method.fewest, method.most
    if not entries or (count >= fewest and (most is None or count <= most)):
        return
    wanted = f"exactly {fewest}" if fewest == most else f"at least {fewest}" if count < fewest else f"at most {most}"
    beside = " beside base_model" if method.takes != "values" else ""
    expected = f"{wanted} model{'s' if wanted.split()[-1] != '1' else ''}{beside}, as {method.name} merges"
    findings.add(("models",), str(count), expected=expected)


def check_weights(entries: list[Entry], top: Any, method: MethodGrammar, findings: Findings) -> None:
    """Weights that some models have and others lack have no meaning together."""
    if not any(parameter.name == "weight" and parameter.by_model for parameter in method.parameters):
        return
    lacking = [str(model) for _, model, given in entries if not (isinstance(given, dict) and "weight" in given)]
    if (isinstance(top, dict) and "weight" in top) or len(lacking) in (0, len(entries)):
        return
    shown = ", ".join(map(quoted, lacking[:10])) + (f" and {len(lacking) - 10} more" if len(lacking) > 10 else "")
    findings.add(("models",), f"none for {shown}", expected="weights for all fine-tunes or none")


FILES = ("chat_template", "generation_config")  # fields that say whose file the output has


def source_of(
    field: str,
    data: dict[str, Any],
    models: Sequence[ModelRef],
    base: ModelRef | None,
    findings: Findings,
    ignore_unknown: bool,
) -> str:
    """Whose file the output has: "base", or one of the models by its name in the recipe.

    Args:
        field: one of `FILES`.
        data: the plain tree. mergekit's `auto`, names of templates and templates are not built yet; where such a value
            is ignored it is deleted.
        models: all that the recipe lists.
        base: its `base_model`.
        findings: takes the fault.
        ignore_unknown: what is not built is no fault.
    """
    given = data.get(field, "base")
    if not isinstance(given, str) or given in ("", "base"):
        return "base"  # anything but text has been reported already
    wanted = ModelRef.parse(given).identity()
    if base is not None and wanted == base.identity():
        return "base"
    for named in (each for model in models for each in (model, *model.parts)):
        if wanted == named.identity():
            return str(named)
    if ignore_unknown:
        findings.note(f"ignored: unsupported value of {findings.name((field,))}")
        del data[field]
    else:
        names = [str(model) for model in models]
        findings.add((field,), quoted(given), expected="base, or one of models", mend=close(given, ["base", *names]))
    return "base"
