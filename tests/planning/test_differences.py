"""What configs, tokenizers, templates and generation settings of models say otherwise than the base's is said."""

import json
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint

TOKENIZER = {
    "added_tokens": [{"id": 2, "content": "</s>", "special": True}],
    "normalizer": None,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "}": 3, '"]': 4}, "merges": [["a", "b"]]},
}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A base and two fine-tunes, a and b, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    base = llama_like(rng)
    write_checkpoint("base", base)
    for name in ("a", "b"):
        write_checkpoint(name, fine_tuned(rng, base))
    return tmp_path


def put(folder, name, content):
    path = Path(folder, name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def recipe(*names, **more):
    return {"merge_method": "linear", "base_model": "base", "models": [{"model": name} for name in names],
            "parameters": {"weight": 1.0}, **more}  # fmt: skip


def said(*names, **more):
    """Warnings and notes of a plan that has no problem, but for the note on the base that is not among the models."""
    plan = sdmw.plan(recipe(*names, **more))
    assert plan.problems == ()
    return list(plan.warnings), [note for note in plan.notes if "is not among models" not in note]


def test_of_equal_files_nothing_is_said(models):
    for name in ("base", "a", "b"):
        put(name, "tokenizer.json", TOKENIZER)
        put(name, "tokenizer_config.json", {"eos_token": "</s>", "chat_template": "{{ x }}"})
        put(name, "generation_config.json", {"eos_token_id": 2})
    assert said("a", "b") == ([], [])


def test_files_that_only_the_base_has_are_no_difference(models):
    put("base", "tokenizer.json", TOKENIZER)
    put("base", "tokenizer_config.json", {"eos_token": "</s>", "chat_template": "{{ x }}"})
    put("base", "generation_config.json", {"eos_token_id": 2})
    assert said("a", "b") == ([], [])


def test_a_key_of_the_mathematics_is_a_warning_with_both_values(models):
    put("a", "config.json", {**CONFIG, "rms_norm_eps": 1e-5, "rope_theta": 5e5})
    put("base", "config.json", {**CONFIG, "rms_norm_eps": 1e-6})
    assert said("a") == (
        [
            "model 'a': its config.json differs from the base's in what the model computes; the output computes as the "
            "base does: rms_norm_eps 1e-05 (base: 1e-06), rope_theta 500000.0 (base: none)"
        ],
        [],
    )


def test_another_architecture_is_one_warning(models):
    put("a", "config.json", {**CONFIG, "model_type": "mistral", "sliding_window": 4096, "odd": 1})
    warnings, notes = said("a")
    assert [warning.rpartition("does: ")[2] for warning in warnings] == ["model_type 'mistral' (base: 'llama')"]
    assert notes == []


def test_keys_of_the_vocabulary_and_unknown_ones(models):
    put("a", "config.json", {**CONFIG, "eos_token_id": [1, 2], "of_tomorrow": 7, "use_cache": False})
    warnings, notes = said("a")
    assert warnings == [
        "model 'a': its config.json differs from the base's in its tokens; the output has the base's: "
        "eos_token_id [1, 2] (base: none)"
    ]
    assert notes == [
        "model 'a': its config.json differs from the base's in keys whose effect sdmw does not know; "
        "the output has the base's: of_tomorrow 7 (base: none)"
    ]


LONG = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0], "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}},
        {"rope_parameters": {**LONG, "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"full_attention": LONG, "sliding_attention": {"rope_theta": 1e4}}},
    ],
)
def test_how_long_a_text_may_be_is_mathematics_where_rotations_depend_on_it(models, rope):
    put("base", "config.json", {**CONFIG, **rope, "max_position_embeddings": 32})
    put("a", "config.json", {**CONFIG, **rope, "max_position_embeddings": 512})
    (warning,) = said("a")[0]
    assert warning.endswith("computes as the base does: rope.max_position_embeddings 512 (base: 32)")


@pytest.mark.parametrize("rope", [{}, {"rope_scaling": {"type": "linear", "factor": 2.0}}])
def test_elsewhere_it_is_not(models, rope):
    put("base", "config.json", {**CONFIG, **rope, "max_position_embeddings": 32})
    put("a", "config.json", {**CONFIG, **rope, "max_position_embeddings": 512})
    assert said("a") == ([], [])


def test_whether_later_words_are_seen_and_how_positions_are_is_mathematics(models):
    put("base", "config.json", {**CONFIG, "is_decoder": False})
    put("a", "config.json", {**CONFIG, "position_embedding_type": "absolute"})
    put("b", "config.json", {**CONFIG, "is_decoder": True, "position_embedding_type": "relative_key"})
    (warning,) = said("a", "b")[0]
    assert warning.endswith("is_decoder True (base: none), position_embedding_type 'relative_key' (base: none)")


def labelled(**labels):
    return {**CONFIG, "id2label": {name[1:]: label for name, label in labels.items()}}


