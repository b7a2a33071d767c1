"""A merge that is written to a store: the bytes of a local one, config and index last, and nothing after an error."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import obstore
import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import from_url

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from sdmw.errors import OutputError, PlanError, RecipeError, RunError, StoppedError, UsageError
from sdmw.running.events import Progress
from sdmw.running.gathered import MOST, Gathered
from sdmw.storage import remote, remote_folder, remote_writing
from sdmw.tensors.dtype import DType
from sdmw.writing.layout import lay_out
from sdmw.writing.ordered_sink import OrderedSink
from stores_on_loopback import SECRET, s3
from vocabularies_on_disk import write_model

REMOVAL = ("POST", "/bucket", "")  # S3's request for several objects, of which we name one
OUT = "s3://bucket/out"
INDEX, CONFIG, MARK = "model.safetensors.index.json", "config.json", "sdmw_unfinished"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    base["model.wide.weight"] = rng.normal(0, 0.02, (1200, 2800)).astype(np.float32)  # three parts
    base["model.empty.weight"] = np.zeros((0, 4), np.float32)
    for name in ("base", "corp", "func"):
        write_checkpoint(folder / name, base if name == "base" else fine_tuned(rng, base))
    (folder / "base" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (folder / "base" / "additional_chat_templates").mkdir()
    (folder / "base" / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")
    return folder


@pytest.fixture(scope="module")
def expected(world, tmp_path_factory):
    """The files of the same merge in a folder of this machine."""
    out = tmp_path_factory.mktemp("expected") / "out"
    merged(world, out)
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    monkeypatch.setattr(remote, "RETRIES", 1)
    monkeypatch.setattr(remote_writing, "PART", 5 << 20)  # the least that S3 takes
    remote._stores.clear()
    remote_folder.forget()
    with s3(monkeypatch) as found:
        yield found
    remote._stores.clear()
    remote_folder.forget()


def recipe(world, method="sdm_w"):
    return {"merge_method": method, "base_model": f"{world}/base", "models": [f"{world}/corp", f"{world}/func"]}


def merged(world, out, **arguments):
    options = {"progress": False, "threads": 3, "max_shard_size": "300kB"} | arguments
    return sdmw.merge(recipe(world), out, **options)


def told(content):
    """A report, but for what differs from run to run."""
    report = json.loads(content)
    return {name: value for name, value in report.items() if name not in ("run", "path", "warnings", "plan")}


def sent(store):
    """The objects that were asked for with PUT or POST, in the order of the last request for each."""
    paths = [path for method, path, _ in store.requests if method in ("PUT", "POST")]
    return [path.removeprefix("/bucket/out/") for path in reversed(dict.fromkeys(reversed(paths)))]


def test_the_bytes_are_those_of_a_local_merge(world, store, expected):
    report = merged(world, f"{OUT}/")
    found = {key.removeprefix("out/"): content for key, content in store.objects("out").items()}
    same = set(expected) - {"sdmw_report.json", "sdmw_report.html", "README.md"}
    assert set(found) == set(expected)
    assert [name for name in sorted(same) if found[name] != expected[name]] == []
    assert sum(name.endswith(".safetensors") for name in found) > 2
    assert told(found["sdmw_report.json"]) == told(expected["sdmw_report.json"])
    assert any("nothing stops another run from writing there" in each for each in report.warnings)
    assert store.unfinished() == []
    assert SECRET not in repr(report) + found["sdmw_report.json"].decode() + found["sdmw_report.html"].decode()


def test_shards_come_in_order_and_what_a_model_is_known_by_last(world, store):
    merged(world, OUT)
    names = sent(store)
    shards = [name for name in names if name.endswith(".safetensors")]
    assert shards == sorted(shards)
    assert names[:1] == [MARK]
    assert names[-2:] == [CONFIG, INDEX]
    others = [name for name in names if name not in (*shards, MARK, CONFIG, INDEX)]
    assert names == [MARK, *shards, *others, CONFIG, INDEX]
    assert REMOVAL in store.requests[: store.requests.index(("PUT", f"/bucket/out/{CONFIG}", ""))]
    assert f"out/{MARK}" not in store.names()


def test_one_shard_in_parts_is_read_as_an_input(world, store, tmp_path):
    merged(world, OUT, max_shard_size="1GB", without=["page", "card"])
    parts = [path for method, path, _ in store.requests if method == "PUT" and path.endswith("model.safetensors")]
    assert len(parts) == 3
    merged(world, tmp_path / "local", max_shard_size="1GB", without=["page", "card"])
    assert store.objects("out")["out/model.safetensors"] == (tmp_path / "local" / "model.safetensors").read_bytes()
    found = sdmw.compare(OUT, tmp_path / "local", progress=False).tensors
    assert found.equal == found.compared > 5


@pytest.mark.parametrize("fails", [MARK, "model-00001-of", "model-00003-of", "tokenizer_config.json", CONFIG, INDEX])
def test_an_error_leaves_nothing(world, store, fails):
    store.answer = lambda method, path, span: "403" if method in ("PUT", "POST") and fails in path else None
    with pytest.raises(OutputError, match=r"cannot be written: access is denied") as caught:
        merged(world, OUT)
    assert fails in str(caught.value)
    assert "nothing is left in s3://bucket/out: the same command starts over" in caught.value.__notes__
    assert SECRET not in repr(caught.value)
    store.answer = None
    assert (store.objects(), store.unfinished()) == ({}, [])


@pytest.mark.parametrize("request_", [("PUT", "", 3), ("POST", "", 2)])
def test_parts_and_completions_that_fail(world, store, request_):
    """Of a shard in parts: the third part, and the request that completes it."""
    wanted, count = request_[0], [0]

    def answer(method, path, span):
        if method == wanted and path.endswith("model.safetensors"):
            count[0] += 1
            return "500" if count[0] >= request_[2] else None
        return None

    store.answer = answer
    with pytest.raises(OutputError, match=r"model\.safetensors: cannot be written: the server says 500"):
        merged(world, OUT, max_shard_size="1GB")
    store.answer = None
    assert (store.objects(), store.unfinished()) == ({}, [])


def test_a_server_that_fails_for_a_moment_is_asked_again(world, store, expected):
    failed = set()

    def answer(method, path, span):
        if path in failed or method != "PUT":
            return None
        failed.add(path)
        return "500"

    store.answer = answer
    merged(world, OUT)
    found = store.objects("out")
    assert all(found[f"out/{name}"] == expected[name] for name in expected if name.endswith(".safetensors"))
    assert len(failed) > 5


def test_what_cannot_be_removed_is_said(world, store):
    removed = []

    def answer(*request):
        if request == REMOVAL:
            removed.append(request)
        refused = request == REMOVAL and len(removed) > 2  # its mark is removed at the start and before the config
        return "403" if refused or (request[0] == "PUT" and request[1].endswith(CONFIG)) else None

    store.answer = answer
    with pytest.raises(OutputError) as caught:
        merged(world, OUT)
    said = str(caught.value)
    assert "cannot be written: access is denied" in said
    assert "s3://bucket/out/model-00001-of-" in said
    assert "cannot be removed: access is denied" in said
    assert "Remove it by hand" in said


def test_a_store_that_lets_nothing_be_removed_is_found_before_the_work(world, store):
    store.answer = lambda *request: "403" if request == REMOVAL else None
    events = []
    with pytest.raises(OutputError, match=r"sdmw_unfinished: cannot be written: access is denied"):
        merged(world, OUT, progress=events.append)
    assert not any(isinstance(event, Progress) for event in events)


def test_a_store_that_has_another_shard_than_was_sent(world, store, monkeypatch):
    real = remote.fetch

    def other(address, start, stop):
        return (bytes(stop), remote.Found(stop, "", 0)) if "safetensors" in address else real(address, start, stop)

    monkeypatch.setattr(remote, "fetch", other)
    with pytest.raises(OutputError, match="expected the shard that was sent, found another object"):
        merged(world, OUT)
    assert (store.objects(), store.unfinished()) == ({}, [])


def test_an_input_that_changes_meanwhile(world, store, tmp_path):
    shutil.copytree(world, tmp_path / "world")

    def touch(event):
        if isinstance(event, Progress) and event.stage == "apply":
            os.utime(tmp_path / "world" / "corp" / "model.safetensors", (1, 1))

    with pytest.raises(RunError, match="input changed while it was read"):
        merged(tmp_path / "world", OUT, progress=touch)
    assert (store.objects(), store.unfinished()) == ({}, [])


def test_an_adapter_is_known_by_its_config(world, store, tmp_path):
    rng = np.random.default_rng(3)
    write_adapter(tmp_path / "one", adapter_of(rng, llama_like(rng)), base_model_name_or_path="")
    lora = {
        "merge_method": "lora", "base_model": f"{world}/base", "models": [{"model": str(tmp_path / "one")}],
        "parameters": {"output": "adapter"},
    }  # fmt: skip
    sdmw.merge(lora, OUT, progress=False)
    sdmw.merge(lora, tmp_path / "local", progress=False)
    names = ["adapter_model.safetensors", "adapter_config.json"]
    found = store.objects("out")
    assert [found[f"out/{name}"] == (tmp_path / "local" / name).read_bytes() for name in names] == [True, True]
    assert sent(store)[-1] == "adapter_config.json"


def test_a_signal_ends_it_and_leaves_nothing(world, store):
    def stop(event):
        if isinstance(event, Progress) and event.stage == "apply":
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError):
        merged(world, OUT, progress=stop)
    assert (store.objects(), store.unfinished()) == ({}, [])


def test_what_is_there_is_refused_or_replaced(world, store, tmp_path):
    merged(world, OUT, max_shard_size="100kB")
    before = store.objects()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PlanError, match=r"s3://bucket/out: it exists\. Choose another name"):
        merged(world, OUT)
    assert store.objects() == before
    store.put(tmp_path, "out")
    planned = sdmw.plan(recipe(world), OUT, overwrite=True)
    assert any("is removed before the first shard is sent" in each for each in planned.warnings)
    assert any(each.endswith("these files in it are lost: 'notes.txt'") for each in planned.warnings)
    gone = []

    def look(*request):
        if request == REMOVAL:
            gone.append(set(before) - set(store.names()))

    store.answer = look
    merged(world, OUT, overwrite=True)
    assert gone[3] == {f"out/{INDEX}", f"out/{CONFIG}"}
    merged(world, "s3://bucket/fresh")
    names = {key.partition("/")[2] for key in store.objects("fresh")}
    assert {key.partition("/")[2] for key in store.objects("out")} == names
    assert MARK not in names


def test_a_folder_of_something_else_is_not_replaced(world, store, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    store.put(tmp_path, "out")
    (problem,) = sdmw.plan(recipe(world), OUT, overwrite=True).problems
    assert problem.found == "it holds 'thesis.tex', and is not a model or a result of sdmw"


def test_what_a_killed_run_left_is_refused_and_replaced(world, store, tmp_path):
    (tmp_path / MARK).write_text("")
    (tmp_path / "model-00001-of-00009.safetensors").write_text("")
    store.put(tmp_path, "out")
    assert [problem.found for problem in sdmw.plan(recipe(world), OUT).problems] == ["it exists"]
    merged(world, OUT, overwrite=True)
    assert not {MARK, "model-00001-of-00009.safetensors"} & {key.removeprefix("out/") for key in store.objects()}


def test_two_runs_at_once(world, store):
    """The mark of the first is seen by the second, at the latest before its work."""
    second = []

    def try_too(event):
        if isinstance(event, Progress) and not second:
            second.append(sdmw.plan(recipe(world), OUT).problems[0].found)

    merged(world, OUT, progress=try_too)
    assert second == ["it exists"]


def other_run(world, store):
    """Another merge to the same place, which may overwrite; what it left there."""
    other = {**recipe(world, "linear"), "models": [{"model": f"{world}/corp", "parameters": {"weight": 1.0}}]}
    sdmw.merge(other, OUT, overwrite=True, progress=False, threads=1, max_shard_size="1MB")
    return store.objects()


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_whose_place_was_taken_ends_and_leaves_the_other_s_result(world, store, interrupted):
    """Mixed shards of two merges would be read without an error."""
    left = []

    def take(event):
        if isinstance(event, Progress) and event.stage == "apply" and event.done > event.total / 3 and not left:
            left.append(other_run(world, store))
            if interrupted:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError if interrupted else OutputError) as caught:
        merged(world, OUT, progress=take, threads=1)
    said = str(caught.value)
    assert "objects of this run remain there: another run has begun to write there" in said
    assert interrupted or "another run, which was allowed to overwrite, has taken its place" in said
    now = store.objects()
    assert {key for key in left[0] if now.get(key) != left[0][key]} == set()
    assert store.unfinished() == []


@pytest.mark.parametrize("conditional", [True, False])
def test_two_runs_that_begin_at_once(world, store, monkeypatch, conditional):
    """Both found nothing there; the second is told by a store that writes what is new alone, else the first is."""
    if not conditional:
        monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    mark = from_url("s3://bucket", client_options={"allow_http": True})

    def answer(method, path, span):
        if (method, path.endswith(MARK)) == ("PUT", True):
            store.answer = None
            obstore.put(mark, f"out/{MARK}", b"another's", mode="create" if conditional else "overwrite")

    store.answer = answer
    if conditional:
        with pytest.raises(OutputError, match="it exists"):
            merged(world, OUT)
        assert store.objects() == {f"out/{MARK}": b"another's"}
    else:
        merged(world, OUT)
        assert f"out/{CONFIG}" in store.names()


@pytest.mark.parametrize("name", ["model.safetensors", "model-00001-of-"])
def test_weights_of_others_beside_those_that_were_sent(world, store, name):
    """Whoever loads the folder could take them."""
    writer = from_url("s3://bucket", client_options={"allow_http": True})

    def put(event):
        if isinstance(event, Progress) and event.stage == "apply" and event.done == event.total:
            for key in [key for key in store.names() if name in key] or [f"out/{name}"]:
                obstore.put(writer, key, b"another's")

    with pytest.raises(OutputError, match="expected only objects of this run, found an object of another run"):
        merged(world, OUT, progress=put)
    assert not {f"out/{CONFIG}", f"out/{INDEX}"} & set(store.names())


def test_a_slow_link(world, store, monkeypatch):
    """Parts share it, so that each takes longer than a request that reads may."""
    monkeypatch.setattr(remote, "PATIENCE", 0.5)
    monkeypatch.setattr(remote, "RETRIES", 0)
    slowed = []

    def answer(method, path, span):
        if method == "PUT" and path.endswith("model.safetensors") and not slowed:
            slowed.append(path)
            time.sleep(0.8)

    store.answer = answer
    merged(world, OUT, max_shard_size="1GB")
    assert slowed
    assert f"out/{CONFIG}" in store.names()


@pytest.mark.parametrize("place", ["s3://bucket", "HERE"])
def test_the_model_of_the_tokenizer_is_an_input_too(store, tmp_path, place):
    """It is read once the weights are there: overwritten before, nothing would be left of it."""
    for name in ("base", "corp", "tokens"):
        write_model(tmp_path / name, ["<unk>", "a", "b"])
        store.put(tmp_path / name, name)
    at = str(tmp_path) if place == "HERE" else place
    models = [{"model": f"{at}/{name}", "parameters": {"weight": 1.0}} for name in ("base", "corp")]
    asked = {"merge_method": "linear", "models": models, "tokenizer": {"source": f"{at}/tokens"}}
    before = store.objects()
    with pytest.raises(PlanError, match=r"separate from the inputs, found it is the input \S*tokens"):
        sdmw.merge(asked, f"{at}/tokens", overwrite=True, progress=False)
    assert store.objects() == before
    assert (tmp_path / "tokens" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("https://host/out", "expected an object store, found a file server"),
        ("s3://bucket", "expected a folder in a store, found the whole store"),
        ("s3://bucket/", "expected a folder in a store, found the whole store"),
        (f"s3://{SECRET}@bucket/out", "an address with credentials"),
        ("s3://bucket/a/../b", "one that leads upwards"),
        ("s3://nowhere/out", "it cannot be listed: the server says 404 Not Found (NoSuchBucket)"),
    ],
)
def test_addresses_that_are_refused(world, store, out, said):
    problems = sdmw.plan(recipe(world), out).problems
    assert said in str(problems[0])
    assert SECRET not in repr(problems)


@pytest.mark.parametrize(("out", "said"), [("base", "is the input"), ("base/x", "is inside"), ("", "contains")])
def test_an_input_is_not_written_to(world, store, out, said):
    store.put(world / "base", "models/base")
    model = {"model": "s3://bucket/models/base", "parameters": {"weight": 1.0}}
    remote_recipe = {"merge_method": "linear", "models": [model]}
    (problem, *_) = sdmw.plan(remote_recipe, f"s3://bucket/models/{out}", overwrite=True).problems
    assert said in problem.found


def test_executors_and_documents_are_refused(world, tmp_path):
    with ThreadPoolExecutor(1) as executor, pytest.raises(UsageError, match=r"or write to a folder that all workers"):
        sdmw.plan(recipe(world), OUT, executor=executor)
    (tmp_path / "two.yaml").write_text(
        "".join(
            f"---\nname: {name}\nmerge_method: linear\nmodels: [{{model: {model}, parameters: {{weight: 1.0}}}}]\n"
            for name, model in (("first", world / "corp"), ("second", "first"))
        )
    )
    with pytest.raises(RecipeError, match="documents: expected a folder of this machine"):
        sdmw.plan(tmp_path / "two.yaml", OUT)


def test_memory_and_disk_of_the_plan(world, store):
    local, remote_plan = sdmw.plan(recipe(world), threads=2), sdmw.plan(recipe(world), OUT, threads=2)
    assert remote_plan.free_bytes == 0
    assert remote_plan.peak_bytes > local.peak_bytes + remote_writing.memory_of(local.shards[0].size)


def test_parts_grow_where_there_would_be_too_many():
    assert remote_writing.part_of(5 * 10**9) == remote_writing.PART
    assert -(-(10**12) // remote_writing.part_of(10**12)) <= 10_000


def test_the_command(world, store, tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps(recipe(world)))
    command = [sys.executable, "-m", "sdmw", "merge", str(tmp_path / "recipe.json"), OUT, "--threads", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert OUT in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "out/config.json" in store.objects("out")


@pytest.mark.skipif(os.environ.get("SDMW_FAULTS") != "all", reason="long: SDMW_FAULTS=all")
def test_a_killed_run_leaves_no_model(world, store, tmp_path):
    """At some requests of a run; then a run that may overwrite ends as it should."""
    (tmp_path / "recipe.json").write_text(json.dumps(recipe(world)))
    options = ["--threads", "2", "--max-shard-size", "300kB"]
    command = [sys.executable, "-m", "sdmw", "merge", str(tmp_path / "recipe.json"), OUT, *options]
    for moment in range(3, 30, 4):
        asked, running = [0], []

        def kill(*request, asked=asked, running=running, moment=moment):
            asked[0] += 1
            if asked[0] == moment and running:
                running[0].kill()

        store.answer = kill
        running.append(subprocess.Popen([*command, "--overwrite"], stderr=subprocess.PIPE, stdout=subprocess.PIPE))
        running[0].communicate(timeout=120)
        assert (f"out/{INDEX}" in store.names()) == (running[0].returncode == 0)
    store.answer = None
    subprocess.run([*command, "--overwrite"], check=True, capture_output=True, timeout=120)
    assert {f"out/{INDEX}", f"out/{CONFIG}"} <= set(store.names())
    assert f"out/{MARK}" not in store.names()


def test_what_was_gathered_goes_before_what_is_large():
    """An output that is written from front to back would wait for ever for what the same thread still holds."""
    got = []
    gathered = Gathered(lambda shard, offset, data: got.append((offset, data.nbytes)))
    gathered(0, 0, np.zeros(8, np.uint8))
    gathered(0, 8, np.zeros(MOST, np.uint8))
    assert got == [(0, 8), (8, MOST)]


@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=6), min_size=1, max_size=4), st.data())
def test_tiles_in_any_order_come_in_order(sizes, data):
    """Each worker takes the next tile, and may be late with it; what comes early waits, but never more than may."""
    wanted = [(f"t{i}.{j}", DType.U8, (n,)) for i, shard in enumerate(sizes) for j, n in enumerate(shard)]
    shards = lay_out(wanted, 60)
    tiles = [(place.shard, place.offset, place.name) for shard in shards for place in shard.tensors if place.nbytes]
    content = {place.name: os.urandom(place.nbytes) for shard in shards for place in shard.tensors}
    early, got = data.draw(st.integers(1, 3)), {}
    sink = OrderedSink(shards, lambda shard, view: got.setdefault(shard, bytearray()).extend(view), early, lambda: None)
    workers = early + 1  # of which one brings the next
    under_way, left = [], iter(tiles)
    while under_way or (not under_way and (first := next(left, None))):
        if not under_way:
            under_way = [first]
        under_way += [tile for _ in range(workers - len(under_way) - len(sink._held)) if (tile := next(left, None))]
        shard, offset, name = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
        sink.write(shard, offset, np.frombuffer(content[name], np.uint8))
        assert len(sink._held) <= early
    sink.check_complete()
    for number, shard in enumerate(shards):
        assert bytes(got.get(number, b"")) == b"".join(content[place.name] for place in shard.tensors)


def test_who_waits_with_an_early_tile_is_told_of_an_error():
    shards = lay_out([(name, DType.U8, (4,)) for name in "abcd"], 100)
    start, tile = len(shards[0].header), np.zeros(4, np.uint8)

    def take(shard, view):
        raise OutputError([sdmw.errors.Problem("out", "", "full")])

    sink = OrderedSink(shards, take, 1, lambda: None)
    sink.write(0, start + 4, tile)
    found = []

    def wait():
        with pytest.raises(OutputError, match="full") as caught:
            sink.write(0, start + 8, tile)
        found.append(caught.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    with pytest.raises(OutputError, match="full"):
        sink.write(0, start, tile)
    waiting.join(5)
    assert len(found) == 1
    with pytest.raises(OutputError, match="full"):
        sink.check_complete()


def test_who_waits_leaves_when_the_run_ends():
    shards = lay_out([(name, DType.U8, (4,)) for name in "abc"], 100)
    start, tile = len(shards[0].header), np.zeros(4, np.uint8)

    def check():
        raise KeyError("ending")

    sink = OrderedSink(shards, lambda shard, view: None, 1, check)
    sink.write(0, start + 4, tile)
    with pytest.raises(KeyError, match="ending"):
        sink.write(0, start + 8, tile)
    with pytest.raises(RuntimeError, match="0 of 12 bytes of tensors came in order"):
        sink.check_complete()
