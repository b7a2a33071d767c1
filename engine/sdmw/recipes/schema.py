"""The shape of a recipe as pydantic models, and their faults in the words of our errors.

What a parameter may be depends on the method: settings.py holds that against the method's grammar.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from sdmw.recipes.findings import Findings, Path, close, described, dotted, guess

UNBUILT_DTYPES = ("float64", "int64")


def _without_torch(given: Any) -> Any:
    return given.removeprefix("torch.") if isinstance(given, str) else given


DTypeName = Annotated[Literal["float32", "float16", "bfloat16"], BeforeValidator(_without_torch)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


def _as_list(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


class RuleShape(_Shape):
    """`{filter, exclude, value}`."""

    value: Any
    filter: str | None = None
    exclude: Annotated[list[str] | None, BeforeValidator(_as_list)] = None


class PathShape(_Shape):
    """mergekit's long form of `path@revision`."""

    path: Annotated[str, Field(min_length=1)]
    revision: str | None = None


class ReferenceShape(_Shape):
    """mergekit's long form of `path@revision+adapter`."""

    model: PathShape
    lora: PathShape | None = None
    override_architecture: Any = None


def _as_name(given: Any) -> Any:
    # models.py has held the long form against ReferenceShape, and has left in the tree only what has that shape.
    return "the long form" if isinstance(given, dict) else given


Reference = Annotated[str, Field(min_length=1), BeforeValidator(_as_name)]


class EntryShape(_Shape):
    """What models and sources have in common."""

    model: Reference
    parameters: dict[str, Any] | None = None


class ModelShape(EntryShape):
    """One of `models`."""

    into: Annotated[str, Field(min_length=1)] | None = None
    part: Annotated[str, Field(min_length=1)] | None = None


class SourceShape(EntryShape):
    """One of a slice's `sources`; its range is checked elsewhere (`slices.check_ranges`)."""

    layer_range: Any = None
    residual_weight: Any = None


class SliceShape(_Shape):
    """One of `slices`."""

    sources: Annotated[list[SourceShape], Field(min_length=1)]
    base_model: Reference | None = None
    parameters: dict[str, Any] | None = None
    residual_weight: Any = None  # mergekit's, which never reads it


class ModuleShape(_Shape):
    """One of `modules`."""

    models: Annotated[list[ModelShape], Field(min_length=1)] | None = None
    slices: Annotated[list[SliceShape], Field(min_length=1)] | None = None
    base_model: Reference | None = None
    parameters: dict[str, Any] | None = None


class RenameShape(_Shape):
    """One of `rename`."""

    model: Reference
    pattern: Annotated[str, Field(alias="from", min_length=1)]
    to: Annotated[str, Field(min_length=1)]


class ZeroShape(_Shape):
    """The `source` of a token whose row is zero."""

    kind: Literal["zero"]


class ModelTokenShape(_Shape):
    """The `source` of a token whose row is that of another token."""

    kind: Literal["model_token"]
    model: Reference
    token: Annotated[str, Field(min_length=1)] | None = None
    token_id: Annotated[int, Field(ge=0, lt=2**31)] | None = None


class TokenShape(_Shape):
    """One of a tokenizer's `tokens`; its source is checked elsewhere (`vocabulary.read_vocabulary`)."""

    source: Any = None
    force: bool = False


class TokenizerShape(_Shape):
    """`tokenizer`."""

    source: Reference = "union"
    tokens: dict[str, TokenShape] | None = None
    pad_to_multiple_of: Annotated[int, Field(ge=1, le=2**20)] | None = None


class RecipeShape(_Shape):
    """The whole file."""

    merge_method: str
    name: Annotated[str, Field(min_length=1)] | None = None
    models: Annotated[list[ModelShape], Field(min_length=1)] | None = None
    slices: Annotated[list[SliceShape], Field(min_length=1)] | None = None
    modules: Annotated[dict[str, ModuleShape], Field(min_length=1)] | None = None
    base_model: Reference | None = None
    parameters: dict[str, Any] | None = None
    dtype: DTypeName | None = None
    out_dtype: DTypeName | None = None
    nonfinite: Literal["error", "pass"] = "error"
    missing: Literal["error", "base"] = "error"
    extra: Literal["error", "take", "drop"] = "error"
    integers: Literal["error", "base"] = "error"
    rename: list[RenameShape] | None = None
    tokenizer_source: Reference | None = None
    tokenizer: TokenizerShape | None = None
    chat_template: Annotated[str, Field(min_length=1)] = "base"
    generation_config: Annotated[str, Field(min_length=1)] = "base"
    random_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


