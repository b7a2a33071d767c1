import builtins

import pytest

from sdmw.errors import CheckpointError, MissingExtraError
from sdmw.storage.locate import hub_id, locate, split_adapter

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working directory, a home and a Hub cache of our own, and no network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def cached(here):
    repository = here / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    for ref in ("main", "v1"):
        (repository / "refs" / ref).write_text(REVISION)
    return str(snapshot)


def problem(name, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(name, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model", "./model", "org/name", "a/b/c", "odd@main", "one+two"])
def test_a_directory_is_what_it_is_called(here, name):
    (here / "work" / name).mkdir(parents=True)
    assert locate(name) == name
    assert hub_id(name) is None


def test_the_home_directory(here):
    (here / "home" / "model").mkdir(parents=True)
    assert locate("~/model") == str(here / "home" / "model")
    assert hub_id("~/model") is None


@pytest.mark.parametrize("name", ["org/name", "org/name@main", "org/name@v1", f"org/name@{REVISION}"])
def test_a_hub_id_in_the_cache(cached, name):
    assert locate(name) == cached
    assert hub_id(name) == "org/name"


@pytest.mark.parametrize("name", ["org/other", "other", "org/name@v2"])
def test_a_hub_id_that_is_not_in_the_cache(here, cached, name):
    said = problem(name)
    assert str(here / "hub") in said
    assert str(here / "work") in said
    assert "--download" in said


@pytest.mark.parametrize("name", ["./none", "/none", "~/none", "a/b/c", "../none", "none/", "a b", "", "-x", "a..b"])
def test_what_can_be_no_hub_id_is_no_such_directory(name):
    assert "no such directory" in problem(name)
    assert hub_id(name) is None


def test_a_file_is_no_directory(here):
    (here / "work" / "m.gguf").touch()
    assert "a file, not a directory" in problem("./m.gguf")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("org/name", ("org/name", None)),
        ("org/name+org/lora", ("org/name", "org/lora")),
        ("org/name@v1+lora@v2", ("org/name@v1", "lora@v2")),
        ("c++", ("c++", None)),  # directories of these names are there
        ("c+++lora", ("c++", "lora")),
        ("a+b+c", ("a", "b+c")),
    ],
)
def test_a_model_and_its_adapter(here, name, parts):
    (here / "work" / "c++").mkdir()
    assert split_adapter(name) == parts


def test_a_directory_has_no_revisions(here):
    (here / "work" / "model").mkdir()
    assert "a directory has no revisions. Write './model'" in problem("./model@main")
    assert hub_id("model@main") is None


@pytest.mark.parametrize("revision", ["", "../../x", "/etc"])
def test_a_revision_is_no_path(revision):
    assert hub_id(f"org/name@{revision}") is None
    assert "no such directory" in problem(f"org/name@{revision}")


def test_without_huggingface_hub(monkeypatch):
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"no directory.*pip install 'sdmw\[hub\]'"):
        locate("org/name")


def test_the_network_is_used_only_where_it_is_allowed(monkeypatch):
    asked = []

    def fetch(repository, **options):
        asked.append((repository, options["revision"], options["local_files_only"]))
        return "/cache"

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert locate("org/name@v1") == locate("name", download=True) == "/cache"
    assert asked == [("org/name", "v1", True), ("name", None, False)]


def test_what_the_hub_says_is_passed_on_in_one_line(monkeypatch):
    def fetch(repository, **options):
        raise RuntimeError("404 Client Error.\n\nlong story\x1b[0m")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    said = problem("org/name", download=True)
    assert said.endswith("the Hub says: RuntimeError: 404 Client Error.")
