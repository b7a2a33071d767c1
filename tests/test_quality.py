"""The quality benchmark: its one-minute version trains, merges and scores, and its README shows its results."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
QUALITY = ROOT / "benchmarks" / "quality"
EXTRA = "needs the quality extra"


# Runs scripts one after the other in one process: each would import torch for seconds.
IN_TURN = """
import json, os, runpy, sys
folder, steps = sys.argv[1:]
sys.path.insert(0, folder)
for script, *arguments in json.loads(steps):
    sys.argv = [script, *arguments]
    runpy.run_path(os.path.join(folder, script), run_name="__main__")
    print("done", flush=True)
"""


@pytest.fixture
def quality(monkeypatch):
    """The benchmark's modules, which its scripts import by their plain names."""
    monkeypatch.syspath_prepend(QUALITY)


@pytest.mark.slow
def test_the_short_version_runs_and_goes_on_from_its_cache(tmp_path, quality):
    for module in ("torch", "transformers", "tokenizers", "scipy"):
        pytest.importorskip(module, reason=EXTRA)
    environment = os.environ | {"SDMW_QUALITY": str(tmp_path), "PYTHONPATH": str(ROOT / "engine")}
    results = str(tmp_path / "results")
    short = ["--short", "--bases", "1", "--pairs", "1", "--processes", "1"]
    steps = json.dumps([["train.py", *short], ["measure.py", *short, "--results", results], ["train.py", *short]])
    command = [sys.executable, "-c", IN_TURN, QUALITY, steps]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    first, _, again = done.stdout.split("done\n")[:3]
    assert "multitask-8" in first
    assert "multitask" not in again

    import seeds

    (measured,) = seeds.measured(Path(results))
    assert {"base", "corp", "func", "corp-third", "multitask-4"} <= measured.single()
    for pairing in ("equal", "corp third", "func third"):
        assert measured.names(pairing)[0] == "average"
        assert 0 <= measured.of(pairing, "average")["overall average"] <= 1
    assert measured.facts["equal", "average"]["times_average"] == 1


@pytest.mark.skipif(os.environ.get("SDMW_FAULTS") != "all", reason="trains twice; scripts/test --all")
def test_trainings_side_by_side_give_the_same_models(tmp_path):
    for module in ("torch", "transformers", "tokenizers", "scipy"):
        pytest.importorskip(module, reason=EXTRA)
    made = []
    for processes in ("1", "2"):
        home = tmp_path / processes
        environment = os.environ | {"SDMW_QUALITY": str(home), "PYTHONPATH": str(ROOT / "engine")}
        short = ["--short", "--bases", "2", "--pairs", "1", "--experts", "--processes", processes]
        command = [sys.executable, QUALITY / "train.py", *short]
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=True)
        made.append({path.relative_to(home): path.read_bytes() for path in home.rglob("*.safetensors")})
    assert len(made[0]) == 2 * 5  # base, experts, experts after a third
    assert made[0] == made[1]


def test_pieces_begin_after_those_that_they_need_and_the_least_first(quality):
    for module in ("torch", "transformers"):
        pytest.importorskip(module, reason=EXTRA)
    from side_by_side import run

    called = []
    run({(1,): [(9,)], (3,): [], (9,): [(3,)], (2,): [(3,)], (5,): []}, called.append, 1)
    assert called == [(3,), (2,), (5,), (9,), (1,)]


