"""How much is trained: the full study, and the short version that checks the machinery in a minute."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Size:
    """Lengths of all trainings.

    Attributes:
        width, layers: of the model.
        broad, anneal: steps of a base, of 16 rows of 128 tokens: mostly text, then mostly questions.
        corp, func: steps of the experts, of 32 questions of their own.
        replay: questions in each of their steps that the base has learned from: countries, words, sums.
        rate: peak learning rate of a base.
        tune_rate: peak learning rate of the experts.
        library_only: read nothing but the standard library's own texts.
    """

    width: int = 128
    layers: int = 4
    broad: int = 2300
    anneal: int = 1400
    corp: int = 200
    func: int = 350
    replay: int = 8
    rate: float = 3e-3
    tune_rate: float = 6e-4
    library_only: bool = False


FULL = Size()
SHORT = Size(width=32, layers=2, broad=30, anneal=20, corp=6, func=6, library_only=True)
