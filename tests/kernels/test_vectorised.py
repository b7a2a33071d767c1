"""The loops that every element goes through are compiled to vector instructions, where the processor has them."""

import re

import llvmlite.binding as llvm
import numba
import pytest

from sdmw.kernels import (
    bracket,
    changed,
    compiler,  # noqa: F401  what Numba knows of our words
    divergence,
    dots,
    fusion,
    low_rank,
    survey,
    tiles,
)

FEATURES = llvm.get_host_cpu_features()
pytestmark = pytest.mark.skipif(not FEATURES.get("avx2"), reason="a processor without AVX2: nothing to look for")

SHORT, FULL = numba.uint16[::1], numba.uint32[::1]
FLOATS, BITS = numba.float32[::1], numba.uint32[::1]
ONE, DOUBLES = numba.float32, numba.float64[::1]

LOOPS = {
    "magnitudes of bfloat16": (tiles.magnitudes, (SHORT, FLOATS, numba.int64, BITS), "vsubps"),
    "magnitudes of float32": (tiles.magnitudes, (FULL, FLOATS, numba.int64, BITS), "vsubps"),
    "weighted deltas of bfloat16": (
        tiles.add_delta, (SHORT, FLOATS, numba.int64, ONE, ONE, numba.boolean, FLOATS), "vmulps",
    ),
    "weighted deltas of float32": (
        tiles.add_delta, (FULL, FLOATS, numba.int64, ONE, ONE, numba.boolean, FLOATS), "vmulps",
    ),
    "weighted models": (tiles.add_weighted, (SHORT, FLOATS, numba.int64, ONE, FLOATS), "vmulps"),
    "decoding": (tiles.decode, (numba.int64,) * 4 + (FLOATS,), "vpslld"),
    "keys of scores": (fusion.score_keys, (FLOATS, numba.int64, numba.float64, BITS), "vmulpd"),
    "powers": (divergence.to_powers, (DOUBLES, numba.int64, numba.float64), "vdivpd"),
    "terms": (divergence.to_terms, (DOUBLES, DOUBLES, numba.int64, numba.float64, numba.float64), "vdivpd"),
    "sums": (dots.add_values, (DOUBLES, numba.int64, numba.int64, DOUBLES), "vaddpd"),
    "deltas for a store": (survey.subtract, (SHORT, FLOATS, numba.int64, FLOATS, BITS, numba.int64[::1]), "vpmaxud"),
    "rounding for a store": (survey.round_to, (numba.int64, FLOATS, numba.int64, BITS), "vpaddd"),
    "opposed deltas": (survey.count_opposed, (FLOATS, FLOATS, numba.int64), "vcmp[a-z]*ps"),
    "deltas of two models": (survey.count_two, (FLOATS, FLOATS, numba.int64, numba.int64[::1]), "vcmp[a-z]*ps"),
    "sorting out bfloat16": (
        bracket.sort_out, (SHORT, FLOATS, numba.int64, numba.uint32, BITS, numba.int64[::1]), "vsubps",
    ),
    "sorting out float32": (
        bracket.sort_out, (FULL, FLOATS, numba.int64, numba.uint32, BITS, numba.int64[::1]), "vsubps",
    ),
    "sums above a bracket": (bracket.units_from, (BITS, numba.int64, numba.uint32, DOUBLES), "vcvtps2pd"),
    "what lies inside": (
        bracket.list_low, (BITS, numba.int64, BITS, numba.int64), "vpcompressd" if FEATURES["avx512f"] else "vpermd",
    ),
    "changed": (changed.changed_in, (FLOATS, FLOATS, numba.int64), "vp(cmpeq|add|sub)d"),
    "largest": (changed.largest_in, (FLOATS, FLOATS, numba.int64), "vpmaxud"),
    "encoding": (tiles.encode, (FLOATS,) + (numba.int64,) * 4, "vpaddd"),
}  # fmt: skip


FLOAT_ROWS, DOUBLE_ROWS = numba.float32[:, ::1], numba.float64[:, ::1]
PLACES = (FLOATS, numba.int64, numba.int64)


def assembly_of(kernel, arguments):
    compiled = numba.njit(nogil=True, error_model="numpy")(kernel.py_func)
    compiled.compile(arguments)
    (assembly,) = compiled.inspect_asm().values()
    return assembly


@pytest.mark.parametrize("name", LOOPS)
def test_the_loop_is_vectorised(name):
    kernel, arguments, instruction = LOOPS[name]
    assert re.search(rf"{instruction}\b.*%[yz]mm", assembly_of(kernel, arguments))


def test_nothing_is_fused():
    """A fused multiply-add rounds once where the method rounds twice."""
    for kernel, arguments, _ in LOOPS.values():
        assert not re.search(r"vfn?m(add|sub)", assembly_of(kernel, arguments))


def test_exact_products_are_fused_with_their_sums_and_no_others():
    """Those of float32 in float64: the bits are the same, in half the operations."""
    sums = (FLOATS, FLOATS, numba.int64, numba.int64, *[DOUBLES] * 3)
    for kernel, arguments in (
        (low_rank.product_of_floats, (FLOAT_ROWS, FLOAT_ROWS, numba.float64, *PLACES)),
        (dots.add_products, sums[:5]),
        (dots.add_products_of_two, sums),
    ):
        assert re.search(r"vfmadd...pd\b.*%[yz]mm", assembly_of(kernel, arguments)) or not FEATURES.get("fma")
    doubles = assembly_of(low_rank.product_of_doubles, (DOUBLE_ROWS, DOUBLE_ROWS, numba.float64, *PLACES))
    assert re.search(r"vmulpd\b.*%[yz]mm", doubles)
    assert not re.search(r"vfn?m(add|sub)", doubles)
