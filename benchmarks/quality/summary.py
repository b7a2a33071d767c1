"""The three sentences that both READMEs begin with: when SDM-W is worth choosing, with numbers of results/*.json."""

import textwrap
from collections.abc import Mapping, Sequence

from choosing import AVERAGE, FAMILIES, OUTCOMES, column, compared
from intervals import Difference, difference, holm
from seeds import Measured

DOMAIN = OUTCOMES[0]
THIRD = "corp third"  # the pairing whose experts moved least equally
LINEAR = "law q=1 p=1"
# What else a user could do with such a pair.
INSTEAD = {"FunctionLM alone": "func", "adding 0.7 of both deltas": "sum of deltas, lambda=0.7"}


def less(seeds: Sequence[Measured], name: str, other: str, metric: str) -> Difference:
    """One setting less another, of CorpLM stopped early and the whole FunctionLM."""
    return difference(column(seeds, THIRD, name, metric), column(seeds, THIRD, other, metric))


def summary(seeds: Sequence[Measured]) -> str:
    """Numbers and verdicts follow the results; a verdict is Holm's, as in the tables."""
    taken, found, adjusted = compared(seeds, DOMAIN, FAMILIES)
    linear, chosen = "SDM-W Linear, k = 10", "sum of deltas, lambda chosen"
    noise = "beyond" if adjusted[linear] < 0.05 else "within"
    mean, gained, lost = (less(seeds, LINEAR, AVERAGE, each) for each in (DOMAIN, "func", "corp"))
    rivals = {words: less(seeds, LINEAR, name, DOMAIN) for words, name in INSTEAD.items()}
    beyond = holm({words: each.p for words, each in rivals.items()})
    told = [
        f"{against(rivals[words], beyond[words])} {words} ({less(seeds, name, AVERAGE, DOMAIN)})"
        for words, name in INSTEAD.items()
    ]
    worth = mean.mean > 0 and all(beyond[words] < 0.05 and each.mean > 0 for words, each in rivals.items())
    text = (
        f"On {len(seeds)} pairs of small experts SDM-W with the article's settings (Linear, k = 10) differs from plain "
        f"averaging by {found[linear]} in the mean accuracy of both domains (95 %): {noise} noise. "
        f"It is {'worth choosing' if worth else 'not the best choice, beyond noise, even'} where one expert moved much "
        f"farther than the other: with CorpLM stopped after a third of its training it changes the mean by {mean} "
        f"(FunctionLM's domain by {gained}, CorpLM's by {lost}), which is {' and '.join(told)}. "
        f"{'Otherwise average' if worth else 'Average'}, and look at the scale of the deltas first: preserving their "
        f"norm changes the mean by {found['average, norm preserved']} without any evaluation, and "
        f"λ = {span(taken[chosen].settings)}, chosen on held-out questions, by {found[chosen]}."
    )
    return textwrap.fill(text, 120)


def against(rival: Difference, p: float) -> str:
    """SDM-W beside what it is compared with."""
    return "within noise of" if p >= 0.05 else "more than" if rival.mean > 0 else "less than"


def span(settings: Mapping[int, str]) -> str:
    """The smallest and the largest lambda that a base chose; of two deltas the average has 0.5."""
    scales = {0.5 if name == AVERAGE else float(name.rpartition("=")[2]) for name in settings.values()}
    return " to ".join(f"{each:g}" for each in sorted({min(scales), max(scales)}))
