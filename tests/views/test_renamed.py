import time

import pytest

from sdmw.views.renamed import prefix_between

NAMES = [f"model.layers.{n}.{part}.weight" for n in range(4) for part in ("q", "k", "norm")] + ["lm_head.weight"]


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "a.b.c."])
def test_one_prefix_more_or_less(prefix):
    longer = [prefix + name for name in NAMES]
    assert prefix_between(NAMES, longer) == (prefix, "")
    assert prefix_between(longer, NAMES) == ("", prefix)


def test_a_prefix_that_the_head_lacks():
    """`model.` before all but the head, as base models are stored without it."""
    stripped = [name.removeprefix("model.") for name in NAMES]
    assert prefix_between(NAMES, stripped) == ("", "model.")
    assert prefix_between(stripped, NAMES) == ("model.", "")


def test_other_names_have_none():
    assert prefix_between(NAMES, ["x.weight", "y.bias"]) is None
    assert prefix_between(NAMES, []) is None
    assert prefix_between([], NAMES) is None


def test_names_that_agree_as_they_are_suggest_no_prefix():
    """A model of fewer layers lacks tensors, and none of its own is another's."""
    assert prefix_between(NAMES, NAMES[:7]) is None
    assert prefix_between(NAMES, NAMES[:3]) is None


def test_many_names_take_a_moment():
    names = [f"model.layers.{n}.experts.{m}.w" for n in range(100) for m in range(1000)]
    began = time.process_time()
    assert prefix_between(set(names), [f"module.{name}" for name in names]) == ("module.", "")
    assert time.process_time() - began < 5


def test_one_prefix_in_the_place_of_another():
    wanted = {f"model.language_model.layers.{n}.mlp.up.weight" for n in range(4)} | {"model.visual.patch.weight"}
    found = [f"model.layers.{n}.mlp.up.weight" for n in range(4)]
    assert prefix_between(wanted, found) == ("model.", "model.language_model.")
    assert prefix_between(["lm_head.weight"], ["score.weight"]) is None  # the end of a single word says nothing
