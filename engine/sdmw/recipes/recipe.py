"""The recipe as data: frozen, picklable, one field for each field of the language (mergekit's, a superset)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sdmw.recipes.model_ref import ModelRef

Value = float | bool | tuple[float, ...]  # a number, a flag, or a gradient over depth of either


@dataclass(frozen=True, slots=True)
class Rule:
    """One `{filter, exclude, value}`: the value for tensors whose name contains `filter` and none of `exclude`.

    Attributes:
        filter: part of a name; None or "*" matches all.
        value: what holds.
        exclude: parts of names that it does not speak of.
        place: where the recipe says it, for people.
    """

    filter: str | None
    value: Value
    exclude: tuple[str, ...] = ()
    place: str = field(default="", compare=False)

    def matches(self, tensor: str) -> bool:
        """Whether this rule speaks of the tensor."""
        matching = self.filter is None or self.filter == "*" or self.filter in tensor
        return matching and not any(word == "*" or word in tensor for word in self.exclude)


Chosen = float | str  # what a key of a mapping form may be
Setting = tuple[Rule, ...] | str | Mapping[str, Chosen]  # rules in order; or a word; or a mapping form


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a parameter's mapping form: the `power` of `{power: 5.5}`.

    Attributes:
        name: the key.
        choices: what it may be, words or whole numbers; any finite number where there are none.
        replaced_by: a choice, and the parameter that takes its place and so may be given nowhere beside it.
    """

    name: str
    choices: tuple[str | int, ...] = ()
    replaced_by: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter that a method declares: the loader checks recipes against these.

    Attributes:
        name: as in the recipe.
        kind: "number", "flag" or "choice".
        default: what holds where no level says anything; None where there is none.
        by_model: it may also stand under a model's `parameters`.
        varies: it takes filters and gradients, and may stand under slices.
        same_within_layer: all tensors of a layer must resolve to one value (for a model, where it is `by_model`). What
            `decide_layer` reads needs it, since that is given the parameters of the layer's first tensor alone.
        minimum, maximum: the closed range of a number; also finite as float32.
        choices: the words of a choice; of a number, those that may stand in its place, at the top only.
        keyed: the keys of the mapping form of such a word, which stands at the top only; the first is compulsory.
        whole: of a number: it has no fraction.
        percent: of a number: a value below 1 is likely meant as a share, and is noted.
        required: it has no default and must be given for every tensor that is merged.
    """

    name: str
    kind: Literal["number", "flag", "choice"]
    default: float | bool | str | None
    by_model: bool = False
    varies: bool = False
    same_within_layer: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    keyed: tuple[Key, ...] = ()
    whole: bool = False
    percent: bool = False
    required: bool = False


class MethodGrammar(Protocol):
    """What the loader must know of a merge method."""

    @property
    def name(self) -> str:
        """The word in `merge_method`."""

    @property
    def needs_base(self) -> bool:
        """It reads `base_model`, which is then compulsory."""

    @property
    def takes(self) -> str:
        """What it merges: "deltas" from the base, "values", or "values and base"."""

    @property
    def fewest(self) -> int:
        """The least number of models that it merges, the base not counted."""

    @property
    def most(self) -> int | None:
        """The largest number of them; None for any."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All that it takes."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One of `models`, or a source of a slice: what it is, and what holds for it alone.

    Attributes:
        model: what it is.
        parameters: of it alone.
        layer_range: of a source, its first layer and the one behind its last.
        into: of one of `models`, the part of the base that it is merged into; empty for all of it.
        part: of one of `models`, the part of it that is merged; empty for all of it.
    """

    model: ModelRef
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    layer_range: tuple[int, int] | None = None
    into: str = ""
    part: str = ""


@dataclass(frozen=True, slots=True)
class Rename:
    """One of `rename`: what tensors of a model are called in the merge.

    Attributes:
        model: its name in the recipe.
        pattern: a regular expression (`re`) that matches the whole of a name; `from` in the recipe.
        to: the new name, with the pattern's groups.
    """

    model: str
    pattern: str
    to: str


@dataclass(frozen=True, slots=True)
class Slice:
    """Layers of the output, made from equally many of each source.

    Attributes:
        sources: what is merged, in order; once loaded, without the base where the method takes deltas from it.
        base: the source that is the base; None where there is none, or where it is merged like the others.
        parameters: of the slice, and behind them those of its module.
        base_model: instead of the recipe's.
    """

    sources: tuple[ModelEntry, ...]
    base: ModelEntry | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    base_model: ModelRef | None = None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Where models that lack a token have its row from.

    Attributes:
        token: its text.
        kind: "model": a row of one of the models; "zero"; empty where the recipe says nothing.
        model: the model, by its name in the recipe.
        other: the token of that model whose row it is, by text or number; None for the token itself.
        force: models that have the token take the row too.
    """

    token: str
    kind: Literal["", "model", "zero"] = ""
    model: str = ""
    other: str | int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of the output: what `tokenizer`, or `tokenizer_source`, asks for.

    Attributes:
        source: whose tokens they are: "base", "union" for those of all models, or a model.
        tokens: what is said of single tokens; those that the source lacks are added.
        multiple: the number of rows is a multiple of it.
    """

    source: str
    tokens: tuple[TokenRow, ...] = ()
    multiple: int = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to merge, and how.

    Built by hand with the plain values of the YAML (`models=[{"model": "./a"}]`, `parameters={"k": 10}`)
    it is checked and put in this form when it is used, exactly as a file is;
    `sdmw.recipes.load.load` does that.

    Attributes:
        merge_method: the method's name.
        models: the models to merge, in order; once loaded, without the base if the method takes deltas from it. Of a
            recipe with slices, each model once.
        slices: the sources of the layers, from the first on; empty if all models are merged layer by layer.
        base_model: the model that deltas are taken from; if the method takes none, the model whose config and tokenizer
            are used.
        parameters: the top level of parameters.
        dtype: the output dtype if `out_dtype` is absent; arithmetic is always float32.
        out_dtype: the output dtype of F16, BF16 and F32 tensors; None keeps each tensor's.
        nonfinite: how to treat NaN, infinity and overflow: as an error, or pass them on.
        missing: how to treat a tensor that a fine-tune lacks: as an error, or take the base's.
        extra: how to treat a tensor that the base lacks: as an error, take it from the first model that has it, or
            leave it out.
        integers: how to treat integers and booleans that differ in value, dtype or shape: as an error, or take the
            base's.
        rename: rules for tensor names that are not matched automatically; the first one that matches applies.
        tokenizer: the tokens of the output; None if they are the base's and all models have the same.
        chat_template: source of the output's chat template: "base", or one of the models by its name; "auto" for the
            one that most models have; the name of a format, such as "chatml"; or the template itself.
        generation_config: source of the output's generation_config.json, in the same way.
        random_seed: the seed of random methods, 0 or more.
        name: the name of its result in other documents of the file.
        documents: the documents of the file that it uses, each after those that it uses itself; if all have names, all
            others.
        text: the recipe as YAML, verbatim if it came from a file; rewritten if it was changed since.
        file: the name of that file; empty without one.
        notes: remarks of the loader, for people.
    """

    merge_method: str
    models: tuple[ModelEntry, ...] = ()
    base_model: ModelRef | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    out_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    nonfinite: Literal["error", "pass"] = "error"
    missing: Literal["error", "base"] = "error"
    extra: Literal["error", "take", "drop"] = "error"
    integers: Literal["error", "base"] = "error"
    rename: tuple[Rename, ...] = ()
    tokenizer: Vocabulary | None = None
    chat_template: str = "base"
    generation_config: str = "base"
    random_seed: int = 0
    name: str = ""
    documents: tuple["Recipe", ...] = ()
    text: str = ""
    file: str = ""
    notes: tuple[str, ...] = ()

    @property
    def donor(self) -> ModelRef:
        """The model whose config, tokenizer and files the output has."""
        of_slices = (each.base.model for each in self.slices if each.base)
        return self.base_model or next(of_slices, None) or self.models[0].model

    @property
    def bases(self) -> tuple[ModelRef, ...]:
        """What slices have as their base and none of them merges, but for the one whose config the output has."""
        others = {self.donor, *(entry.model for entry in self.models)}
        found = dict.fromkeys(each.base.model for each in self.slices if each.base)
        return tuple(reference for reference in found if reference not in others)

    @property
    def references(self) -> tuple[ModelRef, ...]:
        """All models that are read, the one whose config the output has first."""
        return (self.donor, *(entry.model for entry in self.models), *self.bases)

    @property
    def tokenizer_of(self) -> ModelRef | None:
        """The model whose tokenizer the output has; None where it has the base's, or that of all."""
        source = "base" if self.tokenizer is None else self.tokenizer.source
        return None if source in ("base", "union") else ModelRef.parse(source)

    @property
    def output_dtype(self) -> Literal["float32", "float16", "bfloat16"] | None:
        """The dtype that F16, BF16 and F32 tensors are written in; None keeps each tensor's."""
        return self.out_dtype or self.dtype


