"""Layers of several models stacked anew, as `slices` name them: every input under the names of the output.

Source: METHODS.md, section 6, "slices".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.depth import Depth
from sdmw.errors import Problem, quoted, some
from sdmw.recipes.recipe import ModelEntry, Slice
from sdmw.tensors.tensor import Tensor
from sdmw.views.layers import component_of, depths, layer_index, place_in_stack, with_index

# Parts of the names of tensors that come after the layers; all else outside them comes before.
_HEADS = frozenset(
    (
        "lm_head", "embed_out", "output", "output_layer", "score", "classifier", "pre_classifier", "pooler", "cls",
        "qa_outputs", "vocab_transform", "vocab_layer_norm", "vocab_projector",
    )
)  # fmt: skip
_NORMS = frozenset(("norm", "ln_f", "norm_f", "final_layernorm", "final_layer_norm", "layer_norm"))
_OTHER_PARTS = ("vision", "visual", "image", "audio", "projector")  # of a larger model, wherever they lie


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of the output comes from.

    Attributes:
        number: of the slice.
        depth: 0 to 1, from the first layer of the slice to its last, where gradients are read.
        names: what it is called in each model that takes part, by the model's name in the recipe.
    """

    number: int
    depth: float
    names: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tables:
    """What the rows of a merge are made from: inputs that all have the output's names.

    Attributes:
        base: what the output's names, shapes and dtypes are taken from.
        models: what is merged, by name.
        places: of each tensor, where there are slices; empty where all models take part in all tensors.
        depth: how the layers lie in the base; None where they lie as they do there.
    """

    base: Checkpoint
    models: Mapping[str, Checkpoint]
    places: Mapping[str, Place] = field(default_factory=dict)
    depth: Depth | None = None

    def among(self, tensor: str) -> tuple[str, ...]:
        """The models that take part in a tensor, in the order of the recipe."""
        place = self.places.get(tensor)
        return tuple(self.models) if place is None else tuple(place.names)


def stacked(slices: Sequence[Slice], base: Checkpoint, inputs: Mapping[str, Checkpoint]) -> Tables | list[Problem]:
    """The tables of a merge in slices, or all that is wrong with the ranges.

    Args:
        slices: of the recipe, in the order of the output's layers.
        base: whose config the output has.
        inputs: every model and base of the slices, by its name in the recipe.
    """
    stack = main_stack(base)
    if stack is None:
        return [Problem(base.path, "layers to slice, named by numbers as in model.layers.0", "none")]
    problems = list(_beyond(slices, stack, inputs))
    if problems:
        return problems
    models: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    places: dict[str, Place] = {}
    for number, each in enumerate(slices):
        merged = [str(entry.model) for entry in each.sources]
        like = str((each.base or each.sources[0]).model)
        for name, place, tensors in _slice(each, number, slices, stack, inputs):
            places[name] = replace(place, names={model: place.names[model] for model in merged})
            if like in tensors:
                whole[name] = tensors[like]
            for model in merged:
                if model in tensors:
                    models.setdefault(model, {})[name] = tensors[model]
    if problems := [*_unlike(base, whole, places), *_of_other_kinds(base, stack, whole, places)]:
        return problems
    return Tables(
        replace(base, tensors=whole),
        {
            name: replace(inputs[name], tensors=models.get(name, {}))
            for name in dict.fromkeys(str(entry.model) for each in slices for entry in each.sources)
        },
        places,
        _depth(slices, stack, base),
    )


def _depth(slices: Sequence[Slice], stack: str, base: Checkpoint) -> Depth | None:
    """None where the output has the base's layers in their order."""
    ranges = (_range(_everyone(each)[0]) for each in slices)
    sources = tuple(layer for first, end in ranges for layer in range(first, end))
    before = layers_of(base, stack)
    return None if sources == tuple(range(before)) else Depth(stack, before, sources)


def main_stack(checkpoint: Checkpoint) -> str | None:
    """What stands before the number in the names of a model's layers: of several stacks, that of most elements."""
    sizes: dict[str, int] = {}
    for name, tensor in checkpoint.tensors.items():
        if place := place_in_stack(name):
            sizes[place[0]] = sizes.get(place[0], 0) + tensor.elements
    return max(sizes, key=lambda stack: sizes[stack]) if sizes else None


def layers_of(checkpoint: Checkpoint, stack: str) -> int:
    """How many layers a stack has."""
    numbers = (place[1] for name in checkpoint.tensors if (place := place_in_stack(name)) and place[0] == stack)
    return max(numbers, default=-1) + 1


def comes_after(name: str) -> bool:
    """Whether a tensor outside the layers comes after them: heads and the final norm."""
    parts = name.split(".")
    if any(word in part for word in _OTHER_PARTS for part in parts):
        return False
    if _HEADS.intersection(parts):
        return True
    return bool(_NORMS.intersection(parts)) and not any("embed" in part for part in parts)


