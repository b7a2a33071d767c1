"""Whatever stands in sdmw_report.json, `verify` says one clear thing, and "equal" only where the report vouches for it.

`report_of_schema_1.json` is what the last version of schema 1 left of a merge by tests/data/recipe.yaml, but for the
paths of its machine.
"""

import json
import math
import os
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw.errors import CheckpointError, InputChangedError, SdmwError
from token_mutator import mutated

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
REPORT = "out/sdmw_report.json"
TOKENS = [
    b"null", b"true", b"-1", b"0", b"1e400", b"1e-400", b"-0.5", b"9" * 30, b"9" * 5000, b"NaN", b"Infinity", b'""',
    b'"x"', b'"inf"', b'"nan"', b'"\\u0000"', b'"\\ud800"', b'"/etc/passwd"', b'"../base/config.json"', b'"\\udcff"',
    b"[]", b"{}", b"[null]", b"[" * 3000, b'{"type": []}',
    b'{"type": "running.job.Decisions", "layers": [], "model": null}',
    b'"schema"', b'"threshold"', b'"decision"', b'"stop"', b'"model.norm.weight"', b'"0"', b"\xff", b",", b":", b"}",
]  # fmt: skip


@pytest.fixture(scope="module")
def schema_2(tmp_path_factory):
    """A merge of tiny models, with an index and two files beside it."""
    folder = tmp_path_factory.mktemp("schema_2")
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    write_checkpoint(folder / "base", base)
    (folder / "base" / "tokenizer.json").write_text("{}")
    for name in ("corp", "func"):
        lacking = {"model.norm.weight"} if name == "corp" else set()
        tensors = {key: tensor for key, tensor in fine_tuned(rng, base).items() if key not in lacking}
        write_checkpoint(folder / name, tensors)
    models = [{"model": "corp"}, {"model": "func"}]
    recipe = {"merge_method": "sdm_w", "base_model": "base", "models": models, "missing": "base"}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        sdmw.merge(recipe, "out", progress=False, max_shard_size=5000)
    return folder


@pytest.fixture(scope="module")
def schema_1(tmp_path_factory):
    """A new merge of the same recipe with the report that an old version left."""
    folder = tmp_path_factory.mktemp("schema_1")
    (folder / "tests").mkdir()
    (folder / "tests" / "data").symlink_to(DATA)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        sdmw.merge("tests/data/recipe.yaml", "out", progress=False)
    shutil.copy(HERE / "report_of_schema_1.json", folder / REPORT)
    return folder


@pytest.fixture(params=["schema_1", "schema_2"])
def text(request, monkeypatch):
    """A report's text, in the folder of its merge; whatever a test writes is put back."""
    folder = request.getfixturevalue(request.param)
    monkeypatch.chdir(folder)
    yield (text := Path(REPORT).read_bytes())
    Path(REPORT).write_bytes(text)


@pytest.fixture
def told(text):
    return json.loads(text)


def verified(data):
    """What `verify` says of the merge with another report: an error, or a verification."""
    Path(REPORT).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    try:
        found = sdmw.verify("out", sample=1, progress=False)
    except SdmwError as error:
        found = error
    assert all(str(problem) and len(str(problem)) < 2000 for problem in found.problems)
    return found


def is_equal(found):
    return not isinstance(found, SdmwError) and not found.problems


# What a report vouches for


def vouched(report):
    """All that makes one report say something else than another; floats to twelve digits."""
    plain = report.to_dict()
    for name in ("version", "run", "warnings", "notes"):
        del plain[name]
    del plain["files"]["skipped"], plain["files"]["copied"]
    plain["files"]["written"].pop("README.md", None)
    for model in plain["models"]:
        del model["commit"]
        if report.schema == 1:
            model["facts"] = {name: model["facts"][name] for name in ("weight",)}
    if report.schema == 1:
        del plain["facts"]
        plain["inputs"] = sorted((each["size"], each["header"]) for each in plain["inputs"])
    plain["pieces"].sort()
    return rounded(plain)


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.11g}")
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def test_as_it_was_left_it_is_equal(text):
    found = verified(text)
    assert is_equal(found)
    assert found.recomputed == found.tiles


