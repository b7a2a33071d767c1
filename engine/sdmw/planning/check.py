"""All that headers can tell against a merge: names, shapes, dtypes; every problem, not the first."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sdmw.checkpoints.alike import alike, once, such_as
from sdmw.checkpoints.checkpoint import Checkpoint, unmergeable
from sdmw.errors import Problem, quoted, shorten
from sdmw.planning.misnamed import change_of, rename_so, unmerged_adapter
from sdmw.recipes.recipe import Recipe
from sdmw.sizes import counted
from sdmw.tensors.dtype import DType
from sdmw.tensors.tensor import Tensor
from sdmw.views.layers import place_in_stack
from sdmw.views.part import fitting
from sdmw.views.renamed import prefix_between
from sdmw.views.stacked import Tables, layers_of, main_stack
from sdmw.views.tied import Ties
from sdmw.views.vocabulary import vocabulary_tensors

Shaped = tuple[DType, tuple[int, ...]]


def check_inputs(recipe: Recipe, tables: Tables, tied: Ties) -> list[Problem]:
    """Problems of dtype, name and shape in all inputs.

    Args:
        recipe: as loaded.
        tables: the base, whose tensors the output has, and what is merged.
        tied: their heads, which an input may lack.
    """
    base, models = tables.base, tables.models
    distinct = {checkpoint.path: checkpoint for checkpoint in (base, *models.values())}
    problems = [p for checkpoint in distinct.values() for p in shorten(unmergeable(checkpoint), checkpoint.path)]
    problems += unmerged_adapter(quoted(base.path), base, base)
    for model, checkpoint in models.items():
        if checkpoint is not base or tables.places:
            problems += _check_model(recipe, _part_of_base(tables, model), model, checkpoint, tied.heads)
    return problems


def _part_of_base(tables: Tables, model: str) -> Checkpoint:
    """The base's tensors in which a model takes part."""
    if not tables.places:
        return tables.base
    own = {name: each for name, each in tables.base.tensors.items() if model in tables.among(name)}
    return replace(tables.base, tensors=own)


def check_alike(like: Mapping[str, Shaped], origin: str, checkpoint: Checkpoint) -> list[Problem]:
    """What keeps a checkpoint from being held against others bit by bit: names, dtypes and shapes must be the same.

    Args:
        like: dtype and shape of each tensor, by name.
        origin: whose they are, as "the base".
        checkpoint: what must have the same.
    """
    names, path = checkpoint.tensors.keys(), checkpoint.path
    mend = "Give two models of one architecture, with the same vocabulary and dtype"
    differing = [
        (name, Problem(checkpoint.tensors[name].where,
                       f"{_shaped(wanted)} as in {origin}", _shaped(found), mend))
        for name, wanted in like.items()
        if name in names and (found := (checkpoint.tensors[name].dtype, checkpoint.tensors[name].shape)) != wanted
    ]  # fmt: skip
    missing = alike(name for name in like if name not in names)
    extra = alike(name for name in names if name not in like)
    kinds = (
        once(differing),
        [Problem(path, f"{such_as(each)} as in {origin}", _none(each), mend) for each in missing],
        [Problem(path, "", f"{such_as(each)} {_are(each)} not in {origin}", mend) for each in extra],
    )
    return [problem for kind in kinds for problem in shorten(kind, path)]


def _none(names: Sequence[str]) -> str:
    return "no such tensor" if len(names) == 1 else "no such tensors"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _shaped(what: Shaped) -> str:
    return f"{what[0].name} {list(what[1])}"


def _check_model(
    recipe: Recipe, base: Checkpoint, model: str, checkpoint: Checkpoint, heads: Collection[str]
) -> list[Problem]:
    missing = [name for name in base.tensors if name not in checkpoint.tensors and name not in heads]
    extra = [name for name in checkpoint.tensors if name not in base.tensors and name not in heads]
    where = f"model {quoted(model)}"
    if adapter := unmerged_adapter(where, base, checkpoint):
        return adapter
    if _are_most(missing, base):  # whatever `missing` and `extra` say: hardly anything would be merged
        return [_others(recipe, model, base, checkpoint, missing)]
    found = _differing(recipe, where, base, checkpoint)
    deeper = _beyond_the_other(base, checkpoint)
    if deeper.intersection(missing) and recipe.missing == "error":
        mend = "Merge models of the same depth, or slices of them, or write `missing: base` to take the base's values"
        found.append(_depth(where, base, checkpoint, mend))
        missing = [name for name in missing if name not in deeper]
    if deeper.intersection(extra) and recipe.extra == "error":
        mend = (
            "Merge models of the same depth, or slices of them, or write `extra: drop` to leave out the "
            "additional tensors"
        )
        found.append(_depth(where, base, checkpoint, mend))
        extra = [name for name in extra if name not in deeper]
    if missing and recipe.missing == "error":
        mend = "Write `missing: base` in the recipe to take the base's values"
        found += shorten([Problem(where, such_as(each), _none(each), mend) for each in alike(missing)], where)
    if extra and recipe.extra == "error":
        found += shorten([_more_than_the_base(where, each) for each in alike(extra)], where)
    return found