def test_classes_in_another_order_are_a_warning(models):
    put("base", "config.json", labelled(_0="no", _1="yes"))
    put("a", "config.json", labelled(_0="no", _1="yes"))
    put("b", "config.json", {**CONFIG, "label2id": {"yes": 0, "no": 1}})
    assert said("a", "b") == (
        [
            "model 'b': its labels differ from those of 'base': 0 'yes' ('no'), 1 'no' ('yes'). "
            "Classes are merged by their numbers"
        ],
        [],
    )


def test_classes_are_compared_where_the_base_names_none(models):
    put("base", "config.json", labelled(_0="LABEL_0", _1="LABEL_1"))
    put("a", "config.json", labelled(_0="no", _1="yes"))
    put("b", "config.json", labelled(_0="yes", _1="no"))
    (warning,) = said("a", "b")[0]
    assert warning.startswith("model 'b': its labels differ from those of 'a': 0 'yes' ('no')")
    assert said("a") == said("b") == ([], [])


def test_many_labels_are_counted(models):
    put("base", "config.json", labelled(**{f"_{n}": f"{n}" for n in range(9)}))
    put("a", "config.json", labelled(**{f"_{n}": f"{n + 1}" for n in range(9)}))
    assert "2 '3' ('2') and 6 more. " in said("a")[0][0]


def test_values_that_say_the_same_are_no_difference(models):
    nan = float("nan")
    put("base", "config.json", {**CONFIG, "eos_token_id": 1, "odd": nan, "limits": [nan, 1]})
    put("a", "config.json", {**CONFIG, "eos_token_id": [1], "odd": nan, "limits": [nan, 1]})
    put("base", "generation_config.json", {"eos_token_id": [1], "_from_model_config": True})
    put("a", "generation_config.json", {"eos_token_id": 1})
    assert said("a") == ([], [])


def test_many_keys_are_counted(models):
    put("a", "config.json", {**CONFIG, **{f"odd_{n}": n for n in range(9)}})
    assert said("a")[1][0].endswith("odd_3 3 (base: none), odd_4 4 (base: none) and 4 more")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model"]["vocab"].update(c=9),
        lambda t: t["added_tokens"].append({"id": 9, "content": "<x>"}),
        lambda t: t["model"]["merges"].append(["b", "a"]),
    ],
)
def test_another_numbering_of_tokens_is_a_warning(models, change):
    put("base", "tokenizer.json", TOKENIZER)
    other = json.loads(json.dumps(TOKENIZER))
    change(other)
    put("a", "tokenizer.json", other)
    assert said("a")[0] == [
        "model 'a': its tokenizer differs from the base's, which the output gets, and may number tokens differently; "
        "write `tokenizer_source: base` in the recipe to merge token by token"
    ]


def test_the_same_numbering_in_another_file_is_no_difference(models):
    put("base", "tokenizer.json", TOKENIZER)
    put("a", "tokenizer.json", json.dumps({"padding": {"length": 3}, **TOKENIZER}, indent=4))
    assert said("a") == ([], [])


SPELLED = {
    "added_tokens": [{"id": 2, "content": "</s>", "special": True}],
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "ByteLevel", "use_regex": True, "trim_offsets": True},
        {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}]},
    "model": {"type": "BPE", "vocab": {"é": 0, 'b"': 1, "]": 2, "c": 3}, "merges": [["é", 'b"'], ["]", "c"]]},
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model"].update(vocab=dict(reversed(t["model"]["vocab"].items()))),
        lambda t: t["model"].update(merges=[" ".join(pair) for pair in t["model"]["merges"]]),
        lambda t: t["added_tokens"].append(dict(reversed(t["added_tokens"].pop().items()))),
        lambda t: t.update(model=t.pop("model"), normalizer=None),
        lambda t: t["model"].pop("type"),
        lambda t: t["pre_tokenizer"]["pretokenizers"].__setitem__(0, {"type": "ByteLevel", "trim_offsets": False}),
        lambda t: t["pre_tokenizer"]["pretokenizers"].__setitem__(
            1, {"type": "Metaspace", "replacement": "_", "str_rep": "_", "add_prefix_space": True}),
    ],
)  # fmt: skip
def test_the_same_tokenizer_spelled_otherwise_is_no_difference(models, change):
    put("base", "tokenizer.json", json.dumps(SPELLED, ensure_ascii=False, indent=1))
    other = json.loads(json.dumps(SPELLED))
    change(other)
    put("a", "tokenizer.json", json.dumps(other))  # é as an escape
    assert said("a") == ([], [])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["model"]["vocab"].update({"é": 3, "c": 0}),
        lambda t: t["model"]["merges"].reverse(),
        lambda t: t["added_tokens"][0].update(content="</t>"),
    ],
)
def test_the_same_tokens_with_other_numbers_are_a_warning(models, change):
    put("base", "tokenizer.json", SPELLED)
    other = json.loads(json.dumps(SPELLED))
    change(other)
    put("a", "tokenizer.json", other)
    (warning,) = said("a")[0]
    assert "may number tokens differently; " in warning