@pytest.mark.parametrize("seed", range(150))
def test_tokens_moved_or_replaced(text, seed):
    before = vouched(sdmw.Report.load("out"))
    found = verified(mutated(text, TOKENS, random.Random(seed)))
    if is_equal(found):
        assert vouched(sdmw.Report.load("out")) == before


# By hand


def layers_of(told):
    """The numbers that decide, of the first layer's first model."""
    layer = told["layers"][0]
    return layer["decision"][0] if "schema" in told else layer["models"][0]


def field(told, path):
    """What holds the value at a path, and its last key."""
    *above, last = path.split(".")
    for key in above:
        told = told[int(key) if key.isdigit() else key]
    return told, int(last) if last.isdigit() else last


NONSENSE = [
    None, True, -1, 10**30, 10**400, -0.5, 1e300, "", "x", "0.5", "inf", "nan", [], {}, [None], {"type": []}, [[[{}]]],
    {"type": "running.job.Decisions", "layers": [], "model": None},
]  # fmt: skip
COMMON = ("method", "models", "models.0", "models.0.name", "layers", "layers.0", "layers.0.name", "layers.0.tensors",
          "layers.0.tensors.0", "inputs", "inputs.0", "inputs.0.size", "pieces", "pieces.0", "files")  # fmt: skip
OF_SCHEMA_1 = ("models.0.weight", "models.0.magnitude", "layers.0.models", "layers.0.models.0",
               "layers.0.models.0.threshold", "inputs.0.header_hash", "percentile", "pieces.0.tensor",
               "pieces.0.start", "pieces.0.stop", "pieces.0.xxh3", "run", "run.wall_s")  # fmt: skip
OF_SCHEMA_2 = ("schema", "seed", "parameters", "parameters.k", "models.0.facts", "models.0.facts.weight",
               "models.0.facts.magnitude_by_component", "facts", "facts.rank_error", "layers.0.facts",
               "layers.0.facts.0", "layers.0.facts.0.threshold", "layers.0.decision", "layers.0.decision.0",
               "layers.0.decision.0.threshold", "layers.0.decision.0.nonzero", "layers.0.decision.0.kept",
               "layers.0.decision.0.magnitude", "layers.0.decision.0.rank_error", "pieces.0.0", "pieces.0.1",
               "pieces.0.2", "pieces.0.3", "inputs.0.model", "inputs.0.file", "inputs.0.header", "inputs.0.sample",
               "files.written", "files.copied", "missing", "missing.corp", "extra", "run", "run.peak_rss", "version",
               "warnings", "notes")  # fmt: skip
MAY_BE = {  # what says something else, and is no contradiction
    "version": lambda value: isinstance(value, str),
    "run.wall_s": lambda value: isinstance(value, int | float) and 0 <= value < 10**308,
    "run.peak_rss": lambda value: isinstance(value, int) and 0 <= value < 2**63,
    **dict.fromkeys(("warnings", "notes", "files.copied"), lambda value: value == []),
    "inputs.0": lambda value: value is GONE,  # without samples, base and corp have one fingerprint
}
GONE = object()


@pytest.mark.parametrize(
    ("text", "path"),
    [*(("schema_1", path) for path in COMMON + OF_SCHEMA_1), *(("schema_2", path) for path in COMMON + OF_SCHEMA_2)],
    indirect=["text"],
)
def test_nonsense_in_the_place_of_a_value(told, path):
    may_be = MAY_BE.get(path, lambda value: False)
    above, key = field(told, path)
    before = above[key]
    for value in (*NONSENSE, GONE):
        if value == before and type(value) is type(before):
            continue
        above[key] = value
        if value is GONE:
            del above[key]
        assert not is_equal(verified(told)) or may_be(value), value


def test_no_json_at_all(text):
    for data in (
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"sdmw"',
        b"0",
        b"{}",
        b"[" * 100_000,
        text[:-20],
        text + b"x",
        b"\0",
    ):
        with pytest.raises(CheckpointError) as caught:
            raise verified(data)
        assert len(caught.value.problems) == 1
        assert caught.value.problems[0].where == REPORT


