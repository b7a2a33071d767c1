"""Inputs that do not agree in everything, and what a recipe says of it."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sdmw
from command_line import told
from sdmw.errors import CheckpointError, DisagreementError, PlanError
from sdmw.reporting.tally import Tally
from sdmw.running.events import Progress


def model(folder, tensors, config=None, files=None):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    return str(folder)


def recipe(base, *models, **fields):
    return {"merge_method": "linear", "base_model": base, "models": [{"model": m} for m in models], **fields}


def values(*numbers):
    return np.array(numbers, np.float32)


@pytest.fixture
def differing(tmp_path):
    """Two models: the second has a vision tower, and other position indices."""
    ids = np.arange(4)
    one = model(tmp_path / "one", {"w": values(1, 2), "ids": ids})
    two = model(
        tmp_path / "two", {"w": values(3, 4), "ids": ids[::-1].copy(), "eyes.0": values(5), "eyes.1": values(6)}
    )
    return one, two


@pytest.mark.parametrize(("extra", "names"), [("take", {"w", "ids", "eyes.0", "eyes.1"}), ("drop", {"w", "ids"})])
def test_extra_tensors_are_taken_or_left_out(tmp_path, differing, extra, names):
    report = sdmw.merge(recipe(*differing[:1], *differing, extra=extra, integers="base"), tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == names
    said = [warning for warning in report.warnings if "left out" in warning]
    assert said == (
        ["model 'two': tensors left out, because the base lacks these names: 'eyes.0' and 1 more"]
        if extra == "drop"
        else []
    )


def test_an_extra_tensor_of_two_models_is_the_first_one_s_and_said(tmp_path, differing):
    third = model(tmp_path / "third", {**load_file(f"{differing[1]}/model.safetensors"), "w": values(9, 9)})
    report = sdmw.merge(recipe(*differing[:1], *differing, third, extra="take", integers="base"), tmp_path / "out")
    said = [warning for warning in report.warnings if "left out" in warning]
    assert said == ["model 'third': tensors left out, because an earlier model has these names: 'eyes.0' and 1 more"]
    assert report.tally.dropped == {third: 2}


def test_extra_tensors_are_an_error_that_names_both_choices(tmp_path, differing):
    with pytest.raises(PlanError) as caught:
        sdmw.merge(recipe(*differing[:1], *differing, integers="base"), tmp_path / "out")
    (problem,) = caught.value.problems
    assert problem.found == "2 tensors such as 'eyes.0' are not in the base"
    assert (
        problem.mend
        == "Write `extra: take` in the recipe to copy them into the output, or `extra: drop` to leave them out"
    )


def test_integers_that_differ_are_found_before_anything_is_measured(tmp_path, differing):
    asked, events = recipe(differing[0], differing[1], extra="drop", merge_method="sdm_w"), []
    with pytest.raises(DisagreementError, match=r"element 0: expected 0 as in .*one.*, found 3\. .*`integers: base`"):
        sdmw.merge(asked, tmp_path / "out", progress=events.append)
    assert not any(isinstance(event, Progress) for event in events)
    assert not (tmp_path / "out").exists()


def test_integers_may_be_the_base_s(tmp_path, differing):
    sdmw.merge(recipe(*differing[:1], *differing, extra="drop", integers="base"), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(found["ids"], np.arange(4))
    np.testing.assert_array_equal(found["w"], values(2, 3))
    assert sdmw.verify(tmp_path / "out", sample=1, progress=False).problems == ()


def test_a_pointer_of_git_lfs_for_a_tokenizer_is_refused(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 17209961\n"
    base = model(tmp_path / "base", {"w": values(1)}, files={"tokenizer.json": pointer})
    with pytest.raises(PlanError, match=r"tokenizer\.json: expected the file, found a Git LFS pointer.*git lfs pull"):
        sdmw.merge(recipe(base, base), tmp_path / "out")


def merge_with_the_base_s_integers(base, tune, out):
    sdmw.merge(recipe(base, tune, integers="base"), out)


CODES, SCALES = np.zeros((4, 4), np.uint8), np.ones((4, 1), np.float16)


@pytest.mark.parametrize(
    ("tensors", "files", "said"),
    [
        ({"w": values(1)}, {"quantize_config.json": '{"bits": 4}'}, "quantize_config.json, as GPTQ and AWQ wrote it"),
        ({"w": values(1)}, {"quant_config.json": '{"w_bit": 4}'}, "quant_config.json, as AWQ wrote it"),
        (
            {"a.qweight": np.zeros(4, np.int32), "a.scales": values(1)},
            {},
            "packed weights, as saved by GPTQ and .*a.qweight",
        ),
        (
            {"a.weight": CODES.astype(np.uint32), "a.scales": SCALES, "a.biases": SCALES},
            {},
            "as saved by MLX: .a.scales",
        ),
        ({"a.weight": CODES.astype(np.int8), "a.SCB": SCALES}, {}, "as saved by bitsandbytes: 'a.SCB'"),
        ({"a.weight": CODES, "a.weight.absmax": SCALES}, {}, "as saved by bitsandbytes: .*'a.weight.absmax'"),
        (
            {"a.weight": CODES, "a.weight.quant_state.bitsandbytes__nf4": CODES},
            {},
            "as saved by bitsandbytes: .*__nf4'",
        ),
        ({"a.weight_packed": CODES.astype(np.int32), "a.weight_scale": SCALES}, {}, "as saved by compressed-tensors"),
        ({"a.weight": CODES.astype(np.int8), "a.weight_scale": SCALES}, {}, "by compressed-tensors and .*a.weight_sc"),
        ({"a.weight": CODES.astype(ml_dtypes.float8_e4m3fn), "a.weight_scale_inv": SCALES}, {}, "FP8: .*_scale_inv'"),
    ],
)
@pytest.mark.parametrize("call", [sdmw.extract, sdmw.pack, merge_with_the_base_s_integers])
def test_weights_that_are_quantised_without_a_word_in_the_config_are_refused(tmp_path, tensors, files, said, call):
    """Whatever the recipe says of integers."""
    base = model(tmp_path / "base", tensors | {"norm": values(1, 2)}, files=files)
    tune = model(tmp_path / "tune", tensors | {"norm": values(3, 4)}, files=files)
    with pytest.raises((PlanError, CheckpointError), match=said):
        call(base, tune, tmp_path / "out")
    assert not (tmp_path / "out").exists()


MLX = {"group_size": 32, "bits": 4}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quantization": MLX}, "quantization {'group_size': 32, 'bits': 4}, as MLX writes it"),
        ({"quantization": MLX, "quantization_config": MLX}, "quantization_config with quant_method 'unknown'"),
        ({"vision_config": {"quantization_config": {"quant_method": "fp8"}}}, "vision_config.quantization_config"),
    ],
)
def test_configs_of_quantised_weights_are_refused(tmp_path, config, said):
    base = model(tmp_path / "base", {"w": values(1)}, config=config)
    with pytest.raises(PlanError, match=rf"expected weights that are not quantised, found {said}"):
        sdmw.merge(recipe(base, base), tmp_path / "out")


def test_scales_beside_floats_are_no_quantisation(tmp_path):
    base = model(tmp_path / "base", {"a.weight": values(1, 2), "a.scales": values(1)}, {"quantization": "none"})
    sdmw.merge(recipe(base, base), tmp_path / "out")


def test_weights_beside_a_model_come_along_and_are_named(tmp_path):
    base = model(tmp_path / "base", {"w": values(1)}, files={"spk_dict.pt": "voices"})
    report = sdmw.merge(recipe(base, base), tmp_path / "out")
    assert (tmp_path / "out" / "spk_dict.pt").read_text() == "voices"
    assert any("'spk_dict.pt' holds weights that are copied, not merged" in warning for warning in report.warnings)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- parts: `spk_dict.pt`: weights of the base that are copied unchanged\n" in card


def at_the_end(out):
    """The lines of a merge's output behind the models' table."""
    return out[: out.index("result  ")].splitlines()[1:]


class TestWhatIsNotMergedIsCounted:
    """In the terminal, by plan and by merge; in the report; in the card where weights are concerned."""

    def merged(self, tmp_path, capsys, monkeypatch, recipe):
        """The lines of the plan, those of the merge, the report and the card."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        (tmp_path / "r.json").write_text(json.dumps(recipe))
        planned = told(capsys, monkeypatch, "plan", "r.json").out
        done = told(capsys, monkeypatch, "merge", "r.json", "out")
        assert done.code == 0, done.err
        assert sdmw.verify("out", progress=False).problems == ()
        card = (tmp_path / "out" / "README.md").read_text()
        return [" ".join(line.split()) for line in planned.splitlines()], done.out, sdmw.Report.load("out"), card

    def test_tensors_that_a_model_lacks(self, tmp_path, capsys, monkeypatch):
        tensors = {name: values(1, 2) for name in "abcd"}
        model(tmp_path / "base", tensors)
        model(tmp_path / "one", {"a": values(3, 4), "b": values(1, 1)})
        model(tmp_path / "two", {name: values(5, 6) for name in "abc"})
        made = recipe("base", "one", "two", missing="base")
        plan, merge, report, card = self.merged(tmp_path, capsys, monkeypatch, made)
        said = "2 tensors in 'one', 1 in 'two': the base's are used"
        assert f"missing {said}" in plan
        assert f"missing      {said}\n" in merge
        assert report.missing == {"one": 2, "two": 1}
        assert "- missing: 2 tensors in `one`, 1 in `two`: the base's are used\n" in card

    def test_a_model_that_lacks_more_than_half_is_refused_whatever_the_recipe_says(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model(tmp_path / "base", {name: values(1, 2) for name in "abcd"})
        model(tmp_path / "half", {name: values(1, 2) for name in "ab"})
        model(tmp_path / "less", {"a": values(1, 2)})
        assert sdmw.plan(recipe("base", "half", missing="base")).problems == ()
        (problem,) = sdmw.plan(recipe("base", "less", missing="base", extra="take")).problems
        assert str(problem) == (
            f"model 'less': expected tensors named as in {tmp_path}/base, found 3 of 4 are missing. "
            "Merge fine-tunes of one base"
        )

    @pytest.mark.parametrize(
        ("extra", "word", "said"),
        [("take", "taken", "2 tensors in 'two' that the base lacks"),
         ("drop", "left out", "2 tensors in 'two' that the base lacks")],
    )  # fmt: skip
    def test_tensors_that_the_base_lacks(self, tmp_path, differing, capsys, monkeypatch, extra, word, said):
        made = recipe("one", "one", "two", extra=extra, integers="base")
        plan, merge, report, card = self.merged(tmp_path, capsys, monkeypatch, made)
        assert f"{word} {said}" in plan
        assert f"{word:11}  {said}\n" in merge
        assert f"- {word}: 2 tensors in `two` that the base lacks\n" in card
        assert (report.extra, report.tally.dropped) == (({"two": 2}, {}) if extra == "take" else ({}, {"two": 2}))
        copied = "copied 1 tensor of integers and the like, from the base"
        assert copied in plan
        assert copied in " ".join(merge.split())
        assert report.tally.copied_tensors == 1
        passed_over = (
            "tensors that are not merged, such as integers, come from the base (`integers: base`); not read: 1 of 'two'"
        )
        assert passed_over in report.notes
        assert "integers and the like" not in card

    def test_integers_that_are_taken_from_a_model_are_not_the_base_s(self, tmp_path, capsys, monkeypatch):
        model(tmp_path / "base", {"a": values(1, 2)})
        model(tmp_path / "one", {"a": values(1, 2), "ids": np.arange(3)})
        made = recipe("base", "one", extra="take")
        _, _, report, _ = self.merged(tmp_path, capsys, monkeypatch, made)
        assert (report.extra, report.tally.copied_tensors) == ({"one": 1}, 0)

    @pytest.mark.parametrize("stored", ["equal", "different"])
    def test_heads(self, tmp_path, capsys, monkeypatch, stored):
        embedding = np.arange(8, dtype=np.float32).reshape(4, 2)
        tied = {"model_type": "llama", "tie_word_embeddings": True}
        head = embedding if stored == "equal" else embedding + 1
        model(tmp_path / "base", {"model.embed_tokens.weight": embedding}, tied)
        model(tmp_path / "one", {"model.embed_tokens.weight": embedding, "lm_head.weight": head}, tied)
        plan, merge, report, card = self.merged(tmp_path, capsys, monkeypatch, recipe("base", "base", "one"))
        assert "tied 'lm_head.weight': not written where it equals the embedding" in plan
        lines = [" ".join(line.split()) for line in merge.splitlines()]
        if stored == "equal":
            assert "tied 'lm_head.weight': not written, as it equals the embedding" in lines
            assert (report.tally.unwritten_heads, report.tally.untied_heads) == (("lm_head.weight",), ())
            assert "lm_head" not in card.partition("## Recipe")[0]
        else:
            untied = "'lm_head.weight': not tied to the embedding, so written separately"
            assert f"untied {untied}" in lines
            assert "tied heads 1 tensor in 'base' not stored: the embedding is used" in lines
            assert (report.tally.unwritten_heads, report.tally.untied_heads) == ((), ("lm_head.weight",))
            assert report.tally.absent_heads == {"base": 1}
            assert f"- untied: {untied}\n".replace("'", "`") in card
            assert "- tied heads: 1 tensor in `base` not stored: the embedding is used\n" in card

    def test_files_of_the_base_that_do_not_come_along(self, tmp_path, capsys, monkeypatch):
        files = {"README.md": "", ".gitattributes": "", **{f"adapter_{n}.bin": "" for n in range(5)}}
        model(tmp_path / "base", {"a": values(1, 2)}, files=files)
        plan, merge, report, _ = self.merged(tmp_path, capsys, monkeypatch, recipe("base", "base"))
        said = (
            "6 files of the base: '.gitattributes', 'adapter_0.bin', 'adapter_1.bin', 'adapter_2.bin', "
            "'adapter_3.bin' and 1 more"
        )
        assert f"not copied {said}" in plan
        assert f"not copied   {said}\n" in merge
        assert report.files.skipped.keys() >= files.keys()

    def test_recipe_fields_that_are_ignored(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model(tmp_path / "base", {"a": values(1, 2)})
        (tmp_path / "r.json").write_text(json.dumps(recipe("base", "base", colour=1)))
        for command in (["plan", "r.json"], ["merge", "r.json", "out", "--quiet"]):
            done = told(capsys, monkeypatch, *command, "--ignore-unknown")
            assert (done.code, "note: ignored: unknown field" in done.err) == (0, True)
        assert "colour" in sdmw.Report.load("out").notes[0]

    def test_where_all_is_merged_nothing_is_said(self, tmp_path, capsys, monkeypatch):
        model(tmp_path / "base", {"a": values(1, 2)})
        plan, merge, report, card = self.merged(tmp_path, capsys, monkeypatch, recipe("base", "base"))
        assert plan[-1].startswith("time ")
        assert at_the_end(merge)[1:] == []
        assert report.tally == Tally({}, {}, (), (), 0)
        assert "## What is not merged" not in card

    def test_the_plan_as_json(self, tmp_path, differing, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        found = sdmw.plan(recipe("one", "one", "two", extra="drop", integers="base")).to_dict()
        assert (found["missing"], found["extra"], found["dropped"]) == ({}, {}, {"two": 2})

    def test_a_report_whose_counts_were_changed_is_told(self, tmp_path, differing, monkeypatch):
        monkeypatch.chdir(tmp_path)
        sdmw.merge(recipe("one", "one", "two", extra="drop", integers="base"), "out", progress=False)
        path = tmp_path / "out" / "sdmw_report.json"
        report = json.loads(path.read_text())
        path.write_text(json.dumps({**report, "tally": {**report["tally"], "dropped": {"two": 1}}}))
        (problem,) = sdmw.verify("out", progress=False).problems
        assert problem.where == "out/sdmw_report.json: tally.dropped.two"
        del report["tally"]  # as an earlier version left it
        path.write_text(json.dumps(report))
        assert sdmw.verify("out", progress=False).problems == ()
