"""The model cards of a merge and of an extraction: what they say, from plans and from the cards of the inputs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.methods import all_methods
from sdmw.planning.plan import Plan
from sdmw.recipes.model_ref import ModelRef
from sdmw.reporting.loading import loading, peft_loading
from sdmw.reporting.naming import id_of, public_name, public_names
from sdmw.reporting.report import ModelReport
from sdmw.reporting.tally import changes, not_finite, tally_of
from sdmw.version import __version__
from sdmw.writing.card import Card
from sdmw.writing.front_matter import read_front_matter
from sdmw.writing.licences import licence_of
from sdmw.writing.markdown import code_span

if TYPE_CHECKING:
    from sdmw.planning.extraction import ExtractionPlan

PLACE = "path/to/this/folder"  # of the output, for people to replace


def merge_card(plan: Plan, models: Sequence[ModelReport], nonfinite: Mapping[str, int], folder: str) -> str:
    """The card of a merge.

    Args:
        plan: what was merged.
        models: what there is to say of each.
        nonfinite: how many elements of the output are NaN or infinite, by tensor.
        folder: of the output, where its config is.
    """
    method, base = all_methods()[plan.recipe.merge_method], plan.recipe.base_model
    documents = (*plan.recipe.documents, plan.recipe)
    references = list(dict.fromkeys(reference for each in documents for reference in each.references))
    parts = {str(part): part for reference in references for part in reference.parts}
    names = public_names(references)
    facts = {model.name: list(method.describe(model.facts)) for model in models}
    told = changes(
        {names[model]: count for model, count in plan.missing}, {names[model]: count for model, count in plan.extra},
        tally_of(plan, names), plan.copied, code_span,
    )  # fmt: skip
    return Card(
        method=method.name,
        paper=method.paper,
        base_model=None if base is None else names[str(base)],
        models=[(names[name], said) for name, said in facts.items()],
        not_merged=[f"{word}: {said}" for word, said in (*told, *not_finite(nonfinite, code_span))],
        loading=_loading(folder, adapter=plan.makes_adapter),
        recipe_text=plan.recipe.text,
        version=__version__,
        adapter=plan.makes_adapter,
        **_of_inputs([(parts[name], checkpoint) for name, checkpoint in plan.sources]),
    ).markdown()


def extraction_card(plan: "ExtractionPlan", base: ModelRef, model: ModelRef) -> str:
    """The card of an adapter that was extracted.

    Args:
        plan: what was extracted.
        base: as it was named.
        model: the fine-tune, likewise.
    """
    return Card(
        method=f"extract, rank {plan.rank}",
        paper=None,
        base_model=public_name(base),
        models=[(public_name(model), [])],
        not_merged=(),
        loading=f"import peft\n\nmodel = peft.{peft_loading(repr(PLACE), merged=plan.follows)}",
        recipe_text=None,
        version=__version__,
        adapter=True,
        **_of_inputs([(base, plan.base), (model, plan.model)]),
    ).markdown()


def _loading(folder: str, *, adapter: bool) -> str:
    library = "peft" if adapter else "transformers"
    return f"import {library}\n\nmodel = {library}.{loading(folder, PLACE)}"


def _of_inputs(sources: Sequence[tuple[ModelRef, Checkpoint]]) -> Mapping[str, Any]:
    """What a card says of the inputs, the base's first: their place on the Hub, and what their own cards say."""
    cards = [
        (public_name(part), read_front_matter(checkpoint.path, follow_links=checkpoint.follow_links))
        for part, checkpoint in sources
    ]
    task = cards[0][1].get("pipeline_tag", ())
    return {
        "hub_ids": list(dict.fromkeys(found for part, _ in sources if (found := id_of(part)))),
        "revisions": [(public_name(part), each.commit) for part, each in sources if each.commit],
        "licences": [(name, licence_of(card)) for name, card in cards],
        "pipeline_tag": task[0] if len(task) == 1 else None,
        "languages": cards[0][1].get("language", ()),
        "datasets": list(dict.fromkeys(word for _, card in cards for word in card.get("datasets", ()))),
    }
