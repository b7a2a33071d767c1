import builtins
import shutil

import pytest

from sdmw.errors import CheckpointError, MissingExtraError
from sdmw.recipes.model_ref import ModelRef
from sdmw.storage import locate as located

OTHER = "fedcba9876543210fedcba9876543210fedcba98"
REVISION = "0123456789abcdef0123456789abcdef01234567"


def locate(name, **options):
    return located.locate(ModelRef.parse(name), **options)


def hub_id(name):
    return located.hub_id(ModelRef.parse(name))


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


@pytest.mark.parametrize(
    "name", ["./none", "/none", "~/none", "a/b/c", "../none", "none/", "a b", "", "-x", "a..b", "~\0x"]
)
def test_what_can_be_no_hub_id_is_no_such_directory(name):
    assert "no such directory" in problem(name)
    assert hub_id(name) is None


def test_a_file_is_no_directory(here):
    (here / "work" / "m.gguf").touch()
    assert "a file, not a directory" in problem("./m.gguf")


def test_a_commit_that_is_asked_for_goes_before_what_a_revision_means_now(here, cached):
    other = here / "hub" / "models--org--name" / "snapshots" / OTHER
    other.mkdir()
    assert locate("org/name", commits={"org/name": OTHER}) == str(other)
    assert locate("org/name@v1", commits={"org/name": OTHER}) == cached


def test_an_adapter_has_its_own_revision(here, cached):
    """Each is looked up by itself, so that another commit of it is another directory."""
    repository = here / "hub" / "models--org--lora"
    for commit, branch in ((REVISION, "main"), (OTHER, "v2")):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    for name, commit in (("org/lora", REVISION), ("org/lora@v2", OTHER), (f"org/lora@{OTHER}", OTHER)):
        parts = ModelRef.parse(f"org/name@v1+{name}").parts
        assert [located.locate(part) for part in parts] == [cached, str(repository / "snapshots" / commit)]
        assert [located.hub_id(part) for part in parts] == ["org/name", "org/lora"]
    assert "'org/lora@v3': no directory" in problem("org/lora@v3")


def test_a_model_with_an_adapter_is_two_directories(cached):
    said = problem("org/name@v1+org/lora")
    assert said == (
        "'org/name@v1+org/lora': expected a model without an adapter, found a model with an adapter on it. "
        "Write 'org/name@v1', or merge the adapter first"
    )


def test_directories_with_marks_in_their_names(here):
    for name in ("c++", "m@1"):
        (here / "work" / name).mkdir()
    assert [located.locate(part) for part in ModelRef.parse("c+++m@1").parts] == ["c++", "m@1"]
    assert "a directory has no revisions. Write 'm@1'" in problem("m@1@2")


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


@pytest.mark.parametrize("download", [False, True])
def test_without_a_home_directory_no_folder_is_made_here(here, monkeypatch, download):
    """huggingface_hub keeps the `~` where it cannot be expanded: a container's uid that is not in passwd."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(CheckpointError, match=r"has no home directory.*Give a directory, or set HF_HOME"):
        locate("org/name", download=download)
    assert list((here / "work").iterdir()) == []


def test_in_another_folder_instead_of_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("here", "folder/deep/here", "folder/here", "folder/last"):
        (tmp_path / name).mkdir(parents=True)

    def place(name):
        return locate(name, folder="folder")

    assert place("deep/here") == "folder/deep/here"
    assert place("./deep/here/") == "folder/./deep/here"
    assert place("other/last") == place(f"{tmp_path}/gone/last") == "folder/last"
    assert place(f"{tmp_path}/here") == f"{tmp_path}/here"
    shutil.rmtree("folder/here")
    with pytest.raises(CheckpointError, match=r"'here': no such directory in '.*/folder'"):
        place("here")
    assert place("/") == "/"