def _more_than_the_base(where: str, names: list[str]) -> Problem:
    what = "it" if len(names) == 1 else "them"
    mend = f"Write `extra: take` in the recipe to copy {what} into the output, or `extra: drop` to leave {what} out"
    return Problem(where, "", f"{such_as(names)} {_are(names)} not in the base", mend)


def _differing(recipe: Recipe, where: str, base: Checkpoint, checkpoint: Checkpoint) -> list[Problem]:
    """What keeps tensors of one name from being merged; of a model of another size the first tensor tells it."""
    common = [name for name in base.tensors if name in checkpoint.tensors]
    unlike = [name for name in common if base.tensors[name].shape != checkpoint.tensors[name].shape]
    another_size = 2 * len(unlike) > len(base.tensors) and len(unlike) > 1
    told = unlike[:1] if another_size else common
    vocabulary = vocabulary_tensors(base).keys() if unlike else ()
    each = ((name, _differs(recipe, where, base.tensors[name], checkpoint.tensors[name], vocabulary)) for name in told)
    found = shorten(once((name, problem) for name, problem in each if problem), where)
    if another_size and found:
        found[0] = replace(found[0], found=f"{found[0].found}; {len(unlike) - 1:,} other tensors differ too")
    return found


def _beyond_the_other(base: Checkpoint, checkpoint: Checkpoint) -> frozenset[str]:
    """Names in layers that one of the two has beyond the last of the other."""
    if (stack := main_stack(base)) is None or not (least := min(layers_of(each, stack) for each in (base, checkpoint))):
        return frozenset()
    names = base.tensors.keys() ^ checkpoint.tensors.keys()
    places = {name: place_in_stack(name) for name in names}
    return frozenset(name for name, place in places.items() if place and place[0] == stack and place[1] >= least)


def _depth(where: str, base: Checkpoint, checkpoint: Checkpoint, mend: str) -> Problem:
    stack = main_stack(base) or ""
    expected, found = (counted(layers_of(each, stack), "layer") for each in (base, checkpoint))
    return Problem(where, f"{expected} {quoted(stack)} as in the base", found, mend)


def _are_most(missing: Sequence[str], base: Checkpoint) -> bool:
    """Whether tensors that a model lacks are more than half of the base's, or have more than half of its parameters."""
    if 2 * len(missing) > len(base.tensors):
        return True
    elements = sum(tensor.elements for tensor in base.tensors.values())
    return 2 * sum(base.tensors[name].elements for name in missing) > elements


def _others(recipe: Recipe, model: str, base: Checkpoint, checkpoint: Checkpoint, missing: Sequence[str]) -> Problem:
    """What to say of a model that lacks many of the base's tensors.

    It has them under another prefix, is a part of what the base is, or is another.
    """
    expected = f"tensors named as in {base.path}"
    common = base.tensors.keys() & checkpoint.tensors.keys()
    found = f"{len(missing):,} of {len(base.tensors):,} are missing" if common else "no name in common"
    where = f"model {quoted(model)}"
    if prefixes := prefix_between(base.tensors.keys(), checkpoint.tensors.keys()):
        found = f"{found}, but most names match after {change_of(prefixes)}"
        return Problem(where, expected, found, rename_so(model, prefixes))
    if 2 * len(missing) <= len(base.tensors):
        found = f"{found}, and they hold more than half of the parameters"
    part = None if recipe.slices else fitting(base, checkpoint)
    return Problem(where, expected, found, f"Write into: {part}" if part else "Merge fine-tunes of one base")


def _differs(recipe: Recipe, where: str, base: Tensor, tensor: Tensor, vocabulary: Collection[str]) -> Problem | None:
    """Why a model's tensor cannot be merged with the base's; those with a row for each token may have more or less."""
    where = f"{where}, {tensor.where}"
    if base.dtype.whole and tensor.dtype.whole:
        wanted, found = _shaped((base.dtype, base.shape)), _shaped((tensor.dtype, tensor.shape))
        mend = "Such tensors are copied, not merged. Write `integers: base` in the recipe to take the base's"
        differ = wanted != found and recipe.integers == "error"
        return Problem(where, f"{wanted} as in the base", found, mend) if differ else None
    if base.shape != tensor.shape:
        mend = "Merge fine-tunes of one base"
        if base.name in vocabulary and base.shape[1:] == tensor.shape[1:]:
            mend = (
                "If this is a vocabulary, write tokenizer_source: union for the tokens of all models, "
                "or tokenizer_source: base for the base's alone"
            )
        if len(base.shape) == len(tensor.shape) == 2 and base.shape[1] == tensor.shape[1]:
            return Problem(where, f"{base.shape[0]} rows as in the base", f"{tensor.shape[0]} rows", mend)
        return Problem(where, f"shape {list(base.shape)} as in the base", f"shape {list(tensor.shape)}", mend)
    if base.dtype != tensor.dtype and not (base.dtype.merges and tensor.dtype.merges):
        mend = "F32, F16 and BF16 merge with each other; other dtypes are copied, and must be the same in all models"
        if DType.F64 in (base.dtype, tensor.dtype):
            mend = "Convert it to F32 first: F64 is copied, not merged"
        return Problem(where, f"dtype {base.dtype.name} as in the base", tensor.dtype.name, mend)
    return None
