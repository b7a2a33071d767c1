"""What an extraction found: how well each weight is approximated, and what was left out; and its files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sdmw import codec
from sdmw.checkpoints.formats._adapter_config import ADAPTER_CONFIG
from sdmw.planning.extraction import ExtractionPlan
from sdmw.recipes.model_ref import ModelRef
from sdmw.reporting.as_json import as_json
from sdmw.reporting.files import fingerprint
from sdmw.storage.locate import hub_id
from sdmw.version import __version__
from sdmw.writing.adapter_config import adapter_config
from sdmw.writing.card import common_license, model_card
from sdmw.writing.publication import Publication


@dataclass(frozen=True, slots=True)
class ExtractedWeight:
    """One weight.

    Attributes:
        tensor: its name.
        norm: of its delta, Frobenius.
        error: of what the adapter leaves of the delta, the same norm over the delta's: 0 is exact, 1 is nothing.
    """

    tensor: str
    norm: float
    error: float


@dataclass(frozen=True, slots=True)
class ExtractionReport:
    """What was extracted. `sdmw_report.json` has the same names but `path`.

    Attributes:
        version: of sdmw.
        path: of the adapter.
        rank: of its matrices.
        error: of all weights together, as for one.
        weights: each.
        left_out: tensors that the fine-tune changed and that are no matrices: an adapter cannot say them.
        warnings: what is odd about the place of the output.
    """

    version: str
    path: str
    rank: int
    error: float
    weights: tuple[ExtractedWeight, ...]
    left_out: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))

    def to_json(self) -> str:
        """As JSON, indented: what stands in the adapter's `sdmw_report.json`, which names no path of this machine."""
        return as_json({name: value for name, value in self.to_dict().items() if name != "path"})


def extraction_report(
    plan: ExtractionPlan, path: str, found: Sequence[tuple[str, float, float]], left_out: Sequence[str]
) -> ExtractionReport:
    """The report of a finished extraction: of each weight its name, norm and error."""
    weights = tuple(ExtractedWeight(*each) for each in found)
    whole = math.fsum(weight.norm**2 for weight in weights)
    rest = math.fsum((weight.norm * weight.error) ** 2 for weight in weights)
    error = math.sqrt(rest / whole) if whole else 0.0
    return ExtractionReport(__version__, path, plan.rank, error, weights, tuple(left_out))


def add_files(
    output: Publication, plan: ExtractionPlan, report: ExtractionReport, base: ModelRef, model: ModelRef
) -> None:
    """The config, the card and the report, into an output that is not published yet.

    Args:
        output: of the adapter.
        plan: what was extracted.
        report: what was found.
        base: as it was named.
        model: the fine-tune, as it was named.
    """
    config = adapter_config(
        base=base,
        rank=plan.rank,
        modules=[weight.module for weight in plan.weights],
        fan_in_fan_out=any(weight.transposed and not weight.embedding for weight in plan.weights),
        task_type=_task_type(plan),
    )
    output.add(ADAPTER_CONFIG, config)
    card = model_card(
        method=f"extract, rank {plan.rank}",
        base_model=str(base),
        hub_ids=[found for found in map(hub_id, (base, model)) if found],
        license=common_license([plan.base.path, plan.model.path]),
        models=[(str(model), [])],
        recipe_text=None,
        version=__version__,
        fingerprints=[("base", fingerprint(plan.base)), ("model", fingerprint(plan.model))],
        adapter=True,
    )
    output.add("README.md", card.encode())
    output.add("sdmw_report.json", report.to_json().encode())


def _task_type(plan: ExtractionPlan) -> str | None:
    """Peft's word for what transformers' class names say."""
    architectures = (plan.base.config or {}).get("architectures")
    names = architectures if isinstance(architectures, list) else []
    return "CAUSAL_LM" if any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names) else None
