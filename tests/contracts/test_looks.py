"""What every look must do: add up in any order and grouping, pickle, and take no more memory than it declares.

A look brings its worst data in SAMPLES; one that a method declares and that has none fails here.
"""

import gc
import itertools
import pickle
import random
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels.inputs import tile_of
from sdmw.kernels.bins import BINS, FIRST_NONFINITE_BIN, LOW, SMALL
from sdmw.kernels.blocks import GRAIN
from sdmw.kernels.codes import F32
from sdmw.methods import all_methods
from sdmw.planning.budget import memory_of
from sdmw.statistics import near, percentile
from sdmw.statistics.between import BetweenLook, Bounds
from sdmw.statistics.blocks import BlockSums
from sdmw.statistics.bracket import BracketLook
from sdmw.statistics.columns import ColumnsLook
from sdmw.statistics.divergence import DivergenceLook, LargestLook, PowersLook
from sdmw.statistics.gram import Gram, GramLook
from sdmw.statistics.histogram import HistogramLook
from sdmw.statistics.kept import KeptLook
from sdmw.statistics.look import Look
from sdmw.statistics.low_bits import LowBitsLook
from sdmw.statistics.ranges import EVERY_BIN, ApartLook, RangesLook
from sdmw.statistics.ranked import RankedLook, SteppedLook
from sdmw.statistics.scores import LowScoresLook, ScoresLook
from sdmw.statistics.shared import ChangesLook
from sdmw.statistics.small import SmallLook
from sdmw.statistics.squares import KeptSquaresLook
from sdmw.statistics.survey import SurveyLook
from sdmw.statistics.ties import MOST_BLOCKS, LastTakenLook, Taken, Tied, TiesLook
from sdmw.statistics.variance import LowVarianceLook, SquaresLook, VarianceLook

MODELS = 2
INFINITY = FIRST_NONFINITE_BIN << 16
REACHED = [*range(FIRST_NONFINITE_BIN + 1), *range(0x7FC0, BINS)]  # subtracting makes every NaN a quiet one


@dataclass(frozen=True)
class Sample:
    """A look and the data that make it take the most memory.

    Attributes:
        look: at MODELS models.
        patterns: of float32: what each model has where the base has zeros.
        plain: what of its statistic is the same however the data are cut.
        use: what deciding does with the statistic of a component: what it caches there is kept too.
        row: elements in a row, of which tiles are cut where the look needs whole rows.
        row_bytes: what the method takes beside of each of these, with a single model.
        apart: only the first model has the data, the others have zeros.
        two: it looks at two models, never at more or fewer.
    """

    look: Look[Any]
    patterns: NDArray[np.uint32]
    plain: Callable[[Any], Any]
    use: Callable[[Any], object]
    row: int = 1
    row_bytes: int = 0
    apart: bool = False
    two: bool = False

    @property
    def grain(self) -> int:
        """At which multiples pieces begin."""
        return self.row if self.look.whole_rows else self.look.grain


