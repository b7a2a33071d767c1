"""The quality benchmark's tier B: its machinery with a tiny random model and made-up texts; nothing is fetched."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

QUALITY = Path(__file__).resolve().parents[1] / "benchmarks" / "quality"
EXTRA = "needs the quality extra"
WORDS = ("dog", "cat", "ship", "tree", "lamp", "road", "bell", "coat", "milk", "rain", "wall", "bird")
SENTENCE = "The/at {x}/nn is/bez on/in the/at {x}/nn and/cc has/hvz a/at {x}/nn ./."


@pytest.fixture
def tier_b(monkeypatch, tmp_path):
    """The benchmark's modules, and texts of our own where it keeps what it fetches."""
    for module in ("torch", "transformers", "tokenizers", "scipy", "pycountry"):
        pytest.importorskip(module, reason=EXTRA)
    monkeypatch.syspath_prepend(QUALITY)
    monkeypatch.setenv("SDMW_QUALITY", str(tmp_path))
    import bfcl

    bfcl.calls.cache_clear()
    write_texts(tmp_path / "corpora")
    yield tmp_path
    bfcl.calls.cache_clear()


def write_texts(corpora):
    for folder in ("brown", "wordnet", "bfcl/possible_answer"):
        (corpora / folder).mkdir(parents=True)
    for number in range(40):
        lines = [SENTENCE.format(x=WORDS[(number + n) % len(WORDS)]) for n in range(8)]
        (corpora / "brown" / f"ca{number:02}").write_text("\n".join(lines))
    for part, words in (("noun", WORDS[:8]), ("verb", WORDS[8:])):
        lines = [f"0000000{n} 03 n 01 {word} 0 | something that is like a {word}" for n, word in enumerate(words)]
        (corpora / "wordnet" / f"data.{part}").write_text("\n".join(lines))
    for name in ("simple_python", "multiple", "live_simple", "live_multiple"):
        rows = [calls_row(f"{name}_{number}", f"{name}_{number // 2}", number) for number in range(16)]
        for folder, which in (("bfcl", 0), ("bfcl/possible_answer", 1)):
            text = "\n".join(json.dumps(row[which]) for row in rows)
            (corpora / folder / f"BFCL_v4_{name}.json").write_text(text)


def calls_row(number, function, value):
    parameters = {"properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}
    asked = {
        "id": number,
        "question": [[{"role": "user", "content": f"Call it with {value}."}]],
        "function": [{"name": function, "parameters": parameters}],
    }
    return asked, {"id": number, "ground_truth": [{function: {"a": [value], "b": ["", "x"]}}]}


def write_base(folder):
    """A random model of two layers, with a tokenizer of its own."""
    import torch
    from smollm import END, START
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [START, END]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*WORDS, "FR", "DE", "IT", "ES", "SE", "NO"] * 9, trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "training.json").write_text("{}")


def test_a_tiny_model_is_trained_merged_scored_and_shown(tier_b, capfd):
    import smollm_measure
    import smollm_tables
    from smollm_models import Effort, SmolModels
    from smollm_suite import Counts

    models = SmolModels(Effort(calls=8, rounds=1, batch=32))
    write_base(models.base)
    counts = Counts(func=6, corp_new=4, words=6, facts=4, agreement=6, passages=2)
    results = tier_b / "results"
    results.mkdir()
    smollm_measure.run(models, 1, counts, results)
    first = capfd.readouterr().out
    assert "multitask" in first
    (path,) = results.iterdir()
    text = path.read_text()
    smollm_measure.run(models, 1, counts, results)
    assert capfd.readouterr().out == "seed 0: 19 models scored\n" * 2
    assert path.read_text() == text
    for secret in ("Call it", "something that", str(tier_b)):
        assert secret not in text

    (measured,) = smollm_tables.smollm_measured(results)
    assert measured.single() == {"base", "corp", "func", "multitask"}
    weights = [measured.facts["equal", f"law q=1 p={power}"]["weights"] for power in (1, 2)]
    (linear, square) = (pair[0] / pair[1] for pair in weights)
    assert square == pytest.approx(linear**2, rel=1e-6)
    doubled = measured.facts["equal", "sum of deltas, lambda=1"]["applied_length"]
    assert doubled == pytest.approx(2 * measured.facts["equal", "average"]["applied_length"], rel=1e-2)
    made = smollm_tables.smollm_tables(results)
    assert "1 seeds of one base, 1 of them" in made["smollm-summary"]
    assert "| SDM-W Linear, k = 50 |" in made["smollm-differences"]


def test_calls_with_one_right_way_to_write_them_are_kept_and_functions_do_not_cross(tier_b):
    import bfcl

    assert len(bfcl.calls()) == 64
    assert bfcl.only({"a": [1, 1.0]}, {"properties": {"a": {}}}) is None
    assert bfcl.only({"a": [[1]]}, {"properties": {"a": {}}}) is None
    assert bfcl.only({"a": [True], "b": ["", 2]}, {"properties": {"b": {}, "a": {}, "c": {}}}) == {"a": True}
    for seed in range(3):
        of = {question.prompt: function for function, question in bfcl.calls()}
        trained, tested = (
            {of[question.prompt] for question in found}
            for found in (bfcl.training_calls(seed, 99), bfcl.tested_calls(seed, 99))
        )
        assert trained
        assert tested
        assert not trained & tested


@given(st.lists(st.integers(2, 9), min_size=1, max_size=40), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_round_shows_each_question_once(lengths, size, rng):
    pytest.importorskip("torch", reason=EXTRA)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(QUALITY)
        import smollm_models
    rows = [([100 * number + place + 1 for place in range(length)], 1) for number, length in enumerate(lengths)]
    seen = []
    for tokens, labels in smollm_models.one_round(rows, size, rng):
        assert tokens.shape == labels.shape
        assert len(tokens) <= size
        for ids, wanted in zip(tokens.tolist(), labels.tolist(), strict=True):
            whole = [each for each in ids if each]
            seen.append(whole)
            assert wanted == [-100, *whole[1:], *[-100] * (len(ids) - len(whole))]
    assert sorted(seen) == sorted(ids for ids, _ in rows)


def test_committed_results_hold_a_bit_for_each_item_and_no_text():
    for path in (QUALITY / "results").glob("smollm-seed-*.json"):
        content = json.loads(path.read_text())
        assert "<|im" not in path.read_text()
        assert str(Path.home()) not in path.read_text()
        assert {"base", "corp", "func", "average"} <= {row["name"] for row in content["scored"]}
        for row in content["scored"]:
            assert {name: len(bits) for name, bits in row["right"].items()} == {
                name: 2 * -(-count // 8) for name, count in content["counts"].items()
            }
