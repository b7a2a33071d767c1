"""The example's models fit together: same tensors, readable questions, nothing left out."""

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

DATA = Path(__file__).resolve().parent.parent / "data"
MODELS = ["base", "corp", "func"]


def tensors(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                found[name] = (part.get_dtype(), part.get_shape())
    return found


def test_models_have_the_same_tensors():
    base, *tunes = (tensors(DATA / name) for name in MODELS)
    assert len(base) == 38
    assert {dtype for dtype, _ in base.values()} == {"BF16"}
    assert all(tune == base for tune in tunes)


def test_one_model_is_sharded_and_its_index_is_right():
    index = json.loads((DATA / "func" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors(DATA / "func"))
    assert len(set(index["weight_map"].values())) == 2


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_its_tokenizer_and_configuration(name):
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert wanted <= {path.name for path in (DATA / name).iterdir()}


def test_questions_have_checkable_answers():
    questions = json.loads((DATA / "questions.json").read_text())
    assert {name: len(entries) for name, entries in questions.items()} == {"corp": 20, "func": 20}
    assert all(entry["contains"] in entry["answer"] for entry in questions["corp"])
    for entry in questions["func"]:
        call = json.loads(entry["answer"])
        assert set(call) == {"name", "arguments"}
        # Every argument is said in the question, so a model that only reads can answer.
        assert all(re.search(rf"\b{value}\b", entry["question"]) for value in call["arguments"].values())


def test_the_example_stays_small():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 12e6
