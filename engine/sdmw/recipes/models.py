"""How a recipe names models: mergekit's spellings, one model named in two ways, the base among the models."""

from collections.abc import Mapping, Sequence
from typing import Any

from sdmw.errors import quoted
from sdmw.recipes.findings import Findings, Path, close, dotted
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import MethodGrammar
from sdmw.recipes.renames import rules_of
from sdmw.recipes.schema import PathShape, ReferenceShape, shaped
from sdmw.recipes.slices import GivenSlice
from sdmw.recipes.vocabulary import tokenizer_models

Entry = tuple[Path, ModelRef, Any]  # its place in the recipe, its model, its parameters as they are given


def read_references(
    data: dict[str, Any], slices: Sequence[GivenSlice], findings: Findings, *, ignore_unknown: bool
) -> dict[Path, ModelRef]:
    """What each `base_model`, each `model` and each source of a tokenizer refer to, by their paths in the recipe.

    mergekit's long form, `{model: {path, revision}, lora: {path, revision}}`, is replaced in `data` by the name that
    means the same, if there is one.
    """
    holders: dict[Path, tuple[dict[str, Any], str]] = {("base_model",): (data, "base_model")}
    holders |= tokenizer_models(data)
    for each in slices:
        holders |= {(*at, "base_model"): (level, "base_model") for at, level in each.levels}
        holders |= {(*at, "model"): (model, "model") for at, model in each.models}
    for number, rule in enumerate(rules_of(data)):
        holders |= {("rename", number, "model"): (rule, "model")} if isinstance(rule, dict) else {}
    found: dict[Path, ModelRef] = {}
    for path, (holder, name) in holders.items():
        given = holder.get(name)
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
        findings.note(f"{findings.name((*at, 'override_architecture'))} has no effect: names decide what can be merged")
    reference = shaped(ReferenceShape, given, at, findings, ignore_unknown=ignore_unknown)
    if reference is None:
        return ModelRef(dotted(at))  # unlike any other model; the faults are in `findings`
    adapter = None if reference.lora is None else _part(reference.lora)
    return ModelRef(reference.model.path, reference.model.revision, adapter)


def _part(given: PathShape) -> ModelRef:
    return ModelRef(given.path, given.revision)


def entries_of(given: GivenSlice, references: Mapping[Path, ModelRef]) -> list[Entry]:
    """The models that have the shape of one, so that the rest of a recipe at fault is checked too."""
    return [
        (at, references[(*at, "model")], model.get("parameters"))
        for at, model in given.models
        if (*at, "model") in references
    ]


def base_of(given: GivenSlice, references: Mapping[Path, ModelRef]) -> tuple[Path, ModelRef | None]:
    """The base of a slice and its place: the slice's own, its module's, or the recipe's."""
    places = [*((*at, "base_model") for at, _ in given.levels), ("base_model",)]
    return next(((place, references[place]) for place in places if place in references), (places[-1], None))


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
    first: dict[tuple[str, ...], Path] = {}
    names: dict[str, Path] = {}
    for at, model, _ in entries:
        path, name = (*at, "model"), str(model)
        check_name(path, model, findings)
        if (other := first.setdefault(model.identity(), at)) != at:
            findings.add(path, quoted(name), expected="each model once", mend=f"It is also {dotted(other)}")
        elif (other := names.setdefault(name, at)) != at:  # the long form can say `a+b` in two ways
            findings.add(path, quoted(name), expected=f"a name other than that of {dotted(other)}", mend="Rename one")