def every_bin(most: int) -> NDArray[np.uint32]:
    """Eight deltas in each bin, infinities, quiet NaNs, and as many as can be listed around the median."""
    bins = np.repeat(np.array(REACHED, np.uint32) << np.uint32(16), 8)
    low = np.tile(np.arange(8, dtype=np.uint32) * np.uint32(5000), len(REACHED))
    middle = (np.uint32(FIRST_NONFINITE_BIN // 2) << np.uint32(16)) + np.arange(most, dtype=np.uint32) % np.uint32(LOW)
    patterns = np.concatenate([np.where(bins == INFINITY, bins, bins + low), middle])
    np.random.default_rng(0).shuffle(patterns)
    return patterns


def wide_range() -> NDArray[np.uint32]:
    """Three blocks and a part of one; magnitudes from the smallest to the largest, so that sums have most digits."""
    bits = np.random.default_rng(1).integers(0, INFINITY, 3 * GRAIN + 777, np.uint32)
    bits[::1000] = INFINITY
    return bits


def finite_range() -> NDArray[np.uint32]:
    """The same less infinities."""
    patterns = wide_range()
    return np.where(patterns == INFINITY, np.uint32(1), patterns)


def usual_values() -> NDArray[np.uint32]:
    """Of a model: small, of either sign."""
    return np.random.default_rng(1).normal(0, 0.5, 3 * GRAIN + 777).astype(np.float32).view(np.uint32)


def of_variances(patterns: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Deltas of the first of two models, from which the variances are those of these patterns, or near them."""
    with np.errstate(invalid="ignore"):
        return (2 * np.sqrt(patterns.view(np.float32).astype(np.float64))).astype(np.float32).view(np.uint32)


def plain_histograms(statistic: Any) -> Any:
    return [[getattr(each, name).tolist() for name in ("bins", "counts", "low_sums")] for each in statistic]


def use_histograms(statistic: Any) -> object:
    return [(percentile.bins_to_open(each, 50.0), percentile.approximate(each, 50.0)) for each in statistic]


def plain_survey(statistic: Any) -> Any:
    models = [[getattr(each, name) for name in SCALARS] for each in statistic.models]
    arrays = [
        [
            *(getattr(each, name).tolist() for name in ARRAYS),
            [int(low) + (int(high) << 32) for low, high in each.squares.T],
        ]
        for each in statistic.models
    ]
    return models, arrays, statistic.products, statistic.conflict.tolist(), statistic.overlap.tolist()


SCALARS = ("nonfinite", "unchanged", "smallest", "largest")
ARRAYS = ("bins", "counts", "odds", "low_sums")


def plain_histogram(statistic: Any) -> Any:
    return plain_histograms([statistic])


def plain_low_bits(statistic: Any) -> Any:
    return [{place: (values.tolist(), each.counts[place].tolist()) for place, values in each.values.items()}
            for each in statistic]  # fmt: skip


def plain_ranges(statistic: Any) -> Any:
    return [[getattr(each, name).tolist() for name in ("starts", "counts", "lowest", "highest")] for each in statistic]


def steps_at(*starts: int) -> bytes:
    """Ranges from some patterns on, of which each keeps more than the one before."""
    bounds = np.linspace(0, 0xFFFFFFFF, len(starts) + 2)[1:-1]
    return np.array([starts, bounds], "<u4").tobytes()


OPEN = Bounds.of(*np.array([[0, 0x3F800000], [1 << 20, 1 << 30], [1 << 25, 1 << 31]], np.uint32))
# Both have the two bins of each model full: each low half occurs, 65,536 in all.
TWO_BINS = np.concatenate([place << np.uint32(16) | np.arange(LOW, dtype=np.uint32) for place in np.uint32([9, 17])])
SAMPLES: Mapping[str, Sample] = {
    "histogram": Sample(HistogramLook(), every_bin(100_000), plain_histograms, use_histograms),
    "histogram and list": Sample(HistogramLook((50.0,) * MODELS), every_bin(131_000), plain_histograms, use_histograms),
    "small": Sample(
        SmallLook((50.0,) * MODELS, SMALL),
        wide_range()[: SMALL // 2],  # twice in a counter
        lambda statistic: statistic,
        lambda statistic: None,
    ),
    "bracket": Sample(
        BracketLook((50.0,) * MODELS),
        every_bin(131_000),
        lambda statistic: [(each.nonzero, each.nonfinite) for each in statistic],
        use_histograms,
    ),
    "Gram matrix of deltas": Sample(GramLook(True, True), wide_range(), lambda statistic: statistic, Gram.matrix),
    "Gram matrix of values": Sample(GramLook(True, False), wide_range(), lambda statistic: statistic, Gram.matrix),
    "ties": Sample(
        TiesLook((Tied(0, 1), Tied(1, INFINITY - 1)), MOST_BLOCKS * GRAIN), wide_range(), np.ndarray.tolist, np.cumsum
    ),
    "last taken": Sample(
        LastTakenLook((Taken(Tied(0, INFINITY), 0, 4 * GRAIN, 7), Taken(Tied(1, INFINITY), 0, 4 * GRAIN, 9))),
        wide_range(),
        lambda statistic: statistic,
        lambda statistic: None,
    ),
    "kept by chance": Sample(
        KeptLook(3, (0.3, 0.9)), wide_range(), lambda statistic: statistic, lambda statistic: None
    ),
    "kept by rank": Sample(
        RankedLook(3, (0.3, 1.0), (0.2, 0.0)),
        wide_range(),
        lambda statistic: statistic,
        lambda statistic: None,
        row=13_159,
        row_bytes=20,
    ),
    "kept by step": Sample(
        SteppedLook(3, (steps_at(0, 9, 0x3F800000), b"")),
        wide_range(),
        lambda statistic: statistic,
        lambda statistic: None,
    ),
    "ranges": Sample(RangesLook((EVERY_BIN,) * MODELS), every_bin(100_000), plain_ranges, lambda statistic: None),
    "ranges apart": Sample(
        ApartLook((EVERY_BIN[:4000], EVERY_BIN)), wide_range(), plain_ranges, lambda statistic: None
    ),
    "between bounds": Sample(
        BetweenLook(3, (OPEN,) * MODELS, 1000),
        wide_range()[: GRAIN // 16],
        lambda each: [(one.tensor, one.patterns.tolist(), one.elements) for one in each],
        lambda statistic: None,
    ),
    "largest": Sample(LargestLook(), wide_range(), lambda statistic: statistic, lambda statistic: None),
    "powers": Sample(PowersLook((3.0, 0.0)), usual_values(), lambda statistic: statistic, BlockSums.numbers),
    "divergence": Sample(
        DivergenceLook((3.0, 0.0), (1e4, 2e5)), usual_values(), lambda statistic: statistic, BlockSums.numbers
    ),
    "variance": Sample(
        VarianceLook(),
        of_variances(every_bin(100_000)),
        plain_histogram,
        lambda statistic: use_histograms([statistic]),
        apart=True,
    ),
    "low bits of variances": Sample(
        LowVarianceLook(9000),
        of_variances(np.uint32(9000 << 16) | np.arange(LOW, dtype=np.uint32)),
        lambda statistic: plain_low_bits([statistic]),
        lambda statistic: None,
        apart=True,
    ),
    "squares": Sample(
        SquaresLook(0x3F800000, 70_000), wide_range(), lambda statistic: statistic, lambda statistic: None, apart=True
    ),
    "kept squares": Sample(
        KeptSquaresLook((1, 0x3F800000)), wide_range(), lambda statistic: statistic, lambda statistic: None
    ),
    "scores": Sample(
        ScoresLook(),
        finite_range(),
        lambda each: [x.tolist() for x in (each.bins, each.counts, each.low_sums)],
        lambda each: each.bins_to_open((0, 5)),
        row=13_159,
        row_bytes=16,
    ),
    "low bits of scores": Sample(
        LowScoresLook((0xA000, 0xB000, 0xC000)),
        finite_range(),
        lambda statistic: plain_low_bits([statistic]),
        lambda statistic: None,
        row=13_159,
        row_bytes=16,
    ),
    "columns": Sample(
        ColumnsLook(1 << 40, True),
        wide_range(),
        np.ndarray.tolist,
        lambda statistic: statistic.tolist(),
        apart=True,
        two=True,
    ),
    "changes": Sample(ChangesLook(1e-5), wide_range(), lambda statistic: statistic, lambda statistic: None),
    "survey": Sample(SurveyLook(), every_bin(131_000), plain_survey, lambda statistic: statistic.products.numbers()),
    "low bits": Sample(LowBitsLook(((9, 17),) * MODELS), TWO_BINS, plain_low_bits, lambda statistic: None),
}


@pytest.fixture(params=SAMPLES)
def sample(request):
    return SAMPLES[request.param]


def test_every_look_has_a_sample():
    declared = {SurveyLook, *(look for method in all_methods().values() for look in method.looks)}
    assert declared == {type(sample.look) for sample in SAMPLES.values()}


def measured(sample: Sample, patterns: NDArray[np.uint32], counter: Any = None, start: int = 0) -> Any:
    """The statistic of some data, which begin at an element of their tensor."""
    counter = counter or sample.look.counter(MODELS)
    add(sample, counter, patterns, start=start)
    return counter.result()


def add(sample: Sample, counter: Any, patterns: NDArray[np.uint32], models: int = MODELS, start: int = 0) -> None:
    arrays = arrays_of(sample, patterns, models)
    if patterns.size:
        counter.add(replace(tile_of(arrays, [F32] * (models + 1)), first=start, row=sample.row))


def arrays_of(sample: Sample, patterns: NDArray[np.uint32], models: int) -> list[NDArray[np.float32]]:
    """The base's and the models'."""
    zeros = np.zeros(patterns.size, np.float32)
    return [zeros, *(zeros if sample.apart and model else patterns.view(np.float32) for model in range(models))]


# Adding


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_parts_add_up_in_any_order_and_grouping(sample, data):
    grain = sample.grain if sample.look.ranges() is None else sample.patterns.size + 1  # ranges are never cut
    cuts = [grain * cut for cut in data.draw(st.lists(st.integers(0, sample.patterns.size // grain), max_size=5))]
    seed = data.draw(st.integers(0, 2**32))
    edges = [0, *sorted(cuts), sample.patterns.size]
    counter = sample.look.counter(MODELS)  # one for all: counting begins again after each result
    parts = [measured(sample, sample.patterns[start:stop], counter, start) for start, stop in itertools.pairwise(edges)]
    parts += [sample.look.nothing(MODELS)]
    chance = random.Random(seed)
    while len(parts) > 1:
        one, other = (parts.pop(chance.randrange(len(parts))) for _ in range(2))
        parts.append(sample.look.add(one, other))
    assert sample.plain(parts[0]) == sample.plain(measured(sample, sample.patterns))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_tiles_of_a_piece_change_nothing(sample, data):
    """They come in order, of any size."""
    row = sample.row
    cuts = sorted(row * cut for cut in data.draw(st.lists(st.integers(0, sample.patterns.size // row), max_size=5)))
    counter = sample.look.counter(MODELS)
    for start, stop in itertools.pairwise([0, *cuts, sample.patterns.size]):
        add(sample, counter, sample.patterns[start:stop], start=start)
    assert sample.plain(counter.result()) == sample.plain(measured(sample, sample.patterns))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_tiles_are_dealt_to_any_workers(sample, data):
    """But to one alone where they must come in order."""
    if sample.look.in_order:
        return
    row = sample.row
    cuts = sorted(row * cut for cut in data.draw(st.lists(st.integers(0, sample.patterns.size // row), max_size=7)))
    tiles = list(itertools.pairwise([0, *cuts, sample.patterns.size]))
    counters = [sample.look.counter(MODELS) for _ in range(3)]
    for start, stop in data.draw(st.permutations(tiles)):
        add(sample, data.draw(st.sampled_from(counters)), sample.patterns[start:stop], start=start)
    one, *others = [counter.result() for counter in counters]
    for other in others:
        one = sample.look.add(one, other)
    assert sample.plain(one) == sample.plain(measured(sample, sample.patterns))


def test_nothing_changes_nothing(sample):
    nothing, whole = sample.look.nothing(MODELS), measured(sample, sample.patterns)
    for added in (sample.look.add(nothing, whole), sample.look.add(whole, nothing)):
        assert sample.plain(added) == sample.plain(whole)
    assert sample.plain(measured(sample, sample.patterns[:0])) == sample.plain(nothing)
    assert sample.look.nonfinite(nothing) == 0


def test_adding_leaves_the_parts_as_they_are(sample):
    half = sample.patterns.size // 2 // sample.grain * sample.grain if sample.look.ranges() is None else 0
    parts = [measured(sample, sample.patterns[:half]), measured(sample, sample.patterns[half:], start=half)]
    before = [sample.plain(part) for part in parts]
    sample.look.add(*parts)
    assert [sample.plain(part) for part in parts] == before


def test_a_result_is_not_touched_by_further_counting(sample):
    counter = sample.look.counter(MODELS)
    first = measured(sample, sample.patterns, counter)
    before = sample.plain(first)
    measured(sample, sample.patterns[::2][: sample.patterns.size // 2 // sample.row * sample.row].copy(), counter)
    assert sample.plain(first) == before


def test_a_look_and_its_statistic_pickle(sample):
    look = pickle.loads(pickle.dumps(sample.look))
    assert (look, hash(look), look.memory) == (sample.look, hash(sample.look), sample.look.memory)
    whole = measured(sample, sample.patterns)
    assert sample.plain(pickle.loads(pickle.dumps(whole))) == sample.plain(whole)


def test_it_reads_models_that_there_are(sample):
    reads = sample.look.reads(MODELS)
    assert list(reads) == sorted(set(reads))
    assert set(reads) <= set(range(MODELS))


# Memory


def size_of(value: Any, seen: set[int] | None = None) -> int:
    """Bytes of a value and all that it holds, each once; what properties keep is in its `__dict__`."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, type):
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return sys.getsizeof(value) if value.base is None else size_of(value.base, seen) + sys.getsizeof(value)
    found = sys.getsizeof(value)
    if isinstance(value, Mapping):
        found += sum(size_of(key, seen) + size_of(item, seen) for key, item in value.items())
    elif isinstance(value, tuple | list):
        found += sum(size_of(item, seen) for item in value)
    elif is_dataclass(value):
        held = vars(value).values() if hasattr(value, "__dict__") else (getattr(value, f.name) for f in fields(value))
        found += sum(size_of(item, seen) for item in held)
    return found


def test_a_size_counts_what_is_held():
    array = np.zeros(1000)
    assert 8000 <= size_of((array, array[10:])) < 8500
    assert size_of({"a": (array, np.zeros(10))}) > 8080


OF_OTHERS = 8192  # bytes that others allocate meanwhile: the call of a kernel, say


def allocated(call: Callable[[], Any]) -> tuple[Any, int]:
    """What a call returns, and the most memory that it had allocated at once."""
    gc.collect()
    tracemalloc.start()
    try:
        result = call()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("models", [1, MODELS])
def test_a_counter_takes_what_it_declares(sample, models):
    """With what the kernel needs meanwhile."""
    if sample.two and models != MODELS:
        return
    look = of_models(sample.look, models)
    add(sample, look.counter(models), sample.patterns, models)  # compiles

    def count():
        counter = look.counter(models)
        for _ in range(2):
            counter.add(tile)
        return counter

    arrays = arrays_of(sample, sample.patterns, models)
    tile = replace(tile_of(arrays, [F32] * (models + 1)), row=sample.row)
    _, most = allocated(count)
    assert most <= models * look.memory.counter + sample.row * sample.row_bytes + OF_OTHERS


def of_models(look: Look[Any], models: int) -> Look[Any]:
    """The same look at as many models, each asked what the first is."""
    told = {field.name: given for field in fields(look) if isinstance(given := getattr(look, field.name), tuple)}
    return replace(look, **{name: given[:1] * models for name, given in told.items()})


def test_a_result_takes_what_it_declares(sample):
    result = measured(sample, sample.patterns)
    assert size_of(result) <= MODELS * sample.look.memory.result
    assert len(pickle.dumps(result)) <= MODELS * sample.look.memory.result


def test_what_is_kept_takes_what_it_declares(sample):
    """Of one component, added from many pieces, once it was looked into to decide."""
    kept = sample.look.nothing(MODELS)
    for _ in range(8):
        kept = sample.look.add(kept, measured(sample, sample.patterns))
        sample.use(kept)
        assert size_of(kept) <= MODELS * sample.look.memory.kept


@pytest.mark.parametrize("models", [1, MODELS, 6])
def test_adding_takes_no_more_than_one_component_beside(sample, models):
    """As `planning.budget` has it, with the looks of a whole method."""
    if sample.two and models != MODELS:
        return
    look = of_models(sample.look, models)
    counter, kept = look.counter(models), look.nothing(models)
    methods = [memory_of(method).kept for method in all_methods().values() if type(look) in method.looks]
    most_kept = min(methods, default=look.memory.kept)  # a store is measured by a look of no method
    for _ in range(3):
        add(sample, counter, sample.patterns, models)
        result = counter.result()
        kept, most = allocated(partial(look.add, kept, result))
        assert most <= models * most_kept + OF_OTHERS


def test_the_samples_are_the_worst(sample):
    """All bins hold something; lists are as long as they get; all low halves occur."""
    if not isinstance(sample.look, HistogramLook | LowBitsLook):
        return
    for each in measured(sample, sample.patterns):
        if isinstance(sample.look, HistogramLook):
            assert each.bins.tolist() == REACHED
            assert (each.near.patterns.size > 0.9 * near.MOST_OF_PIECE) == (sample.look.near is not None)
        else:
            assert all(values.size == LOW - 1 for values in each.values.values())
            assert len(each.values) == 2


@pytest.mark.parametrize("name", all_methods())
def test_a_method_takes_the_memory_of_its_looks(name):
    method = all_methods()[name]
    memory = memory_of(method)
    assert memory.kept == sum(look.memory.kept for look in method.looks)
    for look in method.looks:
        assert memory.counter >= look.memory.counter > 0
        assert memory.result >= look.memory.result > 0
