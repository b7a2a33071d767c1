"""Merge methods as the loader sees them, for these tests alone."""

from dataclasses import dataclass

from sdmw.recipes.recipe import Key, Parameter


@dataclass(frozen=True)
class Grammar:
    name: str
    needs_base: bool
    parameters: tuple[Parameter, ...]
    takes: str = "values"
    fewest: int = 1
    most: int | None = None


K = Parameter(
    "k", "number", 10.0, by_model=True, varies=True, same_within_layer=True, minimum=0, maximum=100, percent=True
)
WEIGHT = Parameter("weight", "number", None, by_model=True, varies=True)
LAMBDA = Parameter(
    "lambda", "number", 1.0, varies=True, choices=("preserve_norm",),
    keyed=(Key("preserve_norm", ("model", "layer")),),
)  # fmt: skip
NORMALIZATION = Parameter(
    "normalization", "choice", "linear", choices=("linear", "square"),
    keyed=(Key("power"), Key("norm", (1, 2)), Key("scope", ("model", "layer"), replaced_by=("layer", "weight"))),
)  # fmt: skip
GRANULARITY = Parameter("granularity", "choice", "tensor", choices=("tensor", "module", "block", "component", "model"))
PERCENTILE = Parameter("percentile", "choice", "exact", choices=("exact", "approximate"))

METHODS = {
    grammar.name: grammar
    for grammar in (
        Grammar("sdm_w", True, (K, WEIGHT, NORMALIZATION, GRANULARITY, PERCENTILE, LAMBDA)),
        Grammar("linear", False, (WEIGHT, Parameter("normalize", "flag", True))),
        Grammar("task_arithmetic", True, (WEIGHT, Parameter("normalize", "flag", False, varies=True), LAMBDA)),
        # What no method has yet, and the language has: one-sided ranges, a number that stands still.
        Grammar(
            "odd", False, (Parameter("low", "number", 0.0, minimum=1), Parameter("high", "number", 0.0, maximum=2))
        ),
    )
}
