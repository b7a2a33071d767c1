"""What Numba makes of `lanes.py`: vectors, which LLVM does not make of such loops by itself."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from sdmw.kernels.blocks import LANES
from sdmw.kernels.lanes import (
    add_groups,
    add_pairs_of_groups,
    add_patterns_from,
    add_products_of_groups,
    raise_by_groups,
)

_FLOATS, _DOUBLES = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.DoubleType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)
_FUSED = ("contract",)  # with a product into one instruction, where there is one: exact products round as they did


def _looped(terms: Any, join: Any, count: int = 1) -> Any:
    """What compiles `lanes = join(lanes, term)` over groups, for each of so many terms.

    The arrays come first, then place and groups, then the lanes of each term.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def pointers(which: slice) -> list[Any]:
            pairs = zip(signature.args[which], arguments[which], strict=True)
            return [context.make_array(kind)(context, builder, array).data for kind, array in pairs]

        data, (at, groups) = pointers(slice(-count - 2)), arguments[-count - 2 : -count]
        into = [builder.bitcast(each, _DOUBLES.as_pointer()) for each in pointers(slice(-count, None))]
        so_far = [cgutils.alloca_once(builder, _DOUBLES) for _ in into]  # in no array: registers
        for lanes, each in zip(into, so_far, strict=True):
            builder.store(builder.load(lanes, align=8), each)
        with cgutils.for_range(builder, groups) as loop:
            place = builder.add(at, builder.mul(loop.index, context.get_constant(types.intp, LANES)))
            numbers = terms(builder, [builder.gep(each, [place]) for each in data])
            for each, number in zip(so_far, numbers, strict=True):
                builder.store(join(builder, builder.load(each), number), each)
        for lanes, each in zip(into, so_far, strict=True):
            builder.store(builder.load(each), lanes, align=8)
        return context.get_dummy_value()

    return generate


def _value(builder: Any, places: Any) -> list[Any]:
    return [builder.load(builder.bitcast(places[0], _DOUBLES.as_pointer()), align=8)]


def _doubles(builder: Any, places: Any) -> list[Any]:
    floats = [builder.load(builder.bitcast(each, _FLOATS.as_pointer()), align=4) for each in places]
    return [builder.fpext(each, _DOUBLES) for each in floats]


def _product(builder: Any, places: Any) -> list[Any]:
    return [builder.fmul(*_doubles(builder, places), flags=_FUSED)]


def _pairs(builder: Any, places: Any) -> list[Any]:
    one, other = _doubles(builder, places)
    return [builder.fmul(*pair, flags=_FUSED) for pair in ((one, one), (one, other), (other, other))]


def _sum(builder: Any, so_far: Any, numbers: Any) -> Any:
    return builder.fadd(so_far, numbers, flags=_FUSED)


def _larger(builder: Any, so_far: Any, numbers: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", numbers, so_far), numbers, so_far)


@intrinsic  # type: ignore[untyped-decorator]
def _add_patterns_from(typing_context: Any, bits: Any, at: Any, groups: Any, lowest: Any, lanes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, groups, lowest, into = arguments

        def term(builder: Any, places: Any) -> Any:
            words = builder.load(builder.bitcast(places[0], _WORDS.as_pointer()), align=4)
            one = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), lowest, ir.Constant(ir.IntType(32), 0))
            border = builder.shuffle_vector(one, ir.Constant(_WORDS, ir.Undefined), ir.Constant(_WORDS, [0] * LANES))
            kept = builder.select(builder.icmp_unsigned(">=", words, border), words, ir.Constant(_WORDS, [0] * LANES))
            return [builder.fpext(builder.bitcast(kept, _FLOATS), _DOUBLES)]

        own = types.void(bits, types.intp, types.intp, lanes)
        return _looped(term, _sum)(context, builder, own, (array, at, groups, into))

    return types.void(bits, types.intp, types.intp, types.uint32, lanes), generate


@intrinsic  # type: ignore[untyped-decorator]
def _add_groups(typing_context: Any, values: Any, at: Any, groups: Any, lanes: Any) -> Any:
    return types.void(values, types.intp, types.intp, lanes), _looped(_value, _sum)


@intrinsic  # type: ignore[untyped-decorator]
def _add_products(typing_context: Any, one: Any, other: Any, at: Any, groups: Any, lanes: Any) -> Any:
    return types.void(one, other, types.intp, types.intp, lanes), _looped(_product, _sum)


@intrinsic  # type: ignore[untyped-decorator]
def _add_pairs(
    typing_context: Any, one: Any, other: Any, at: Any, groups: Any, lanes: Any, both: Any, others: Any
) -> Any:
    return types.void(one, other, types.intp, types.intp, lanes, both, others), _looped(_pairs, _sum, 3)


@intrinsic  # type: ignore[untyped-decorator]
def _raise_by_groups(typing_context: Any, values: Any, at: Any, groups: Any, lanes: Any) -> Any:
    return types.void(values, types.intp, types.intp, lanes), _looped(_value, _larger)


@overload(add_groups, strict=False)  # type: ignore[untyped-decorator]
def _compiled_add_groups(values: Any, at: Any, groups: Any, lanes: Any) -> Any:
    return lambda values, at, groups, lanes: _add_groups(values, at, groups, lanes)


@overload(add_products_of_groups, strict=False)  # type: ignore[untyped-decorator]
def _compiled_add_products(one: Any, other: Any, at: Any, groups: Any, lanes: Any) -> Any:
    return lambda one, other, at, groups, lanes: _add_products(one, other, at, groups, lanes)


@overload(add_pairs_of_groups, strict=False)  # type: ignore[untyped-decorator]
def _compiled_add_pairs(one: Any, other: Any, at: Any, groups: Any, lanes: Any, both: Any, others: Any) -> Any:
    return lambda one, other, at, groups, lanes, both, others: _add_pairs(one, other, at, groups, lanes, both, others)


@overload(raise_by_groups, strict=False)  # type: ignore[untyped-decorator]
def _compiled_raise_by_groups(values: Any, at: Any, groups: Any, lanes: Any) -> Any:
    return lambda values, at, groups, lanes: _raise_by_groups(values, at, groups, lanes)


@overload(add_patterns_from, strict=False)  # type: ignore[untyped-decorator]
def _compiled_add_patterns_from(bits: Any, at: Any, groups: Any, lowest: Any, lanes: Any) -> Any:
    return lambda bits, at, groups, lowest, lanes: _add_patterns_from(bits, at, groups, lowest, lanes)
