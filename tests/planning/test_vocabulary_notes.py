import pytest

from sdmw.planning.vocabulary_notes import unknown_tokens
from sdmw.views.vocabulary import Tally


@pytest.mark.parametrize(
    ("zero", "said"),
    [
        (0, []),
        (1, ["1 row of the vocabulary has no token, or one that no model has: it is zero"]),
        (2, ["2 rows of the vocabulary have no token, or one that no model has: they are zero"]),
    ],
)
def test_rows_that_are_zero(zero, said):
    assert list(unknown_tokens({"a": Tally(5, zero=zero), "b": Tally(5)})) == said
