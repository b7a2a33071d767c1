import json
import os
import stat

import pytest

from sdmw.errors import CheckpointError, OutputError
from sdmw.writing import side_files

COME_ALONG = [
    "2_Dense/model.safetensors",
    "3_Dense/pytorch_model.bin",
    "LICENSE",
    "added_tokens.json",
    "additional_chat_templates/tool_use.jinja",
    "aud/model-00001-of-00001.safetensors",
    "aud/model.safetensors.index.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "modeling_odd.py",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "spk_dict.pt",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vision/config.json",
    "vocab.json",
    "œ name\n.txt",
]
STAY = [
    "64.tflite",
    ".cache/",
    ".git/",
    ".gitattributes",
    "MODEL.SAFETENSORS",
    "README.md",
    "adapter_config.json",
    "adapter_model.bin",
    "consolidated.00.pth",
    "flax_model.msgpack",
    "flax_model_config.json",
    "head.mlmodel",
    "mergekit_config.yml",
    "model.gguf",
    "model.onnx",
    "model.safetensors",
    "model.safetensors.index.json",
    "onnx/",
    "openvino/",
    "optimizer.json",
    "original/",
    "pytorch_model.bin.index.json",
    "rng_state_0.json",
    "scheduler.json",
    "sdmw_report.json",
    "tf_model.h5",
    "trainer_state.json",
    "training_args.bin",
]


def make(folder, names):
    for number, name in enumerate(names):
        path = folder / name
        if name.endswith("/"):
            path /= "inside.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\r\n%d" % number)


@pytest.fixture
def base(tmp_path):
    base = tmp_path / "base"
    make(base, [*COME_ALONG, *STAY, "config.json"])
    return base


def test_what_comes_along_and_what_stays(base):
    copied, skipped = side_files.choose(str(base))
    assert copied == sorted(COME_ALONG)
    assert [name for name, _ in skipped] == sorted(STAY)
    assert all(reason for _, reason in skipped)


