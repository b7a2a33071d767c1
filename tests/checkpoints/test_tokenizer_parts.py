"""What tokenizer.json says on splitting is found whether or not the parts that number tokens are looked at."""

import json

from hypothesis import given
from hypothesis import strategies as st

from sdmw.checkpoints import tokenizer
from sdmw.checkpoints.checkpoint import Checkpoint

TEXTS = st.text('ab"\\}{][,: é\n1', max_size=5)
VOCABULARIES = st.one_of(
    st.dictionaries(TEXTS, st.integers(0, 99), max_size=6),
    st.lists(st.tuples(TEXTS, st.floats(-9, 0)), max_size=4),
)
MERGES = st.one_of(st.lists(TEXTS, max_size=4), st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
STEPS = st.one_of(st.none(), st.fixed_dictionaries({"type": TEXTS, "list": st.lists(TEXTS, max_size=2)}))
MODELS = st.fixed_dictionaries({"merges": MERGES, "vocab": VOCABULARIES})
TOKENIZERS = st.fixed_dictionaries({"model": MODELS, **dict.fromkeys(tokenizer.SPLITS[1:], STEPS)})


def folder(path, said, indent):
    path.mkdir(exist_ok=True)
    (path / tokenizer.FAST).write_text(json.dumps(said, ensure_ascii=False, indent=indent))
    return Checkpoint(str(path), (), {}, {})


@given(one=TOKENIZERS, other=TOKENIZERS, indent=st.sampled_from([None, 1]))
def test_parts_that_split_are_compared_without_the_numbers(tmp_path_factory, one, other, indent):
    place = tmp_path_factory.mktemp("models")
    first, second = folder(place / "one", one, None), folder(place / "other", other, indent)
    differing = [part for part in tokenizer.SPLITS if one.get(part) != other.get(part)]
    assert tokenizer.differing_parts(first, second, numbers=False) == differing
    assert [each for each in tokenizer.differing_parts(first, second) if each in tokenizer.SPLITS] == differing


def test_another_kind_of_tokenizer_is_all_numbers(tmp_path):
    for name, content in (("one", b"a"), ("other", b"b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.model").write_bytes(content)
    both = [Checkpoint(str(tmp_path / name), (), {}, {}) for name in ("one", "other")]
    assert tokenizer.differing_parts(*both) == ["vocab"]
    assert tokenizer.differing_parts(*both, numbers=False) == []