@pytest.mark.parametrize("order", [1, -1])
def test_a_vocabulary_that_is_a_list_has_an_order(models, order):
    pieces = [["a", -1.0], ["b", -2.0]]
    put("base", "tokenizer.json", {"model": {"type": "Unigram", "vocab": pieces}})
    put("a", "tokenizer.json", json.dumps({"model": {"type": "Unigram", "vocab": pieces[::order]}}, indent=1))
    assert len(said("a")[0]) == (0 if order == 1 else 1)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda t: t.update(normalizer={"type": "Lowercase"}, pre_tokenizer=None), "normalizer, pre_tokenizer"),
        (lambda t: t.update(post_processor={"type": "TemplateProcessing"}), "post_processor"),
        (lambda t: t["model"].update(type="WordPiece"), "type"),
    ],
)
def test_a_tokenizer_that_splits_texts_otherwise_is_a_warning(models, change, parts):
    put("base", "tokenizer.json", SPELLED)
    other = json.loads(json.dumps(SPELLED))
    change(other)
    put("a", "tokenizer.json", other)
    assert said("a")[0] == [
        "model 'a': its tokenizer splits text differently from the base's, which the output gets: it differs in "
        f"{parts}"
    ]


def test_a_large_part_is_compared_as_it_is_written(models):
    large = {"type": "Sequence", "normalizers": [{"type": "Replace", "content": "x" * 5_000_000}]}
    put("base", "tokenizer.json", {**SPELLED, "normalizer": large})
    put("a", "tokenizer.json", json.dumps({**SPELLED, "normalizer": large}, indent=1))
    put("b", "tokenizer.json", {**SPELLED, "normalizer": {**large, "odd": 1}})
    assert [warning[:9] for warning in said("a", "b")[0]] == ["model 'b'"]


def test_other_kinds_of_tokenizers_are_compared_by_their_bytes(models):
    for name, content in (("base", "one"), ("a", "one"), ("b", "two")):
        put(name, "tokenizer.model", content)
    assert [warning[:9] for warning in said("a", "b")[0]] == ["model 'b'"]


def test_other_special_tokens_are_a_warning(models):
    put("base", "tokenizer_config.json", {"eos_token": {"content": "</s>", "special": True}, "model_max_length": 1})
    put("a", "tokenizer_config.json", {"eos_token": "</s>", "model_max_length": 2})
    put("b", "tokenizer_config.json", {"eos_token": "<|im_end|>", "pad_token": None})
    assert said("a", "b")[0] == [
        "model 'b': its tokenizer_config.json differs from the base's in special tokens; the output gets the base's: "
        "eos_token '<|im_end|>' (base: '</s>')"
    ]


def test_settings_of_generation_are_a_note_that_tells_how_to_take_them(models):
    put("base", "generation_config.json", {"eos_token_id": 2, "transformers_version": "4"})
    put("a", "generation_config.json", {"eos_token_id": 2, "transformers_version": "5"})
    put("b", "generation_config.json", {"eos_token_id": [2, 3]})
    assert said("a", "b") == (
        [],
        [
            "model 'b' has a generation_config.json that differs from the base's: eos_token_id [2, 3] (base: 2). "
            "The output gets "
            "the base's; `generation_config: b` in the recipe takes this one"
        ],
    )
    assert said("a", "b", generation_config="b") == ([], [])


def test_what_all_models_agree_on_is_one_note(models):
    for name in ("a", "b"):
        put(name, "generation_config.json", {"eos_token_id": 3})
        put(name, "chat_template.jinja", "{{ x }}")
    assert said("a", "b") == (
        [],
        [
            "all models have a generation_config.json that differs from the base's: eos_token_id 3 (base: none). "
            "The output gets "
            "the base's; `generation_config: a` in the recipe takes this one",
            "all models have a chat template, and the base has none. The output follows the base; "
            "`chat_template: a` in the recipe takes this one",
        ],
    )


def test_templates_are_the_same_wherever_they_are_kept(models):
    put("base", "tokenizer_config.json", {"chat_template": [{"name": "default", "template": "x"}]})
    put("a", "chat_template.jinja", "x")
    put("b", "chat_template.json", {"chat_template": "y"})
    assert said("a", "b")[1] == [
        "model 'b' has a chat template that differs from the base's. The output follows the base; "
        "`chat_template: b` in the recipe takes this one"
    ]


def test_files_that_cannot_be_read_are_left_to_their_loaders(models):
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.json"):
        put("a", name, "{")
        put("base", name, "[]")
    put("b", "chat_template.jinja", "x")
    Path("b/chat_template.jinja").write_bytes(b"\xff")
    assert said("b") == ([], [])
    assert said("a")[1] == []