Shape = TypeVar("Shape", bound=_Shape)

_LISTED: dict[str, type[_Shape]] = {
    "models": ModelShape, "rename": RenameShape, "slices": SliceShape, "sources": SourceShape, "modules": ModuleShape,
    "tokenizer": TokenizerShape, "tokens": TokenShape,
}  # fmt: skip

_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "int_type": "a whole number",
    "bool_type": "true or false",
}

_WHOLE = {
    "greater_than_equal": "a whole number from {ge}",
    "less_than": "a whole number below {lt}",
    "less_than_equal": "a whole number up to {le}",
}


def shaped(
    shape: type[Shape],
    data: dict[str, Any],
    at: Path,
    findings: Findings,
    *,
    ignore_unknown: bool,
    parameters: Collection[str] = (),
) -> Shape | None:
    """The data in its shape, or None where it does not fit; all faults go to `findings`.

    Args:
        shape: one of the models above.
        data: a plain tree. Unknown fields that are ignored are deleted from it.
        at: where in the recipe the data stands.
        findings: takes the faults, and a note for each field ignored.
        ignore_unknown: unknown fields are no faults.
        parameters: what the method takes, for a guess at a field that should stand under `parameters`.
    """
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    ignored = [fault for fault in faults if ignore_unknown and _ignorable(fault)]
    for fault in ignored:
        findings.note(f"ignored: unknown field {findings.name((*at, *fault['loc']))}")
        _delete(data, fault["loc"])
    if ignored:
        return shaped(shape, data, at, findings, ignore_unknown=True, parameters=parameters)
    for fault in faults:
        _tell(shape, fault, at, findings, parameters)
    return None


def _ignorable(fault: ErrorDetails) -> bool:
    return fault["type"] == "extra_forbidden"


def _delete(data: Any, path: Path) -> None:
    for part in path[:-1]:
        data = data[part]
    del data[path[-1]]


def _tell(shape: type[_Shape], fault: ErrorDetails, at: Path, findings: Findings, parameters: Collection[str]) -> None:
    loc, value = fault["loc"], fault["input"]
    path: Path = (*at, *loc)
    name = str(loc[-1]) if loc else ""
    match fault["type"]:
        case "extra_forbidden":
            known = _fields_around(shape, loc)
            mend = close(name, [*known, *parameters]) or guess(name, known)
            mend = "Write it under parameters" if name in parameters else mend
            in_source = len(loc) > 1 and loc[-3:-2] == ("slices",) and name in SourceShape.model_fields
            mend = "Write it in the list under sources" if in_source else mend
            findings.add(path, "unknown field", mend=mend, key=True)
        case "too_short":
            findings.add(path, described(value), expected=f"at least one {name.removesuffix('s')}")
        case "missing":
            findings.add(path, "missing", mend=f"Write {dotted(path[-1:])}")
        case "literal_error":
            _tell_choice(path, value, fault["ctx"]["expected"].replace("'", ""), findings)
        case "greater_than_equal" | "less_than" | "less_than_equal" as kind:
            findings.add(path, described(value), expected=_WHOLE[kind].format(**fault["ctx"]))
        case kind:
            mend = "Put it in quotes" if kind == "string_type" and isinstance(value, bool | int | float) else ""
            findings.add(path, described(value), expected=_EXPECTED.get(kind, fault["msg"]), mend=mend)


def _fields_around(shape: type[_Shape], loc: Path) -> Collection[str]:
    """The fields that may stand where one is unknown."""
    for part in loc[:-1]:
        shape = _LISTED.get(part, shape) if isinstance(part, str) else shape
    return [field.alias or name for name, field in shape.model_fields.items()]


def _tell_choice(path: Path, value: Any, expected: str, findings: Findings) -> None:
    if value in UNBUILT_DTYPES and path in (("dtype",), ("out_dtype",)):
        findings.add(path, f"{value} is not supported yet", mend=f"Write {expected}")
        return
    mend = close(value, expected.replace(" or ", ", ").split(", ")) if isinstance(value, str) else ""
    findings.add(path, described(value), expected=expected, mend=mend)
