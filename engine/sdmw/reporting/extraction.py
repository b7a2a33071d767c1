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
from sdmw.reporting.cards import extraction_card
from sdmw.sizes import counted
from sdmw.version import __version__
from sdmw.writing.adapter_config import adapter_config
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
class LeftOut:
    """A tensor that the fine-tune changed and the adapter does not have.

    Attributes:
        tensor: its name.
        norm: of its delta, Frobenius; 0 for integers.
        why: what such tensors are, in the plural.
    """

    tensor: str
    norm: float
    why: str


@dataclass(frozen=True, slots=True)
class ExtractionReport:
    """The result of an extraction. `sdmw_report.json` has the same names but `path`.

    Attributes:
        version: of sdmw.
        path: of the adapter.
        rank: of its matrices.
        error: of all weights in the adapter together, as for one.
        left_out_share: norm of the deltas that were left out, over that of the whole delta.
        whole_error: the part of the whole delta that the adapter lacks: left out, or beyond the rank; as for one
            weight.
        weights: each.
        left_out: tensors that the fine-tune changed and for which peft has no matrices.
        notes: remarks for users of the adapter.
        follows: whether the head is the embedding, so that only a merged adapter changes both: see the note.
        warnings: on licences, and on the place of the output.
    """

    version: str
    path: str
    rank: int
    error: float
    left_out_share: float
    whole_error: float
    weights: tuple[ExtractedWeight, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    follows: bool
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        found = f"rank {self.rank}, {counted(len(self.weights), 'weight')}, error {self.error:.2%}"
        return f"ExtractionReport({self.path!r}, {found}, {len(self.left_out):,} left out)"

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return cast("dict[str, Any]", codec.encode(self))

    def to_json(self) -> str:
        """As JSON, indented: what stands in the adapter's `sdmw_report.json`, which names no path of this machine."""
        return as_json({name: value for name, value in self.to_dict().items() if name != "path"})


def extraction_report(
    plan: ExtractionPlan,
    path: str,
    found: Sequence[tuple[str, float, float]],
    left_out: Sequence[tuple[str, float, str]],
) -> ExtractionReport:
    """The report of a finished extraction.

    Args:
        plan: what was extracted.
        path: of the adapter.
        found: of each weight its name, norm and error.
        left_out: of each other tensor that changed its name, norm and kind.
    """
    weights = tuple(ExtractedWeight(*each) for each in found)
    rest = tuple(LeftOut(*each) for each in left_out)
    held = math.hypot(*(weight.norm for weight in weights))
    lost = math.hypot(*(weight.norm * weight.error for weight in weights))
    outside = math.hypot(*(each.norm for each in rest))
    whole = math.hypot(held, outside)
    return ExtractionReport(
        version=__version__,
        path=path,
        rank=plan.rank,
        error=_share(lost, held),
        left_out_share=_share(outside, whole),
        whole_error=_share(math.hypot(lost, outside), whole),
        weights=weights,
        left_out=rest,
        notes=plan.notes,
        follows=plan.follows,
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


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
    card = extraction_card(plan, base, model)
    output.add("README.md", card.encode())
    output.add("sdmw_report.json", report.to_json().encode())


def _task_type(plan: ExtractionPlan) -> str | None:
    """Peft's word for what transformers' class names say."""
    architectures = (plan.base.config or {}).get("architectures")
    names = architectures if isinstance(architectures, list) else []
    return "CAUSAL_LM" if any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names) else None
