"""What this processor can do; LLVM knows more and takes a while to load."""

from functools import cache

# Levels of x86-64, the highest first, with what Linux calls their features. Source: x86-64 psABI, section 3.1.1.
_V3 = frozenset({
    "cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3",
    "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave",
})  # fmt: skip
LEVELS = {
    "x86-64-v4": _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": _V3,
}


@cache
def description() -> tuple[str, ...]:
    """What tells processors apart for whom other code is made."""
    with open("/proc/cpuinfo") as file:
        first = file.read(1 << 14).split("\n\n")[0].splitlines()  # of the first processor, of hundreds maybe
    telling = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU", "Features")
    return tuple(line for line in first if line.startswith(telling))


def level() -> str | None:
    """The highest level of `LEVELS` that this processor has, and that the kernel lets programs use; None: no level."""
    flags = {flag for line in description() if line.startswith("flags") for flag in line.partition(":")[2].split()}
    return next((name for name, features in LEVELS.items() if features <= flags), None)
