"""Builds the plan: what each tensor comes from, how layers group them, where they go, what memory it takes."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sdmw.addresses import is_remote
from sdmw.checkpoints.checkpoint import input_addresses, input_folders
from sdmw.errors import PlanError, Problem, quoted, shorten
from sdmw.linux import free
from sdmw.methods import all_methods
from sdmw.methods.method import AnyMethod, Product
from sdmw.planning import budget, counts, filters, memory
from sdmw.planning.auxiliary import auxiliary
from sdmw.planning.beside import Beside
from sdmw.planning.check import check_inputs
from sdmw.planning.inputs import Inputs
from sdmw.planning.limits import Apart, Limits
from sdmw.planning.output_tokens import Vocabularies
from sdmw.planning.plan import LayerPlan, Plan, TensorPlan, output_dtype
from sdmw.planning.resolve import check_settings
from sdmw.planning.rows import Row, rows
from sdmw.planning.tables import parted, unparted, unsliced, viewed
from sdmw.planning.vocabulary_notes import ChangedConfig, changed_config, said, unknown_tokens
from sdmw.recipes.recipe import Recipe
from sdmw.tensors.low_rank import LowRank, factors
from sdmw.tensors.tensor import Tensor
from sdmw.views.layers import component_of, layer_of
from sdmw.views.stacked import Tables
from sdmw.writing import licences
from sdmw.writing.address_target import check_address, warned_of
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
        without: what the output does not get: "tokenizer", "card", "page".
    """

    target: str | None
    overwrite: bool
    max_shard_size: int
    limits: Limits
    without: frozenset[str] = frozenset()


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


def kernels_of(plan: Plan) -> tuple[str, ...]:
    """The groups of kernels that a merge needs, and the documents that it uses, beside those that every run does."""
    methods = all_methods()
    documents = (methods[document.merge_method] for document in plan.recipe.documents)
    others = (name for method in documents for name in (*method.uses, *method.may_use))
    gathered = any(recipe.tokenizer is not None for recipe in (plan.recipe, *plan.recipe.documents))
    own = budget.kernels_of(plan, methods[plan.recipe.merge_method])
    return tuple(dict.fromkeys((*own, *others, *(("rows",) if gathered else ()))))


def build(
    recipe: Recipe,
    method: AnyMethod,
    inputs: Inputs,
    beside: Beside,
    options: Options,
    untie: frozenset[str] = frozenset(),
    vocabularies: Vocabularies | None = None,
) -> Plan:
    """The plan, with every problem that headers, disk and memory can tell; no tensor data are touched.

    Args:
        recipe: as loaded.
        method: the recipe's.
        inputs: what it names.
        beside: the files beside the weights of a model.
        options: what the caller asks for.
        untie: heads that are written though the base ties them, because an input's differs from its embedding.
        vocabularies: the tokens of the output, where the recipe asks for others than the base's.
    """
    found = viewed(recipe, method, inputs, vocabularies)
    tied, tables = found.tied, found.tables
    if isinstance(tables, list):
        return Plan(recipe, tuple(inputs.models), inputs.base, problems=tuple(shorten(tables)), notes=recipe.notes)
    problems = check_inputs(recipe, found.compared, tied)
    unwritten = tied.unwritten(untie | parted(recipe, tied))
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
    tensors = _placed(method, parts, shards)
    beside = Beside() if product == "adapter" else beside.less(options.without)
    problems += beside.problems
    dropped = counts.dropped(recipe, tables, tied.heads, wanted)
    config = ChangedConfig()
    if vocabularies:
        config = changed_config(str(recipe.donor), inputs.base, vocabularies, found.resized)
    problems += config.problems
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
        tokenizer_from=beside.tokenizer_from,
        tokenizer_files=beside.tokenizer_files,
        config_changes=config.values,
        depth=tables.depth,
        product=product,
        target=options.target,
        overwrite=options.overwrite,
        max_shard_size=options.max_shard_size,
        card="card" not in options.without,
        page="page" not in options.without,
        missing=counts.missing(tables, tied.heads),
        untied=tuple(sorted(tied.dropped - unwritten)),
        extra=counts.taken(wanted, tables),
        dropped=tuple((model, len(names)) for model, names in dropped.items()),
        absent_heads=counts.absent_heads(recipe, tied, wanted),
        notes=(
            *recipe.notes,
            *inputs.notes,
            *beside.notes,
            *counts.integers(recipe, tables),
            *(said(recipe, vocabularies, found.tallies, found.spare) if vocabularies else ()),
            *_auxiliary(tables, wanted),
            *method.notes(dict.fromkeys(params.values())),
        ),
        warnings=(
            *inputs.warnings,
            *beside.warnings,
            *(warning for checkpoint in inputs.checkpoints for warning in checkpoint.warnings),
            *counts.left_out(recipe, dropped),
            *unparted(recipe, tied),
            *unsliced(recipe, tables),
            *(unknown_tokens(found.tallies) if vocabularies else ()),
            *config.warnings,
            *counts.unfollowed_keys(inputs.base, tables.depth),
            *filters.idle(recipe, _names(wanted, tables)),
            *_licences(inputs, beside.copied),
        ),
    )
    return _fitted(_with_disk(replace(plan, problems=tuple(shorten(problems))), options), method, options)