def test_a_key_that_stands_twice_is_refused(text):
    doubled = text.replace(b'"method"', b'"method": "linear", "method"', 1)
    with pytest.raises(CheckpointError, match="twice"):
        raise verified(doubled)


def test_numbers_that_json_does_not_know_are_refused(text):
    at = text.index(b'"wall_s": ') + len(b'"wall_s": ')
    for word in (b"NaN", b"Infinity", b"-Infinity"):
        with pytest.raises(CheckpointError, match="is not a JSON number"):
            raise verified(text[:at] + word + b", " + text[text.index(b'"cpu_s"') :])


def test_a_threshold_that_is_text_is_said_by_its_place(told):
    layers_of(told)["threshold"] = "0.5"
    with pytest.raises(CheckpointError, match=r"layers\[0\]\S*threshold: expected a number|threshold: .*found '0.5'"):
        raise verified(told)


def test_layers_that_are_missing_or_swapped(told):
    layers = told["layers"]
    for others in (layers[1:], layers[:-1], [*layers, layers[0]], [layers[1], layers[0], *layers[2:]]):
        with pytest.raises(CheckpointError, match="layers of the recipe"):
            raise verified({**told, "layers": others})
    names = [layer["name"] for layer in layers]
    swapped = [{**layer, "name": name} for layer, name in zip([layers[1], layers[0], *layers[2:]], names, strict=True)]
    assert not is_equal(verified({**told, "layers": swapped}))


def test_a_model_more_or_less(told):
    models = told["models"]
    for others in (models[:1], [*models, models[0]], models[::-1]):
        assert not is_equal(verified({**told, "models": others}))
    place = "decision" if "schema" in told else "models"
    for change in (lambda shares: shares[:1], lambda shares: [*shares, shares[0]], lambda shares: []):
        layers = [{**layer, place: change(layer[place])} for layer in told["layers"]]
        with pytest.raises(CheckpointError, match=r"models|decisions as sdmw writes them"):
            raise verified({**told, "layers": layers})


def test_inputs_that_are_none_or_others(told):
    for others in ([], told["inputs"][:-1], [*told["inputs"], {**told["inputs"][0], "size": 1}]):
        with pytest.raises(InputChangedError):
            raise verified({**told, "inputs": others})


def piece_of(told, number=0):
    """A piece as tensor, start, stop, checksum."""
    piece = told["pieces"][number]
    return piece if isinstance(piece, list) else list(piece.values())


def with_pieces(told, *pieces):
    if "schema" in told:
        return {**told, "pieces": list(pieces)}
    return {**told, "pieces": [dict(zip(("tensor", "start", "stop", "xxh3"), piece, strict=True)) for piece in pieces]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda piece, rest: [piece, piece, *rest], "in the report"),
        (lambda piece, rest: [*rest], "a gap"),
        (lambda piece, rest: [*rest, piece], None),  # in another order
        (lambda piece, rest: [[*piece[:2], piece[2] + 1, piece[3]], *rest], "in the report"),
        (lambda piece, rest: [piece, [piece[0], piece[2], 10**12, piece[3]], *rest], "in the report"),
        (lambda piece, rest: [piece, [piece[0], 10**12, 10**12 + 1, piece[3]], *rest], "in the report"),
        (lambda piece, rest: [piece, [piece[0], 1, 3, piece[3]], *rest], "in the report"),
        (lambda piece, rest: [piece, [piece[0], piece[2], piece[2], piece[3]], *rest], "in the report"),
        (lambda piece, rest: [[piece[0], piece[2], piece[1], piece[3]], *rest], "in the report"),
        (lambda piece, rest: [["model.unknown.weight", *piece[1:]], *rest], "an entry in the report only"),
        (lambda piece, rest: [piece, ["", 0, 1, piece[3]], *rest], "an entry in the report only"),
        (lambda piece, rest: [["\ud800", *piece[1:]], piece, *rest], "an entry in the report only"),
        (lambda piece, rest: [[*piece[:3], "0" * 32], *rest], "checksum 0{32}"),
    ],
)
def test_pieces(told, change, said):
    first, *rest = (piece_of(told, number) for number in range(len(told["pieces"])))
    found = verified(with_pieces(told, *change(first, rest)))
    assert not isinstance(found, SdmwError)
    assert bool(found.problems) == bool(said)
    assert said is None or any(re.search(said, str(problem)) for problem in found.problems)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../base/config.json", "pipe", "folder", "nothing", "a\0b", "\ud800", "", ".", "x" * 300, "link"],
)
def test_names_of_files_lead_nowhere_else(schema_2, monkeypatch, name):
    """Nor to a named pipe, which would wait for its writer for ever."""
    monkeypatch.chdir(schema_2)
    text = Path(REPORT).read_bytes()
    told = json.loads(text)
    os.mkfifo("out/pipe")
    os.mkdir("out/folder")
    Path("out/link").symlink_to("../base/config.json")
    try:
        told["files"]["written"][name] = told["files"]["written"]["config.json"]
        found = verified(told)
        assert not isinstance(found, SdmwError)
        assert len(found.problems) == 1
    finally:
        Path(REPORT).write_bytes(text)
        os.remove("out/pipe")
        Path("out/folder").rmdir()
        os.remove("out/link")


