"""Builds the plan: what each tensor comes from, how layers group them, where they go, what memory it takes."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import NoneType

from sdmw.checkpoints.checkpoint import input_folders
from sdmw.errors import PlanError, Problem, quoted, shorten
from sdmw.linux import free
from sdmw.methods.method import AnyMethod, Product, own_types
from sdmw.planning import budget, memory
from sdmw.planning.beside import Beside
from sdmw.planning.check import check_inputs
from sdmw.planning.inputs import Inputs, donor
from sdmw.planning.limits import Limits
from sdmw.planning.plan import LayerPlan, Plan, TensorPlan, output_dtype
from sdmw.planning.resolve import check_settings
from sdmw.planning.rows import Row, completed, rows
from sdmw.recipes.recipe import Recipe
from sdmw.tensors.low_rank import LowRank, factors
from sdmw.tensors.tensor import Tensor
from sdmw.views.layers import component_of, layer_of
from sdmw.views.stacked import Tables, stacked
from sdmw.views.tied import Ties, ties
from sdmw.writing import licences
from sdmw.writing.layout import ADAPTER, MODEL, Place, ShardLayout, lay_out
from sdmw.writing.target import check_target, replaced
from sdmw.writing.work_directory import standing


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asks for beside the recipe.

    Attributes:
        target: the directory to appear; None where only a plan is wanted.
        overwrite: a directory there may be replaced.
        max_shard_size: bytes of tensors in a shard.
        limits: memory and threads.
    """

    target: str | None
    overwrite: bool
    max_shard_size: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class _Part:
    """A row with what it is read from and the method's parameters.

    Attributes:
        row: the row.
        inputs: what is read, in the order in which a tile has it.
        params: the method's parameters; None where it has no say.
    """

    row: Row
    inputs: tuple[Tensor, ...]
    params: object


def build(
    recipe: Recipe,
    method: AnyMethod,
    inputs: Inputs,
    beside: Beside,
    options: Options,
    untie: frozenset[str] = frozenset(),
) -> Plan:
    """The plan, with every problem that headers, disk and memory can tell; no tensor data are touched.

    Args:
        recipe: as loaded.
        method: the recipe's.
        inputs: what it names.
        beside: the files beside the weights of a model.
        options: what the caller asks for.
        untie: heads that are written though the base ties them, because an input's differs from its embedding.
    """
    tied = ties(inputs.base, {**inputs.models, **inputs.bases})
    tables = _tables(recipe, method, inputs, tied)
    if isinstance(tables, list):
        return Plan(recipe, tuple(inputs.models), inputs.base, problems=tuple(shorten(tables)), notes=recipe.notes)
    # A head that is not stored counts as no tensor of its own where names are compared.
    problems = check_inputs(recipe, tables if recipe.slices else Tables(inputs.base, inputs.models), tied)
    unwritten = tied.unwritten(untie | _parted(recipe, tied))
    heads = [each for each in tied.stored if each.head.name in unwritten]
    product = method.product(recipe.parameters)
    wanted = rows(recipe, method, tables, unwritten)
    merged = [row for row in wanted if row.action == "merge"]
    if not merged:
        problems.append(Problem(inputs.base.path, "tensors of F32, F16 or BF16 to merge", "none"))
    layers = _layers(method.granularity(recipe.parameters), merged)
    problems += check_settings(recipe, method, layers, {row.name: row.settings for row in merged if row.settings})
    params, objections = _params(method, merged)
    problems += objections
    try:
        parts = _parts(method, wanted, params)
        if product == "adapter":
            parts, heads, layers = [*_factors(parts)], [], {}
        shards = _laid_out(recipe, parts, product, options.max_shard_size)
    except PlanError as error:
        problems += error.problems
        parts, shards = [], ()
    tensors = _placed(parts, shards)
    beside = Beside() if product == "adapter" else beside
    problems += beside.problems
    dropped = _dropped(recipe, tables, tied.heads, wanted)
    plan = Plan(
        recipe=recipe,
        models=tuple(inputs.models),
        base=inputs.base,
        checkpoints=inputs.checkpoints,
        sources=inputs.sources,
        tensors=tensors,
        layers=_numbered(method, layers, tensors),
        heads=tuple(heads),
        shards=shards,
        copied=beside.copied,
        skipped=beside.skipped,
        beside=beside.written,
        product=product,
        target=options.target,
        overwrite=options.overwrite,
        max_shard_size=options.max_shard_size,
        missing=_missing(tables, tied.heads),
        untied=tuple(sorted(tied.dropped - unwritten)),
        extra=_extra(wanted, tables),
        dropped=tuple((model, len(names)) for model, names in dropped.items()),
        absent_heads=_absent_heads(recipe, tied, wanted),
        notes=(*recipe.notes, *beside.notes, *_integers(recipe, tables)),
        warnings=(
            *beside.warnings,
            *(warning for checkpoint in inputs.checkpoints for warning in checkpoint.warnings),
            *_left_out(recipe, dropped),
            *_licences(inputs, beside.copied),
        ),
    )
    return _fitted(_with_disk(replace(plan, problems=tuple(shorten(problems))), options), method, options)