def test_copies_are_the_same_bytes_and_nothing_else(base, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    copied, _ = side_files.choose(str(base))
    side_files.copy(str(base), copied, str(out))
    found = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert found == {name: (base / name).read_bytes() for name in COME_ALONG}


def test_a_file_above_64_mib_stays(base):
    for name, size in (("fits.dat", 64 * 2**20), ("large.dat", 64 * 2**20 + 1)):
        with open(base / name, "wb") as file:
            file.truncate(size)
    copied, skipped = side_files.choose(str(base))
    assert "fits.dat" in copied
    assert ("large.dat", "larger than 64 MiB") in skipped


def test_links_of_a_plain_folder(base, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "base.txt").write_text("its path begins like the folder's")
    (base / "leaves.txt").symlink_to(tmp_path / "secret")
    (base / "near.txt").symlink_to("../base.txt")
    (base / "stays.txt").symlink_to("vocab.json")
    (base / "dangles.txt").symlink_to("nothing")
    (base / "circle.txt").symlink_to("circle.txt")
    (base / "folder").symlink_to("vision")
    (base / "up").symlink_to("..")
    copied, skipped = side_files.choose(str(base))
    assert copied == sorted([*COME_ALONG, "stays.txt"])
    reasons = dict(skipped)
    assert reasons["leaves.txt"] == reasons["near.txt"] == reasons["up"] == "a link that leaves the folder"
    assert reasons["dangles.txt"].startswith("cannot be read")
    assert reasons["circle.txt"].startswith("cannot be read")
    assert reasons["folder"] == "a link to a folder"


def test_links_of_a_hub_snapshot_are_copied_as_files(tmp_path):
    model = tmp_path / "hub" / "models--org--name"
    snapshot = model / "snapshots" / "0123abc"
    make(model / "blobs", ["aa", "bb"])
    snapshot.joinpath("sub").mkdir(parents=True)
    (snapshot / "tokenizer.json").symlink_to("../../blobs/aa")
    (snapshot / "sub" / "x.jinja").symlink_to("../../../blobs/bb")
    (snapshot / "other.json").symlink_to("../../refs/main")
    make(model / "refs", ["main"])
    (tmp_path / "model").symlink_to(snapshot)  # a folder of links to snapshots is common
    (tmp_path / "out").mkdir()

    for folder in (snapshot, tmp_path / "model"):
        copied, skipped = side_files.choose(str(folder))
        assert copied == ["sub/x.jinja", "tokenizer.json"]
        assert skipped == [("other.json", "a link that leaves the folder")]
    side_files.copy(str(snapshot), copied, str(tmp_path / "out"))
    arrived = tmp_path / "out" / "tokenizer.json"
    assert not arrived.is_symlink()
    assert arrived.read_bytes() == (model / "blobs" / "aa").read_bytes()


def test_a_pipe_stays_and_does_not_hang(base, tmp_path):
    os.mkfifo(base / "pipe")
    assert ("pipe", "not a regular file") in side_files.choose(str(base))[1]
    with pytest.raises(CheckpointError, match="'pipe': expected a file that can be copied, found not a regular file"):
        side_files.copy(str(base), ["pipe"], str(tmp_path))


def test_folders_nested_too_deeply_stay(tmp_path):
    (tmp_path / ("d/" * 18)).mkdir(parents=True)
    (tmp_path / ("d/" * 16) / "near").write_text("")
    (tmp_path / ("d/" * 17) / "far").write_text("")
    assert side_files.choose(str(tmp_path)) == (["d/" * 16 + "near"], [("d/" * 17, "nested too deeply")])


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        side_files.choose(str(tmp_path / "nothing"))


def test_a_copy_that_cannot_be_written_is_an_output_error(base, tmp_path):
    (tmp_path / "vocab.json").write_text("in the way")
    with pytest.raises(OutputError, match="File exists"):
        side_files.copy(str(base), ["vocab.json"], str(tmp_path))


def test_a_file_that_went_is_an_input_error(base, tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.json"):
        side_files.copy(str(base), ["gone.json"], str(tmp_path))


def test_inputs_stay_as_they_are(base, tmp_path):
    def seen():
        return {p: (p.stat().st_mtime_ns, stat.S_IMODE(p.stat().st_mode)) for p in base.rglob("*") if p.is_file()}

    before = seen()
    (tmp_path / "out").mkdir()
    side_files.copy(str(base), side_files.choose(str(base))[0], str(tmp_path / "out"))
    assert seen() == before


def test_what_belongs_to_a_model_beside_its_weights(base):
    """What an archive keeps: the card and what was written of a merge too, and the model's own config."""
    kept, lost = side_files.all_but_weights(str(base))
    of_the_model = ["README.md", "config.json", "mergekit_config.yml", "sdmw_report.json"]
    assert (kept, lost) == (sorted([*COME_ALONG, *of_the_model]), [])
    (base / "leaves.txt").symlink_to("/etc/hostname")
    assert side_files.all_but_weights(str(base))[1] == [("leaves.txt", "a link that leaves the folder")]


MODULES = [{"path": "", "type": "Transformer"}, {"path": "2_Dense", "type": "Dense"}, {"path": "./3_Dense/"}, {}, None]


def test_a_module_that_cannot_come_along_is_a_problem(base):
    """A sentence transformer loads its modules from the folders that modules.json names."""
    with open(base / "2_Dense" / "model.safetensors", "wb") as file:
        file.truncate(64 * 2**20 + 1)
    (base / "3_Dense" / "config.json").symlink_to("/etc/hostname")
    (base / "3_Dense" / "optimizer.pt").touch()
    skipped = side_files.choose(str(base))[1]
    assert side_files.missed(str(base), skipped) == []
    (base / "modules.json").write_text(json.dumps(MODULES))
    large, link = side_files.missed(str(base), skipped)
    followed = side_files.choose(str(base), follow_links=True)[1]
    assert side_files.missed(str(base), followed, follow_links=True) == [large]
    assert (large.where, large.found) == (str(base / "2_Dense" / "model.safetensors"), "larger than 64 MiB")
    assert large.mend == "Merge a copy of the folder without it, and put it into the output afterwards"
    assert (link.where, link.mend) == (
        str(base / "3_Dense" / "config.json"),
        "Replace the link by the file, or allow such links (--follow-links, follow_links=True)",
    )


@pytest.mark.parametrize("modules", ["", "{}", "[" * 9999, '"2_Dense"', '[{"path": 2}]'])
def test_a_list_of_modules_that_cannot_be_read_names_none(base, modules):
    (base / "modules.json").write_text(modules)
    (base / "2_Dense" / "leaves.txt").symlink_to("/etc/hostname")
    assert side_files.missed(str(base), side_files.choose(str(base))[1]) == []
