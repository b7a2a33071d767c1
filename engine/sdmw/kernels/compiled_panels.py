"""What Numba makes of `panels.py`: sums that stay in vector registers from the first product to the last."""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from sdmw.kernels.blocks import LANES
from sdmw.kernels.panels import ROWS, multiply_doubles, multiply_floats

_DOUBLE = ir.DoubleType()
_DOUBLES, _FLOATS = ir.VectorType(_DOUBLE, LANES), ir.VectorType(ir.FloatType(), LANES)


def _multiplied(join: Any) -> Any:
    """What compiles a product whose sums are `join(builder, factor, numbers, sum)`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, row, panels, panel, scaling, out, at, step = arguments
        left, panels, out = (
            context.make_array(signature.args[place])(context, builder, arguments[place]) for place in (0, 2, 5)
        )
        (rank,) = cgutils.unpack_tuple(builder, left.shape)[1:]
        numbers = builder.gep(panels.data, [builder.mul(panel, builder.mul(rank, _integer(LANES)))])
        together = ROWS if _has_wide_registers(context) else ROWS // 2
        for begin in range(0, ROWS, together):
            places = [_integer(number) for number in range(begin, begin + together)]
            factors = [builder.gep(left.data, [builder.mul(builder.add(row, place), rank)]) for place in places]
            sums = _summed(builder, join, factors, numbers, rank)
            for place, total in zip(places, sums, strict=True):
                rounded = builder.fptrunc(builder.fmul(_in_all_lanes(builder, scaling), total), _FLOATS)
                into = builder.gep(out.data, [builder.add(at, builder.mul(step, place))])
                builder.store(rounded, builder.bitcast(into, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return generate


def _summed(builder: Any, join: Any, factors: Any, numbers: Any, rank: Any) -> Any:
    """The sums of factor * numbers of some rows, whose factors and whose panel's numbers are at these pointers."""
    sums = [cgutils.alloca_once(builder, _DOUBLES) for _ in factors]  # in no array: registers
    for total in sums:
        builder.store(ir.Constant(_DOUBLES, [0.0] * LANES), total)
    with cgutils.for_range(builder, rank) as loop:
        place = builder.gep(numbers, [builder.mul(loop.index, _integer(LANES))])
        group = builder.load(builder.bitcast(place, _DOUBLES.as_pointer()), align=8)
        for row, total in zip(factors, sums, strict=True):
            factor = _in_all_lanes(builder, builder.load(builder.gep(row, [loop.index])))
            builder.store(join(builder, factor, group, builder.load(total)), total)
    return [builder.load(total) for total in sums]


def _has_wide_registers(context: Any) -> bool:
    """Whether the sums of all rows fit in registers: 32 of 512 bits; others hold those of half as many."""
    _, _, features = context.codegen().magic_tuple()
    return "+avx512f" in features


def _integer(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _in_all_lanes(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_DOUBLES, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    first = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_DOUBLES, ir.Undefined), first)


def _fused(builder: Any, factor: Any, numbers: Any, total: Any) -> Any:
    """One operation where the processor has it, else two."""
    kind = ir.FunctionType(_DOUBLES, [_DOUBLES] * 3)
    join = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f64")
    return builder.call(join, (factor, numbers, total))


def _apart(builder: Any, factor: Any, numbers: Any, total: Any) -> Any:
    return builder.fadd(total, builder.fmul(factor, numbers))


def _intrinsic_of(join: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(
        typing_context: Any, left: Any, row: Any, panels: Any, panel: Any, scaling: Any, out: Any, at: Any, step: Any
    ) -> Any:  # fmt: skip
        takes = left, types.intp, panels, types.intp, types.float64, out, types.intp, types.intp
        return types.void(*takes), _multiplied(join)

    return multiply


_multiply_floats, _multiply_doubles = _intrinsic_of(_fused), _intrinsic_of(_apart)


@overload(multiply_floats, strict=False)  # type: ignore[untyped-decorator]
def _compiled_multiply_floats(
    left: Any, row: Any, panels: Any, panel: Any, scaling: Any, out: Any, at: Any, step: Any
) -> Any:  # fmt: skip
    return lambda left, row, panels, panel, scaling, out, at, step: _multiply_floats(
        left, row, panels, panel, scaling, out, at, step
    )


@overload(multiply_doubles, strict=False)  # type: ignore[untyped-decorator]
def _compiled_multiply_doubles(
    left: Any, row: Any, panels: Any, panel: Any, scaling: Any, out: Any, at: Any, step: Any
) -> Any:  # fmt: skip
    return lambda left, row, panels, panel, scaling, out, at, step: _multiply_doubles(
        left, row, panels, panel, scaling, out, at, step
    )