def _tables(recipe: Recipe, method: AnyMethod, inputs: Inputs, tied: Ties) -> Tables | list[Problem]:
    """The inputs under the output's names, or what is wrong with the slices."""
    whole = completed(inputs, tied)
    if not recipe.slices:
        return Tables(whole[""], {name: whole[name] for name in inputs.models})
    sources = [{entry.model for entry in each.sources} for each in recipe.slices]
    if own_types(method)[2] is not NoneType and any(each != sources[0] for each in sources):
        found = "others in some slices"
        mend = "Give every slice the same models, or choose a method that decides each tensor by itself"
        return [Problem("recipe: slices", f"the same models in all, which {method.name} weighs as wholes", found, mend)]
    return stacked(recipe.slices, whole[""], {**whole, str(donor(recipe)): whole[""]})


def _parted(recipe: Recipe, tied: Ties) -> frozenset[str]:
    """Heads that are no longer their embeddings: the last slice, whose head it is, has other models than the first."""
    ends = [[entry.model for entry in recipe.slices[place].sources] for place in (0, -1)] if recipe.slices else []
    return tied.heads if len(ends) == 2 and ends[0] != ends[1] else frozenset()


def _integers(recipe: Recipe, tables: Tables) -> Iterator[str]:
    """How many tensors of each model `integers: base` passes over."""
    if recipe.integers != "base":
        return
    own = {name for name, tensor in tables.base.tensors.items() if not tensor.dtype.merges}
    others = {name: each for name, each in tables.models.items() if each.path != tables.base.path}
    counts = {name: len(own & each.tensors.keys()) for name, each in others.items()}
    said = ", ".join(f"{count:,} of {quoted(name)}" for name, count in counts.items() if count)
    if said:
        yield f"tensors of integers and the like are the base's (`integers: base`); not read: {said}"


def _licences(inputs: Inputs, copied: Sequence[str]) -> Iterator[str]:
    folders = {name: (each.path, each.follow_links) for name, each in inputs.sources}
    if (said := licences.warning(licences.read_licences(folders), copied)) is not None:
        yield said


def _missing(tables: Tables, heads: frozenset[str]) -> tuple[tuple[str, int], ...]:
    """How many of the base's tensors each model lacks, where it lacks any; an absent head is its embedding."""
    lacking: dict[str, int] = dict.fromkeys(tables.models, 0)
    for name in tables.base.tensors.keys() - heads:
        for model in tables.among(name):
            lacking[model] += name not in tables.models[model].tensors
    return tuple((model, count) for model, count in lacking.items() if count)


def _extra(wanted: Sequence[Row], tables: Tables) -> tuple[tuple[str, int], ...]:
    """How many tensors that the base lacks are taken from each model."""
    taken = [tensor for row in wanted if row.base is None for tensor in row.models]
    counts = (
        (model, sum(checkpoint.tensors.get(tensor.name) is tensor for tensor in taken))
        for model, checkpoint in tables.models.items()
    )
    return tuple((model, count) for model, count in counts if count)


def _dropped(recipe: Recipe, tables: Tables, heads: frozenset[str], wanted: Sequence[Row]) -> dict[str, list[str]]:
    """What `extra: drop` leaves out, by model; and what `extra: take` takes from an earlier model."""
    if recipe.extra == "error":
        return {}
    taken = {id(tensor) for row in wanted if row.base is None for tensor in row.models}
    names = {
        model: sorted(
            name
            for name in checkpoint.tensors.keys() - tables.base.tensors.keys() - heads
            if id(checkpoint.tensors[name]) not in taken
        )
        for model, checkpoint in tables.models.items()
    }
    return {model: each for model, each in names.items() if each}


def _left_out(recipe: Recipe, dropped: Mapping[str, Sequence[str]]) -> Iterator[str]:
    why = "an earlier model has one" if recipe.extra == "take" else "the base has none"
    for model, names in dropped.items():
        rest = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        yield f"model {quoted(model)}: left out, since {why} of this name: {quoted(names[0])}{rest}"


def _absent_heads(recipe: Recipe, tied: Ties, wanted: Sequence[Row]) -> tuple[tuple[str, int], ...]:
    """How many of the heads that are written each input lacks, where it lacks any."""
    written = {row.name for row in wanted}
    names = {"": str(recipe.base_model)} if recipe.base_model else {}
    counts = {names.get(model, model): len(written & heads.keys()) for model, heads in tied.absent.items()}
    return tuple((model, count) for model, count in counts.items() if model and count)


def _layers(granularity: str, merged: Sequence[Row]) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = {}
    for row in merged:
        layers.setdefault(layer_of(row.name, granularity), []).append(row.name)
    return layers


