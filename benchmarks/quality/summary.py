"""The three sentences that both READMEs begin with: when SDM-W is worth choosing, with numbers of results/*.json."""

import textwrap
from collections.abc import Sequence

from choosing import AVERAGE, OUTCOMES, column, take
from intervals import Difference, difference
from seeds import Measured

DOMAIN, OVERALL = OUTCOMES


def less(seeds: Sequence[Measured], pairing: str, name: str, metric: str) -> Difference:
    """One setting less the average."""
    return difference(column(seeds, pairing, name, metric), column(seeds, pairing, AVERAGE, metric))


def summary(seeds: Sequence[Measured]) -> str:
    """The words fit the results that are committed: read them again when those change."""
    linear = {metric: less(seeds, "equal", "law q=1 p=1", metric) for metric in OUTCOMES}
    preserved = less(seeds, "equal", "preserve_norm average", DOMAIN)
    scaled = take(seeds, "equal", "sum of deltas, lambda chosen", DOMAIN)
    chosen = difference(scaled.values[DOMAIN], column(seeds, "equal", AVERAGE, DOMAIN))
    lost = less(seeds, "corp third", "law q=1 p=2", "corp")
    gained = less(seeds, "corp third", "law q=1 p=2", "func")
    scales = sorted({name.rpartition("=")[2] for name in scaled.settings.values()})
    shown = " or ".join(scales) if len(scales) > 1 else scales[0]
    text = (
        f"On {len(seeds)} pairs of small experts trained for this, SDM-W as the article has it (linear weights, k = 10) "
        f"differs from plain averaging by {linear[DOMAIN]} in the mean accuracy on the experts' two domains and by "
        f"{linear[OVERALL]} on average over seven sets (95 % intervals). "
        f"The scale of the deltas matters far more than their weights: the average with its norm preserved gains "
        f"{preserved} without any evaluation, and base + λ Σ Δ with λ = {shown}, chosen on held-out questions, {chosen}. "
        f"Choose SDM-W where the experts moved unequally far and the one that moved farther counts more: with CorpLM "
        f"trained for a third, Square gives FunctionLM's domain {gained} and takes {-lost.mean:.3f} ± {lost.half_width:.3f} "
        f"from CorpLM's."
    )
    return textwrap.fill(text, 120)
