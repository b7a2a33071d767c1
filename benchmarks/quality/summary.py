"""The three sentences that both READMEs begin with: when SDM-W is worth choosing, with numbers of results/*.json."""

import textwrap
from collections.abc import Sequence

from choosing import AVERAGE, OUTCOMES, column, take
from intervals import Difference, difference
from seeds import Measured

DOMAIN = OUTCOMES[0]


def less(seeds: Sequence[Measured], pairing: str, name: str, metric: str) -> Difference:
    """One setting less the average."""
    return difference(column(seeds, pairing, name, metric), column(seeds, pairing, AVERAGE, metric))


def summary(seeds: Sequence[Measured]) -> str:
    """The words fit the results that are committed: read them again when those change."""
    linear = less(seeds, "equal", "law q=1 p=1", DOMAIN)
    preserved = less(seeds, "equal", "preserve_norm average", DOMAIN)
    scaled = take(seeds, "equal", "sum of deltas, lambda chosen", DOMAIN)
    chosen = difference(scaled.values[DOMAIN], column(seeds, "equal", AVERAGE, DOMAIN))
    mean, gained, lost = (less(seeds, "corp third", "law q=1 p=1", each) for each in (DOMAIN, "func", "corp"))
    scales = sorted({float(name.rpartition("=")[2]) for name in scaled.settings.values()})
    span = " to ".join(f"{each:g}" for each in sorted({scales[0], scales[-1]}))
    noise = "within" if abs(linear.mean) < linear.half_width else "beyond"
    text = (
        f"On {len(seeds)} pairs of small experts SDM-W with the article's settings (Linear, k = 10) differs from plain "
        f"averaging by {linear} in the mean accuracy of both domains (95 %): {noise} noise. "
        f"It is worth choosing where one expert moved much farther than the other and is the one that matters: with "
        f"CorpLM stopped after a third of its training it changes the mean by {mean}, FunctionLM's domain by {gained} "
        f"and CorpLM's by {lost}. "
        f"Otherwise average, and look at the scale of the deltas first: preserving their norm gains {preserved} "
        f"without any evaluation, and λ = {span}, chosen on held-out questions, {chosen}."
    )
    return textwrap.fill(text, 120)