@pytest.mark.parametrize("name", ["config.json", "sdmw_recipe.yaml", "tokenizer.json", "model.safetensors.index.json"])
def test_a_file_that_is_not_vouched_for(schema_2, monkeypatch, name):
    monkeypatch.chdir(schema_2)
    text = Path(REPORT).read_bytes()
    told = json.loads(text)
    del told["files"]["written"][name]
    told["files"]["copied"] = []
    try:
        (problem,) = verified(told).problems
        assert problem.expected == f"a checksum of {name!r}"
    finally:
        Path(REPORT).write_bytes(text)


def test_weights_and_magnitudes_of_schema_1_belong_together(schema_1, monkeypatch):
    monkeypatch.chdir(schema_1)
    text = Path(REPORT).read_bytes()
    told = json.loads(text)
    try:
        for name in ("weight", "magnitude"):
            model = {**told["models"][0], name: math.nextafter(told["models"][0][name], 1) * (1 + 1e-9)}
            with pytest.raises(CheckpointError, match="follows from the magnitudes"):
                raise verified({**told, "models": [model, told["models"][1]]})
    finally:
        Path(REPORT).write_bytes(text)


def test_another_version_may_tell_more_and_not_less(schema_2, monkeypatch):
    monkeypatch.chdir(schema_2)
    text = Path(REPORT).read_bytes()
    fields = ("parameters", "facts", "models.0.facts", "layers.0.facts.0")
    try:
        for path in fields:
            more = {**json.loads(text), "version": "9"}
            above, key = field(more, path)
            above[key]["later"] = 1
            assert is_equal(verified(more)), path
            assert not is_equal(verified({**more, "version": sdmw.__version__})), path
            less = {**json.loads(text), "version": "9"}
            above, key = field(less, path)
            above[key].popitem()
            assert not is_equal(verified(less)), path
    finally:
        Path(REPORT).write_bytes(text)


@pytest.mark.parametrize("path", ["", "models.0", "layers.0", "layers.0.decision.0", "files", "inputs.0", "run"])
def test_an_unknown_field_is_refused(schema_2, monkeypatch, path):
    monkeypatch.chdir(schema_2)
    text = Path(REPORT).read_bytes()
    told = {"whole": json.loads(text)}
    above, key = field(told, f"whole.{path}".rstrip("."))
    above[key]["evil"] = 1
    try:
        with pytest.raises(CheckpointError, match="unknown field 'evil'"):
            raise verified(told["whole"])
    finally:
        Path(REPORT).write_bytes(text)


def test_the_pattern_of_a_decision_is_its_threshold_s(schema_2, monkeypatch):
    monkeypatch.chdir(schema_2)
    text = Path(REPORT).read_bytes()
    try:
        for change in (1, -1):
            told = json.loads(text)
            layers_of(told)["pattern"] += change
            with pytest.raises(CheckpointError, match="follows from the threshold"):
                raise verified(told)
    finally:
        Path(REPORT).write_bytes(text)