def without_base(
    given: GivenSlice,
    entries: list[Entry],
    base: tuple[Path, ModelRef | None],
    top: Any,
    method: MethodGrammar,
    findings: Findings,
) -> tuple[list[Entry], Entry | None]:
    """The models that are merged, and the base among them; what becomes of it is noted.

    Args:
        given: the slice.
        entries: its models.
        base: its base and where that stands.
        top: the recipe's top level of parameters, as it is given.
        method: the recipe's.
        findings: takes faults and notes.
    """
    place, reference = base
    identity = None if reference is None else reference.identity()
    among = [entry for entry in entries if entry[1].identity() == identity]
    if not method.needs_base and (identity is None or method.takes == "values"):
        if reference is not None and entries and not among and not given.ranged:
            named = f"base_model {quoted(str(reference))} is not among models"
            if _takes_part(method, top):
                findings.note(f"{named}: as in mergekit, it is merged as the last model")
                return [*entries, (place, reference, None)], None
            findings.note(f"{named}: it gives config, tokenizer and names and is not merged")
        return entries, among[0] if among else None
    if identity is None:
        does = "starts from its values" if method.takes == "values and base" else "merges the changes to it"
        mend = f"Write base_model: {method.name} {does}"
        findings.add(place, "missing", mend=mend)
    elif given.ranged and entries and not among:
        mend = f"Add it to the sources, with its layer_range: {method.name} takes the base's layers from there"
        findings.add((*given.path, "sources"), f"no source of base_model {quoted(str(reference))}", mend=mend)
    for _, model, own in among:
        if own:
            findings.note(
                f"{quoted(str(model))} among models is base_model: its weight and other parameters are ignored"
            )
    rest = [entry for entry in entries if entry not in among]
    if among and not rest:
        findings.add((*given.path, "sources" if given.ranged else "models"), "only the base",
                     expected="at least one fine-tune")  # fmt: skip
    return rest, among[0] if among else None


def _takes_part(method: MethodGrammar, top: Any) -> bool:
    """Whether mergekit merges a base that is not listed: the top level gives it all that is compulsory of a model.

    Source: METHODS.md, section 1.
    """
    compulsory = [each.name for each in method.parameters if each.by_model and (each.required or each.name == "weight")]
    return method.most is None and all(isinstance(top, dict) and name in top for name in compulsory)


def check_count(
    given: GivenSlice, entries: list[Entry], base: ModelRef | None, method: MethodGrammar, findings: Findings
) -> None:
    """As many models as the method merges, the base not counted, which one of them may be meant as."""
    count, fewest, most = len(entries), method.fewest, method.most
    if not entries or (count >= fewest and (most is None or count <= most)):
        return
    wanted = f"exactly {fewest}" if fewest == most else f"at least {fewest}" if count < fewest else f"at most {most}"
    beside = " besides base_model" if method.takes != "values" else ""
    expected = f"{wanted} model{'s' if wanted.split()[-1] != '1' else ''}{beside} for {method.name}"
    names = [str(model) for _, model, _ in entries]
    meant = close(str(base), names) if base is not None and count > fewest and str(base) not in names else ""
    mend = f"base_model {quoted(str(base))} is not one of them. {meant}" if meant else ""
    findings.add((*given.path, "sources" if given.ranged else "models"), str(count), expected=expected, mend=mend)


def check_weights(given: GivenSlice, entries: list[Entry], top: Any, method: MethodGrammar, findings: Findings) -> None:
    """Weights that some models have and others lack have no meaning together."""
    if not any(parameter.name == "weight" and parameter.by_model for parameter in method.parameters):
        return
    lacking = [str(model) for _, model, own in entries if not (isinstance(own, dict) and "weight" in own)]
    above = [top, *(level.get("parameters") for _, level in given.levels)]
    if any(isinstance(each, dict) and "weight" in each for each in above) or len(lacking) in (0, len(entries)):
        return
    shown = ", ".join(map(quoted, lacking[:10])) + (f" and {len(lacking) - 10} more" if len(lacking) > 10 else "")
    place = (*given.path, "sources" if given.ranged else "models")
    findings.add(place, f"none for {shown}", expected="weights for all fine-tunes or none")


FILES = ("chat_template", "generation_config")  # fields that say whose file the output has
AUTO = "auto"  # the template that most models have
TEMPLATES = (AUTO, "alpaca", "chatml", "exaone", "llama3", "mistral")


def source_of(
    field: str,
    data: dict[str, Any],
    models: Sequence[ModelRef],
    base: ModelRef | None,
    findings: Findings,
    ignore_unknown: bool,
) -> str:
    """Whose file the output has: "base", or one of the models by its name in the recipe; or a template itself.

    Args:
        field: one of `FILES`. A chat template may also be a word of `TEMPLATES`, or Jinja text, which has a `{`.
        data: the plain tree. A value that is ignored is deleted from it.
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
    words = TEMPLATES if field == "chat_template" else ()
    if given in words or (words and "{" in given):
        return given
    if ignore_unknown:
        findings.note(f"ignored: unsupported value of {findings.name((field,))}")
        del data[field]
    else:
        names = [str(model) for model in models]
        expected = f"base, one of models, {', '.join(words)}, or a template" if words else "base, or one of models"
        findings.add((field,), quoted(given), expected=expected, mend=close(given, ["base", *names, *words]))
    return "base"
