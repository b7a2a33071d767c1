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
    beaten = [f"{words} by {less(seeds, name, AVERAGE, DOMAIN)} ({against(rivals[words], beyond[words])})"
              for words, name in INSTEAD.items()]  # fmt: skip
    worth = mean.mean > 0 and all(beyond[words] < 0.05 and each.mean > 0 for words, each in rivals.items())
    minimum = difference(*(column(seeds, "equal", name, "minimum") for name in (LINEAR, AVERAGE)))
    verdict = "it is worth choosing there" if worth else "in this mean there are better choices even there"
    matters = "more" if found[chosen].mean > abs(found[linear].mean) else "less"
    preserved = found["average, norm preserved"]
    text = (
        f"On {len(seeds)} pairs of small experts SDM-W with the article's settings (Linear, k = 10) changes the mean "
        f"accuracy of both domains by {found[linear]} (95 %) compared with plain averaging, {noise} noise, and that of "
        f"the weaker domain by {minimum}. Where one expert moved much farther than the other (CorpLM stopped after a "
        f"third of its training) it changes the mean by {mean}, FunctionLM's domain by {gained} and CorpLM's by "
        f"{lost}; {' and '.join(beaten)}: {verdict}. The scale of the deltas matters {matters}: preserving their norm "
        f"changes the mean by {preserved} without any evaluation, and λ = {span(taken[chosen].settings)}, chosen on "
        f"held-out questions, by {found[chosen]}."
    )
    return textwrap.fill(text, 120)


def against(rival: Difference, p: float) -> str:
    """What SDM-W is compared with, beside it."""
    return "within noise of SDM-W" if p >= 0.05 else "less than SDM-W" if rival.mean > 0 else "more than SDM-W"


def span(settings: Mapping[int, str]) -> str:
    """The smallest and the largest lambda that a base chose; of two deltas the average has 0.5."""
    scales = {0.5 if name == AVERAGE else float(name.rpartition("=")[2]) for name in settings.values()}
    return " to ".join(f"{each:g}" for each in sorted({min(scales), max(scales)}))
