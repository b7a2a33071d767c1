"""What Numba makes of `compress.py`: one instruction a vector on AVX-512, a permutation on AVX2, else word by word."""

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.extending import intrinsic, overload

from sdmw.kernels.compress import compress

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _lanes() -> int:
    """Words in a vector of the processor that is compiled for; 0 where it has no way to compress one."""
    given, name = config.CPU_FEATURES, config.CPU_NAME
    if given is None:
        has = {} if name == "generic" else llvm.get_host_cpu_features()
    else:
        has = {feature.removeprefix("+"): True for feature in given.split(",") if feature.startswith("+")}
    if has.get("avx512f") or name == "x86-64-v4":
        return 16
    return 8 if has.get("avx2") or name in ("haswell", "x86-64-v3") else 0


@intrinsic  # type: ignore[untyped-decorator]
def _compress_group(typing_context: Any, source: Any, shift: Any, first: Any, width: Any, target: Any) -> Any:
    """Those of the words at an address that lie in the range go to another address, in order; how many they are."""
    lanes = _lanes()
    vector = ir.VectorType(_I32, lanes)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        source, shift, first, width, target = arguments

        def filled(word: Any) -> Any:
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), word, ir.Constant(_I32, 0))
            places = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), places)

        words = builder.load(builder.inttoptr(source, vector.as_pointer()), align=4)
        places = builder.sub(builder.shl(words, filled(shift)), filled(first))
        inside = builder.icmp_unsigned("<", places, filled(width))
        hits = builder.bitcast(inside, ir.IntType(lanes))
        found = _by_instruction(builder, words, inside) if lanes == 16 else _by_order(builder, words, hits)
        builder.store(found, builder.inttoptr(target, vector.as_pointer()), align=4)
        return builder.zext(builder.ctpop(hits), _I64)

    return types.int64(types.int64, types.uint32, types.uint32, types.uint32, types.int64), generate


def _by_instruction(builder: Any, words: Any, inside: Any) -> Any:
    kind = ir.FunctionType(words.type, [words.type, inside.type, words.type])
    name = f"llvm.experimental.vector.compress.v{words.type.count}i32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [words, inside, ir.Constant(words.type, ir.Undefined)])


def _by_order(builder: Any, words: Any, hits: Any) -> Any:
    """By the order for each of 256 sets of lanes: eight bytes, the numbers of those that are in it first."""
    orders = [[lane for lane in range(8) if hit >> lane & 1] for hit in range(256)]
    packed = [sum(lane << 8 * place for place, lane in enumerate(order)) for order in orders]
    table = cgutils.global_constant(builder, "compress_orders", ir.Constant(ir.ArrayType(_I64, 256), packed))
    place = builder.gep(table, [ir.Constant(_I64, 0), builder.zext(hits, _I64)])
    order = builder.load(builder.bitcast(place, ir.VectorType(_I8, 8).as_pointer()), align=8)
    vector = words.type
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector, vector]), "llvm.x86.avx2.permd"
    )
    return builder.call(function, [words, builder.zext(order, vector)])


@overload(compress, strict=False)  # type: ignore[untyped-decorator]
def _compiled_compress(words: Any, size: Any, shift: Any, first: Any, width: Any, out: Any, known: Any) -> Any:
    lanes = _lanes()

    def by_word(words: Any, size: Any, shift: Any, first: Any, width: Any, out: Any, known: Any) -> Any:
        for i in range(size):
            out[known] = words[i]
            known += np.int64(np.uint32(np.uint32(words[i] << shift) - first) < width)
        return known

    def by_vector(words: Any, size: Any, shift: Any, first: Any, width: Any, out: Any, known: Any) -> Any:
        source, target, whole = words.ctypes.data, out.ctypes.data, size - size % lanes
        for i in range(0, whole, lanes):
            known += _compress_group(source + 4 * i, shift, first, width, target + 4 * known)
        for i in range(whole, size):
            out[known] = words[i]
            known += np.int64(np.uint32(np.uint32(words[i] << shift) - first) < width)
        return known

    return by_vector if lanes else by_word