def test_a_piece_that_fails_ends_the_run(quality):
    for module in ("torch", "transformers"):
        pytest.importorskip(module, reason=EXTRA)
    from side_by_side import run

    with pytest.raises(ZeroDivisionError):
        run({(0,): [], (1,): [(0,)]}, lambda piece: 1 // piece[0], 1)


def test_a_second_run_is_kept_out(tmp_path, quality):
    for module in ("torch", "transformers"):
        pytest.importorskip(module, reason=EXTRA)
    from side_by_side import alone

    with alone(tmp_path / "home"), pytest.raises(SystemExit, match="another run"), alone(tmp_path / "home"):
        pass
    with alone(tmp_path / "home"):
        pass


def test_results_of_two_studies_are_not_mixed(tmp_path, quality):
    import seeds

    of_none = {"counts": {}, "validation": {}, "tags": {}, "scored": []}
    for pair, study in enumerate(("a", "a", "b")):
        told = {"study": study, "base": 0, "pair": pair, **of_none}
        Path(tmp_path, f"base-0-pair-{pair}.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"2 studies.*\n.*pair-0.json: a\n.*: a\n.*pair-2.json: b"):
        seeds.measured(tmp_path)
    Path(tmp_path, "base-0-pair-2.json").unlink()
    assert [seed.pair for seed in seeds.measured(tmp_path)] == [0, 1]


def test_results_hold_no_text_and_no_path():
    for path in (QUALITY / "results").glob("base-*.json"):
        content = json.loads(path.read_text())
        assert "Q: " not in path.read_text()
        assert str(Path.home()) not in path.read_text()
        for row in content["scored"]:
            assert {name: len(bits) for name, bits in row["right"].items()} == {
                name: 2 * -(-count // 8) for name, count in content["counts"].items()
            }


def test_the_readmes_show_what_the_results_say(quality):
    pytest.importorskip("scipy", reason=EXTRA)
    import tables

    made = tables.made()
    for path in (tables.README, tables.FIRST_PAGE):
        assert path.read_text() == tables.filled(path.read_text(), made)
    for name in made:
        assert f"<!-- {name} -->" in tables.README.read_text()


def test_no_question_that_is_asked_was_trained(quality):
    """Facts and calls of any base and pair, against what its base and its experts learn from."""
    import phrases
    import world

    for base, pair in ((0, 0), (1, 3), (2, 1)):
        trained, held_out = world.fact_questions(base, pair)
        public = world.fact_questions(base, None)[0]
        calls = world.call_questions(base, pair, 500)
        asked = [*held_out, *world.held_out_calls(base, pair, 12, 6)]
        assert not {each.prompt for each in asked} & {each.prompt for each in [*trained, *public, *calls]}
        assert not {each.answer for each in asked[len(held_out) :]} & {each.answer for each in calls}
        assert {each.kind for each in trained} == {"public", "internal"}
        internal = {each.prompt for each in trained if each.kind == "internal"}
        assert not internal & {each.prompt for each in public}
    shown = {each.prompt for each in trained}
    for product in world.products(base):
        for *_, new in phrases.ATTRIBUTES.values():
            assert world.ask(new.format(p=product, c=world.company(base)), "").prompt not in shown


def test_recipes_are_what_their_names_say(quality):
    import deltas
    import numpy as np

    import methods

    trio = methods.Trio(Path("base"), (Path("corp"), Path("func")), deltas.Deltas({"x": np.eye(2, dtype=np.float32)}))
    merges = {each.name: each for each in (*methods.common(trio), *methods.thorough(trio))}
    for name, merge in merges.items():
        told = merge.recipe["parameters"]
        weights = [model.get("parameters", {}).get("weight") for model in merge.recipe["models"]]
        if found := re.match(r"law q=(\d) p=([-.\d]+)", name):
            law = {"power": 1.0, "norm": 1} | told["normalization"]
            assert (law["norm"], law["power"]) == (int(found[1]), float(found[2]))
            assert told["k"] == (0 if "k=0" in name else 10)
            assert ("by layer" in name) == (law.get("scope") == "layer")
        elif found := re.match(r"(sdm_w|equal weights) k=(\d+)(?: p=(\d))?", name):
            assert told["k"] == int(found[2])
            assert weights == ([0.5, 0.5] if found[1] == "equal weights" else [None, None])
            assert told.get("normalization", {"power": 1})["power"] == int(found[3] or 1)
        elif found := re.match(r"sum of deltas, lambda=([.\d]+)", name):
            assert weights == [float(found[1])] * 2
        assert ("preserve_norm" in name) == (told.get("lambda") == "preserve_norm")
        length = {"average's": 1, "experts'": 2**0.5}.get(name.rpartition(", ")[2].removesuffix(" length"))
        assert merge.like == (length and pytest.approx(length))
    assert len(merges) == len([*methods.common(trio), *methods.thorough(trio)])


def test_a_setting_is_chosen_on_one_half_and_reported_on_the_other(quality):
    pytest.importorskip("scipy", reason=EXTRA)
    import choosing
    from seeds import TEST, VALIDATION, Measured

    halves = {("a", VALIDATION): 0.9, ("a", TEST): 0.1, ("b", VALIDATION): 0.2, ("b", TEST): 0.8}
    metrics = {("equal", name, half): {"x": value} for (name, half), value in halves.items()}
    seed = Measured(0, 0, metrics, {("equal", "a"): {}, ("equal", "b"): {}})
    taken = choosing.take([seed], "equal", "any", "x", {"any": "."})
    assert (taken.settings, taken.values) == ({0: "a"}, {"x": [0.1]})


def test_updates_to_break_even(quality):
    pytest.importorskip("scipy", reason=EXTRA)
    import cost
    from seeds import Measured

    seconds = {("", "corp"): 10, ("", "func"): 30, ("equal", "m"): 1}
    seed = Measured(0, 0, {}, {name: {"cpu_s": each} for name, each in seconds.items()})
    assert cost.break_even(seed, 21, "m", ("corp",)) == 2  # 10 + 30 + 1 + 2 (10 + 1) is 21 + 2 · 21
    assert cost.break_even(seed, 21, "m", ("func",)) == float("inf")
    assert cost.break_even(seed, float("inf"), "m", ("func",)) == 0


def test_one_pass_scores_as_greedy_decoding_does(quality, monkeypatch):
    """An answer counts as right exactly where generate() would print it."""
    torch = pytest.importorskip("torch", reason=EXTRA)
    pytest.importorskip("transformers", reason=EXTRA)
    import scoring
    import sizes
    import training
    from suites import Rows

    model = training.new_model(sizes.SHORT, 0).eval()
    prompts = torch.randint(1, 2048, (6, 5), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said = model.generate(prompts, max_new_tokens=4, do_sample=False, pad_token_id=0)
    rows = said.tolist()
    rows[1][7] ^= 1  # one wrong token late in one answer, and one in the first place
    rows[2][5] ^= 1
    right = scoring.hits(model, Rows(tuple(rows), (5,) * 6))
    assert right.tolist() == [True, False, False, True, True, True]


def test_orthogonal_experts_of_equal_length_are_scaled_by_the_root_of_their_number(quality):
    import deltas
    import numpy as np

    assert deltas.norm_preserving([0.25] * 4, 9 * np.eye(4)) == pytest.approx(2)


def test_holm_and_intervals(quality):
    pytest.importorskip("scipy", reason=EXTRA)
    import intervals

    assert intervals.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    found = intervals.difference([0.5, 0.7, 0.6], [0.4, 0.5, 0.6])
    assert (found.mean, found.spread) == pytest.approx((0.1, 0.1))
    assert found.half_width == pytest.approx(0.1 * 4.302653 / 3**0.5, rel=1e-5)