def value_of(setting: Any, tensor: str, depth: float) -> float | bool | None:
    """The number that a level's rules give a tensor, or None where they say nothing.

    Args:
        setting: a tuple of `Rule`, tried in order; None where the level does not have the parameter.
        tensor: the tensor's name.
        depth: 0 to 1, the place of its layer between the first and the last; where a gradient is read.
    """
    rule = rule_for(setting, tensor)
    if rule is None:
        return None
    return gradient_at(rule.value, depth) if isinstance(rule.value, tuple) else rule.value


def rule_for(setting: Any, tensor: str) -> Rule | None:
    """The first of a level's rules that speaks of a tensor; None where none does."""
    return next((rule for rule in setting or () if rule.matches(tensor)), None)


def gradient_at(values: tuple[float, ...], depth: float) -> float:
    """The gradient's value at a depth of 0 to 1: linear between its values, which stand at equal distances.

    One of flags is a step. Source: METHODS.md, section 6: s = t * (len - 1), (1 - f) * v[floor(s)] +
    f * v[floor(s) + 1], not clamped; of flags v[floor(s)].
    """
    place = depth * (len(values) - 1)
    index = int(place)
    share = place - index
    if index == len(values) - 1 or isinstance(values[index], bool):
        return values[index]
    return (1 - share) * values[index] + share * values[index + 1]