def _params(method: AnyMethod, merged: Sequence[Row]) -> tuple[dict[str, object], list[Problem]]:
    """The method's parameters of each tensor, equal ones shared, and what is wrong with them."""
    shared: dict[object, object] = {}
    objections: dict[object, Problem] = {}
    params: dict[str, object] = {}
    for row in merged:
        assert row.settings is not None
        own = method.params(row.settings)
        if own not in shared:
            shared[own] = own
            if objection := method.objection(own):
                objections[own] = Problem(f"recipe: tensor {quoted(row.name)}", "", objection)
        params[row.name] = shared[own]
    return params, list(objections.values())


def _parts(method: AnyMethod, wanted: Sequence[Row], params: Mapping[str, object]) -> list[_Part]:
    """What each row is read from; PlanError where the method cannot read it so."""
    merged = [row for row in wanted if row.action == "merge"]
    arranged = method.arrange([params[row.name] for row in merged], [row.inputs for row in merged])
    read = {row.name: tuple(inputs) for row, inputs in zip(merged, arranged, strict=True)}
    return [_Part(row, read.get(row.name, row.inputs), params.get(row.name)) for row in wanted]


def _factors(parts: Sequence[_Part]) -> Iterator[_Part]:
    """The tensors of an adapter that holds the deltas of the parts."""
    known: set[str] = set()
    for part in parts:
        for tensor in part.inputs[1:]:
            if isinstance(tensor, LowRank):
                for factor in factors(tensor):
                    if factor.name in known:  # the delta of an embedding that is the head too
                        continue
                    known.add(factor.name)
                    row = Row(factor.name, factor, "convert", None, (factor,), part.row.among, part.row.depth)
                    yield _Part(row, (factor,), part.params)


def _laid_out(recipe: Recipe, parts: Sequence[_Part], product: Product, max_shard_size: int) -> tuple[ShardLayout, ...]:
    wanted = ((p.row.name, output_dtype(recipe, p.row.like.stored_as), p.row.like.shape) for p in parts)
    if product == "adapter":  # one file, which is all that peft reads
        return lay_out(wanted, sys.maxsize, ADAPTER)
    return lay_out(wanted, max_shard_size, MODEL)


def _placed(parts: Sequence[_Part], shards: Sequence[ShardLayout]) -> tuple[TensorPlan, ...]:
    places: dict[str, Place] = {place.name: place for shard in shards for place in shard.tensors}
    return tuple(
        TensorPlan(
            name=part.row.name,
            action=part.row.action,
            inputs=part.inputs,
            among=part.row.among,
            params=part.params,
            component=component_of(part.row.name),
            output=places[part.row.name],
        )
        for part in parts
        if part.row.name in places
    )


def _numbered(
    method: AnyMethod, layers: Mapping[str, list[str]], tensors: tuple[TensorPlan, ...]
) -> tuple[LayerPlan, ...]:
    numbers = {tensor.name: number for number, tensor in enumerate(tensors)}
    if not numbers:
        return ()
    return tuple(
        LayerPlan(
            layer,
            tuple(numbers[name] for name in names),
            measured=budget.is_measured(method, tensors[numbers[names[0]]].params),
        )
        for layer, names in layers.items()
    )


def _with_disk(plan: Plan, options: Options) -> Plan:
    """What the place of the output says: whether it may be written, and how much room it has."""
    place = standing(os.path.abspath(options.target)) if options.target else os.getcwd()
    problems, warnings = list(plan.problems), list(plan.warnings)
    if options.target is not None:
        found = check_target(options.target, input_folders(plan.checkpoints), plan.bytes_written, options.overwrite)
        problems += found
        if options.overwrite and not found:
            warnings += replaced(options.target, {*plan.copied, *plan.beside})
    room = free(place) or 0
    return replace(plan, free_bytes=room, problems=tuple(problems), warnings=tuple(warnings))


def _fitted(plan: Plan, method: AnyMethod, options: Options) -> Plan:
    """Threads and tile within the budget."""
    resident = memory.resident()
    demand = budget.demand_of(plan, method, resident)
    target = options.target
    output = memory.taken_by_output(target, plan.bytes_written) if target else 0
    allowed = options.limits.allowed(resident, output)
    if target and (problems := memory.check_output(target, plan.bytes_written, budget.least_peak(demand) - resident)):
        return replace(plan, problems=(*plan.problems, *problems))
    found = budget.fit(demand, allowed, options.limits.most_threads())
    if isinstance(found, Problem):
        return replace(plan, problems=(*plan.problems, found))
    problems = memory.check_output(target, plan.bytes_written, found.peak - resident) if target else []
    fitted = replace(plan, threads=found.threads, tile=found.tile, peak_bytes=found.peak)
    return replace(fitted, problems=(*plan.problems, *problems))