def _beyond(slices: Sequence[Slice], stack: str, inputs: Mapping[str, Checkpoint]) -> Iterator[Problem]:
    """Ranges that lead beyond the layers of their models."""
    layers = {name: layers_of(checkpoint, stack) for name, checkpoint in inputs.items()}
    for number, each in enumerate(slices):
        for entry in _everyone(each):
            name, (first, end) = str(entry.model), _range(entry)
            if end > layers[name]:
                where = f"recipe: layer_range of model {quoted(name)} in slices.{number}"
                expected = f"at most {layers[name]} layers {quoted(stack)}, as it has"
                yield Problem(where, expected, f"[{first}, {end}]")


def _unlike(base: Checkpoint, whole: Mapping[str, Tensor], places: Mapping[str, Place]) -> Iterator[Problem]:
    """Slices of tensors that do not fit to those of the model whose config the output has: one problem for each."""
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for name, tensor in base.tensors.items():
        shapes.setdefault(component_of(name), set()).add(tensor.shape)
    told: set[int] = set()
    for name, tensor in whole.items():
        expected, number = shapes.get(component_of(name), {tensor.shape}), places[name].number
        if tensor.shape not in expected and number not in told:
            told.add(number)
            wanted = " or ".join(str(list(shape)) for shape in sorted(expected))
            mend = "Stack layers of one shape: the output has one config"
            where = f"recipe: slices.{number}, {tensor.where}"
            yield Problem(where, f"shape {wanted} as in {base.path}", f"shape {list(tensor.shape)}", mend)


def _of_other_kinds(
    base: Checkpoint, stack: str, whole: Mapping[str, Tensor], places: Mapping[str, Place]
) -> Iterator[Problem]:
    """Slices with layers whose tensors are not those of any layer in the model whose config the output has."""
    known = {frozenset(parts) for parts in _parts_of_layers(base.tensors, stack).values()}
    told: set[int] = set()
    for parts in _parts_of_layers(whole, stack).values():
        name = next(iter(parts.values()))
        if frozenset(parts) not in known and (number := places[name].number) not in told:
            told.add(number)
            near = min(known, key=lambda each: len(each ^ parts.keys()))
            less, more = sorted(near - parts.keys()), sorted(parts.keys() - near)
            differing = [f"{word} {some(names)}" for word, names in (("lacking", less), ("with", more)) if names]
            mend = "Stack layers of one kind: the output has one config"
            where = f"recipe: slices.{number}, {whole[name].origin}"
            yield Problem(where, f"layers with the same tensors as those in {base.path}", "; ".join(differing), mend)


def _parts_of_layers(names: Iterable[str], stack: str) -> dict[int, dict[str, str]]:
    """By layer: the names of its tensors by what they are called in any layer."""
    found: dict[int, dict[str, str]] = {}
    for name in names:
        if (place := place_in_stack(name)) and place[0] == stack:
            found.setdefault(place[1], {})[component_of(name)] = name
    return found


def other_stacks(base: Checkpoint) -> list[str]:
    """What stands before the number in the names of layers that slices do not speak of."""
    stacks = dict.fromkeys(place[0] for name in base.tensors if (place := place_in_stack(name)))
    return [stack for stack in stacks if stack != main_stack(base)]


def _everyone(each: Slice) -> list[ModelEntry]:
    """All sources of a slice, the base's first, where it is not merged like the others."""
    base = [each.base] if each.base is not None and each.base not in each.sources else []
    return [*base, *each.sources]


def _range(entry: ModelEntry) -> tuple[int, int]:
    assert entry.layer_range is not None  # else the recipe would not have been loaded
    return entry.layer_range


def _slice(
    each: Slice, number: int, slices: Sequence[Slice], stack: str, inputs: Mapping[str, Checkpoint]
) -> Iterator[tuple[str, Place, dict[str, Tensor]]]:
    """Every tensor of a slice under its name in the output, and what each source has in its place.

    What comes before the layers belongs to the first slice, what comes after them to the last.
    """
    sources = _everyone(each)
    before = sum(stop - start for start, stop in (_range(one.sources[0]) for one in slices[:number]))
    length = _range(sources[0])[1] - _range(sources[0])[0]
    last = number == len(slices) - 1
    found: dict[str, dict[str, Tensor]] = {}
    depth: dict[str, float] = {}
    for entry in sources:
        tensors, (first, end) = inputs[str(entry.model)].tensors, _range(entry)
        outside = depths(name for name in tensors if not _is_in(stack, name))
        for name, tensor in tensors.items():
            if (place := place_in_stack(name)) and place[0] == stack:
                if not first <= place[1] < end:
                    continue
                new = with_index(name, before + place[1] - first)
                depth[new] = (place[1] - first) / (length - 1) if length > 1 else 1.0
            elif last if comes_after(name) else number == 0:
                new = name
                depth[new] = outside[name]
            else:
                continue
            found.setdefault(new, {})[str(entry.model)] = tensor

    def called(name: str) -> dict[str, str]:
        """The name in each source."""
        if not _is_in(stack, name):
            return {str(entry.model): name for entry in sources}
        index = (layer_index(name) or 0) - before
        return {str(entry.model): with_index(name, _range(entry)[0] + index) for entry in sources}

    for name, tensors in found.items():
        yield name, Place(number, depth[name], called(name)), tensors


def _is_in(stack: str, name: str) -> bool:
    """Whether a tensor lies in a layer of a stack."""
    place = place_in_stack(name)
    return place is not None and place[0] == stack
