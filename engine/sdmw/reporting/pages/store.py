"""The page of a statistics store: what models changed, where, how they agree, what would be cut."""

import json
from collections.abc import Iterator
from math import sqrt
from typing import TYPE_CHECKING

from sdmw.methods.method import Facts
from sdmw.reporting.pages import charts
from sdmw.reporting.pages.evidence import evidence_of
from sdmw.reporting.pages.layers import layer_parts
from sdmw.reporting.pages.page import Code, Page, Part, Section, Table, columns_of
from sdmw.stores.evidence.numbers import Numbers, numbers_of

if TYPE_CHECKING:
    from sdmw.stores.store import Store


def page_of_store(store: "Store") -> Page:
    """The page of a store.

    Raises:
        StoreError: it is damaged.
    """
    numbers = numbers_of(store)
    told = evidence_of(numbers, {})
    tensors, elements = len(store.tensors), int(numbers.elements.sum())
    facts = (("models", f"{len(store.models):,}"), ("tensors", f"{tensors:,}"), ("elements", f"{elements:,}"),
             ("sdmw", store.version))  # fmt: skip
    return Page(
        f"What {', '.join(store.models)} changed",
        facts,
        (
            Section("What did each model change?", tuple(_models(numbers))),
            Section("Where in the model?", tuple(_where(numbers))),
            Section("Do the models agree?", told.agreement),
            Section("What would be cut?", told.cuts),
            Section("Is anything odd?", told.findings),
            Section("Which inputs were measured?", tuple(_inputs(store))),
        ),
    )


def _models(numbers: Numbers) -> Iterator[Part]:
    elements = int(numbers.elements.sum())
    nonzero, nonfinite = numbers.nonzero.sum(axis=0), numbers.nonfinite.sum(axis=0)
    swallowed = numbers.unchanged.sum(axis=0)
    rows = tuple(
        (model, numbers.norms[at], int(nonzero[at]), int(nonzero[at]) / max(1, elements), int(swallowed[at, 0]),
         int(swallowed[at, 1]), int(nonfinite[at]))
        for at, model in enumerate(numbers.store.models)
    )  # fmt: skip
    columns = columns_of(
        ("model", "model"), ("norm", "norm of its delta", "number"), ("nonzero", "elements changed", "count"),
        ("share", "share", "share"), ("bfloat16", "lost in bfloat16", "count"), ("float16", "lost in float16", "count"),
        ("nonfinite", "NaN or infinite", "count"),
    )  # fmt: skip
    yield charts.bars(
        "Norm of what each model changed",
        "models",
        "norm",
        count=len(rows),
        said="A bar for each model: its delta's norm.",
    )
    yield Table("models", "Models", columns, rows)


def _where(numbers: Numbers) -> tuple[Part, ...]:
    models = range(len(numbers.store.models))
    squares, nonzero = numbers.squares.tolist(), numbers.nonzero.tolist()
    told: dict[str, list[Facts]] = {
        tensor.name: [
            {
                "changed_share": nonzero[at][model] / max(1, tensor.elements),
                "root_mean_square": sqrt(squares[at][model] / max(1, tensor.elements)),
                "norm": sqrt(squares[at][model]),
            }
            for model in models
        ]
        for at, tensor in enumerate(numbers.store.tensors)
    }
    return layer_parts(numbers.store.models, told)


def _inputs(store: "Store") -> Iterator[Part]:
    rows = tuple(store.fingerprints.items())
    yield Table("inputs", "Fingerprints", columns_of(("model", "model"), ("fingerprint", "fingerprint")), rows)
    yield Code("The recipe that was measured", _laid_out(store.recipe))


def _laid_out(text: str) -> str:
    """JSON a field a line; a store may hold anything."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
