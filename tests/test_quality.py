"""The quality benchmark: its one-minute version trains, merges and scores, and its README shows its results."""

import json
import os
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
    short = ["--short", "--bases", "1", "--pairs", "1"]
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