def _auxiliary(tables: Tables, wanted: Sequence[Row]) -> Iterator[str]:
    """Not where layers are stacked anew, so that none is known to lie beyond the others."""
    if tables.places:
        return iter(())
    return auxiliary(tables.base, tables.models.values(), [row.name for row in wanted])


def _names(wanted: Sequence[Row], tables: Tables) -> Iterator[str]:
    """What tensors are called in the output and in the inputs."""
    yield from (row.name for row in wanted)
    yield from (name for place in tables.places.values() for name in place.names.values())


def _licences(inputs: Inputs, copied: Sequence[str]) -> Iterator[str]:
    folders = {name: (each.path, each.follow_links) for name, each in inputs.sources}
    if (said := licences.warning(licences.read_licences(folders), copied)) is not None:
        yield said


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


def _placed(method: AnyMethod, parts: Sequence[_Part], shards: Sequence[ShardLayout]) -> tuple[TensorPlan, ...]:
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
            whole_rows=part.row.action == "merge" and method.row_bytes(part.params) is not None,
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
    target = options.target
    problems, warnings = list(plan.problems), list(plan.warnings)
    written = {*plan.copied, *plan.tokenizer_files, *plan.beside}
    read = (*plan.checkpoints, *(each for _, each in plan.sources))
    tokenizer = [plan.tokenizer_from[0]] if plan.tokenizer_from else []
    if target is not None and is_remote(target):
        found = check_address(target, [*input_addresses(read), *filter(is_remote, tokenizer)], options.overwrite)
        warnings += [] if found.problems else warned_of(target, found.names, written)
        return replace(plan, problems=(*problems, *found.problems), warnings=tuple(warnings))
    place = standing(os.path.abspath(target)) if target else os.getcwd()
    if target is not None:
        folders = [*input_folders(read), *(each for each in tokenizer if not is_remote(each))]
        wrong = check_target(target, folders, plan.bytes_written, options.overwrite)
        problems += wrong
        if options.overwrite and not wrong:
            warnings += replaced(target, written)
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
    if options.limits.apart:
        return _fitted_apart(plan, demand, resident, options.limits, options.limits.apart)
    found = budget.fit(demand, allowed, options.limits.most_threads())
    if isinstance(found, Problem):
        return replace(plan, problems=(*plan.problems, found))
    problems = memory.check_output(target, plan.bytes_written, found.peak - resident) if target else []
    fitted = replace(plan, threads=found.threads, tile=found.tile, peak_bytes=found.peak)
    return replace(fitted, problems=(*plan.problems, *problems))


def _fitted_apart(plan: Plan, demand: budget.Demand, resident: int, limits: Limits, apart: Apart) -> Plan:
    """Tile and bounds where other processes do the work: each of them, and this one, keeps within the budget."""
    threads = limits.most_threads()
    allowed = limits.budget or budget.AT_REST + budget.DEFAULT_CAP
    here, allowed_here = budget.driver_peak(demand, threads), limits.allowed(resident)
    worker = budget.of_a_worker(demand, budget.kernels_to_load(kernels_of(plan)), resident)
    found = budget.fit_tile(worker, min(allowed, apart.memory or allowed), apart.most_threads)
    problems = [] if here <= allowed_here else [budget.refusal(here, allowed_here)]
    if isinstance(found, Problem):
        return replace(plan, problems=(*plan.problems, *problems, replace(found, where="memory of a worker")))
    fitted = replace(plan, threads=threads, tile=found.tile, peak_bytes=here)
    fitted = replace(fitted, workers=apart.workers, worker_bytes=found.peak)
    return replace(fitted, problems=(*plan.problems, *problems))
