"""Filters that speak of nothing are told; those that speak of a tensor in any place are not."""

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    base = llama_like(rng, blocks=3)
    for name in ("a", "b"):
        write_checkpoint(name, fine_tuned(rng, base))


def warnings(**fields):
    return [each for each in sdmw.plan({"merge_method": "linear", **fields}).warnings if "no effect" in each]


def by(word, **more):
    return {"weight": [{"filter": word, "value": 2, **more}, {"value": 1}]}


def test_each_word_is_told_once_at_its_first_place():
    models = [{"model": "a", "parameters": by("self_atn")}, {"model": "b", "parameters": by("self_atn")}]
    assert warnings(models=models, parameters={"normalize": [{"filter": "expert", "value": False}]}) == [
        "models.0.parameters.weight.0: 'self_atn' has no effect: no tensor's name contains it. Did you mean self_attn?",
        "parameters.normalize.0: 'expert' has no effect: no tensor's name contains it",
    ]


def test_what_is_left_out_too():
    told = warnings(models=["a", "b"], parameters=by("mlp", exclude=["up_proj", "layers.3."]))
    assert told == ["parameters.weight.0: 'layers.3.' has no effect: no tensor's name contains it"]


@pytest.mark.parametrize("word", ["*", "", "layers.2.", "up_proj", "lm_head.weight", "del.l"])
def test_what_is_part_of_a_name(word):
    assert warnings(models=["a", "b"], parameters=by(word)) == []


def test_names_in_inputs_count_too():
    def sources(word):
        names = ("a", "b")
        return [{"model": name, "layer_range": [2, 3], "parameters": by(word)} for name in names]

    assert warnings(slices=[{"sources": sources("layers.2.")}]) == []
    assert warnings(slices=[{"sources": sources("layers.0."), "parameters": by("layers.1.")}]) == [
        "slices.0.parameters.weight.0: 'layers.1.' has no effect: no tensor's name contains it"
    ]
