"""Models in stores: the bits of a merge of local files, whatever the store does in between, and no secret anywhere."""

import json
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from http.client import HTTPConnection
from multiprocessing import get_context

import numpy as np
import pytest

import sdmw
from adapters_on_disk import adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from command_line import everything_in
from sdmw.addresses import is_plain, objection
from sdmw.checkpoints import formats
from sdmw.errors import CheckpointError, InputChangedError, PlanError, Problem, RunError, UnreachableError
from sdmw.planning.limits import Apart
from sdmw.recipes.model_ref import ModelRef
from sdmw.running import journal
from sdmw.running.context import working
from sdmw.running.events import Progress, Resuming
from sdmw.storage import remote, remote_folder
from sdmw.tensors import read_ahead
from stores_on_loopback import SECRET, azure, s3, web

everything = pytest.mark.skipif(os.environ.get("SDMW_FAULTS") != "all", reason="long: SDMW_FAULTS=all")
MODELS = ("base", "corp", "func")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(8)
    base = llama_like(rng)
    base["model.wide.weight"] = rng.normal(0, 0.02, (300, 1111)).astype(np.float32)
    for name in MODELS:
        write_checkpoint(folder / name, base if name == "base" else fine_tuned(rng, base))
    write_adapter(folder / "lora", adapter_of(rng, base), base_model_name_or_path="")
    (folder / "base" / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (folder / "base" / "additional_chat_templates").mkdir()
    (folder / "base" / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")
    return folder


@pytest.fixture
def store(world, monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    monkeypatch.setattr(read_ahead, "BLOCK", 1 << 16)
    forget()
    with s3(monkeypatch) as found:
        for name in (*MODELS, "lora"):
            found.put(world / name, f"models/{name}")
        found.requests.clear()
        found.sent = 0
        yield found
    forget()


def forget():
    remote._stores.clear()
    remote_folder.forget()


def recipe(place, *models):
    entries = [{"model": f"{place}/{name}"} for name in models or ("corp", "func")]
    return {"merge_method": "sdm_w", "base_model": f"{place}/base", "models": entries}


REMOTE = recipe("s3://bucket/models")


def bits(out):
    """Of all but what names the models, or tells times."""
    named = ("sdmw_report.json", "sdmw_report.html", "README.md", "sdmw_recipe.yaml")
    return {path: found[2] for path, found in everything_in(out).items() if path not in named}


def merged(asked, out, **options):
    return sdmw.merge(asked, out, progress=options.pop("progress", False), max_shard_size="500KB", **options)


@pytest.fixture(scope="module")
def expected(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "out"
    merged(recipe(world), out)
    return bits(out)


def test_models_in_a_store_give_the_same_bits(store, expected, tmp_path):
    planned = sdmw.plan(REMOTE, tmp_path / "out")
    assert planned.problems == ()
    assert planned.peak_bytes > read_ahead.KEPT * 3
    assert store.sent < 40_000
    assert not any(method == "GET" and size(span) > 5000 for method, path, span in store.requests)
    merged(REMOTE, tmp_path / "out")
    assert bits(tmp_path / "out") == expected
    assert {"tokenizer_config.json", "additional_chat_templates/tool.jinja"} <= expected.keys()
    assert os.listdir(tmp_path) == ["out"]  # what was fetched went through memory
    assert sdmw.verify(tmp_path / "out", sample=1, progress=False).problems == ()
    assert SECRET not in everything_said(tmp_path)


def size(span):
    first, _, last = span.removeprefix("bytes=").partition("-")
    return int(last) - int(first) + 1 if last else 0


def everything_said(folder):
    return "".join(str(content) for _, _, content in everything_in(folder).values())


def test_an_adapter_in_a_store(store, world, tmp_path):
    merged(recipe("s3://bucket/models", "corp", "lora"), tmp_path / "remote")
    merged(recipe(world, "corp", "lora"), tmp_path / "local")
    assert bits(tmp_path / "remote") == bits(tmp_path / "local")


def at_first(fault):
    """Each part of the weights is answered like this when it is first asked for."""
    seen = set()

    def answer(*request):
        method, path, _ = request
        again = request in seen
        seen.add(request)
        return fault if method == "GET" and path.endswith(".safetensors") and not again else None

    return answer


@pytest.mark.parametrize("fault", ["500", "short", pytest.param("slow", marks=everything)])
def test_what_a_store_fails_at_is_asked_again(store, expected, tmp_path, fault):
    store.answer = at_first(fault)
    merged(REMOTE, tmp_path / "out")
    assert bits(tmp_path / "out") == expected


def test_a_store_that_goes_on_failing_is_an_error_and_the_run_is_resumed(store, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "COMMIT_EVERY", 0.0)

    def fail(event):
        if isinstance(event, Progress) and event.stage == "apply":
            store.answer = lambda method, path, span: "500" if method == "GET" else None
            read_ahead.blocks.forget()

    with pytest.raises((RunError, UnreachableError), match="the server says 500 Internal Server Error") as caught:
        merged(REMOTE, tmp_path / "out", progress=fail)
    assert caught.value.resumable
    store.answer = None
    events = []
    merged(REMOTE, tmp_path / "out", progress=events.append)
    assert any(isinstance(event, Resuming) for event in events)
    assert bits(tmp_path / "out") == expected


def test_an_object_replaced_in_mid_run_is_an_error(store, world, tmp_path):
    def replace(event):
        if isinstance(event, Progress) and event.stage == "measure" and event.done < event.total / 2:
            other = bytearray((world / "corp" / "model.safetensors").read_bytes())
            other[-1] ^= 1
            (tmp_path / "other").mkdir(exist_ok=True)
            (tmp_path / "other" / "model.safetensors").write_bytes(other)
            store.put(tmp_path / "other", "models/corp")
            read_ahead.blocks.forget()

    with pytest.raises(InputChangedError, match=r"s3://bucket/models/corp/model\.safetensors was replaced"):
        merged(REMOTE, tmp_path / "out", progress=replace)
    assert os.listdir(tmp_path) == ["other"]


def test_a_web_server_gives_the_same_bits_if_its_certificate_is_trusted(world, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    forget()
    with web(tmp_path) as server:
        for name in MODELS:
            server.put(world / name, f"models/{name}")
        (problem, *_) = sdmw.plan(recipe(f"{server.url}/models")).problems
        assert problem.found == "the folder cannot be listed: its certificate is not trusted"
        monkeypatch.setenv("AWS_ALLOW_INVALID_CERTIFICATES", "true")  # asks for what is never done
        forget()
        assert "certificate" in sdmw.plan(recipe(f"{server.url}/models")).problems[0].found
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        forget()
        merged(recipe(f"{server.url}/models"), tmp_path / "out")
        server.etag = 'W/"weak"'  # which no server can be asked to match: it is compared here
        merged(recipe(f"{server.url}/models"), tmp_path / "again")

        def replace(event):
            if isinstance(event, Progress):
                server.etag = 'W/"another"'
                read_ahead.blocks.forget()

        with pytest.raises(InputChangedError, match="was replaced"):
            merged(recipe(f"{server.url}/models"), tmp_path / "never", progress=replace)
    forget()
    ours = {path: content for path, content in expected.items() if "additional" not in path}  # which nobody looks for
    assert bits(tmp_path / "out") == bits(tmp_path / "again") == ours


def test_a_web_server_that_gives_no_ranges_or_tells_files_apart_by_nothing(world, tmp_path, monkeypatch):
    forget()
    with web(tmp_path) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        server.put(world / "base", "models/base")
        server.etag = server.modified = None
        with pytest.raises(CheckpointError, match="the server gives neither an ETag nor a time of change"):
            sdmw.inspect(f"{server.url}/models/base")
        server.modified, server.ranges = "Sat, 28 Nov 2026 10:00:00 GMT", False
        forget()
        with pytest.raises(CheckpointError, match="the server sends only whole files, not ranges of them"):
            sdmw.inspect(f"{server.url}/models/base")
        server.ranges = True
        forget()
        assert sdmw.inspect(f"{server.url}/models/base").to_dict()["tensors"]
    forget()


def test_a_container_of_azure(world, expected, tmp_path, monkeypatch):
    """An address names account and container; listings there say ETags without quotes, answers with them."""
    files = {
        f"/container/models/{path.relative_to(world)}": path.read_bytes() for path in world.rglob("*") if path.is_file()
    }
    forget()
    with azure(monkeypatch, files):
        merged(recipe("az://account/container/models"), tmp_path / "out")
    forget()
    assert bits(tmp_path / "out") == expected


def test_hosts_of_stores_are_web_servers_where_the_address_says_so(monkeypatch):
    """No request to them is signed."""
    forget()
    for host in ("bucket.s3.amazonaws.com", "s3.us-east-1.amazonaws.com", "account.blob.core.windows.net"):
        assert type(remote.store_of(f"https://{host}")).__name__ == "HTTPStore"
    forget()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Error performing GET http://dns/timeout-certificate in 2ms", "the request failed"),
        ("Object at location dns/credential not usable", "the request failed"),
        ("Error performing GET http://host/x in 2ms: dns error", "its host name is unknown"),
    ],
)
def test_names_of_objects_are_no_causes(words, said):
    assert remote._reason("GenericError", words) == said


def test_an_empty_folder_in_a_model(store, expected, tmp_path):
    """As consoles and mounts of stores make it: an object whose name ends in a slash."""
    connection = HTTPConnection(store.url.removeprefix("http://"))
    for folder in ("models/base/", "models/base/empty/"):
        connection.request("PUT", f"/bucket/{folder}", body=b"")
        assert connection.getresponse().read() == b""
    connection.close()
    merged(REMOTE, tmp_path / "out")
    assert bits(tmp_path / "out") == expected


@everything
def test_seventy_billion_parameters_are_planned_from_their_headers(tmp_path, monkeypatch):
    """Shards of which the server has the header alone; what is fetched of them is counted."""
    layers, width, inner = 80, 8192, 28672
    names = {f"model.layers.{n}.{part}.weight": shape for n in range(layers) for part, shape in {
        "self_attn.q_proj": [width, width], "self_attn.k_proj": [1024, width], "self_attn.v_proj": [1024, width],
        "self_attn.o_proj": [width, width], "mlp.gate_proj": [inner, width], "mlp.up_proj": [inner, width],
        "mlp.down_proj": [width, inner], "input_layernorm": [width], "post_attention_layernorm": [width],
    }.items()}  # fmt: skip
    names |= {"model.embed_tokens.weight": [128256, width], "lm_head.weight": [128256, width]}
    shards = [list(names)[n::30] for n in range(30)]
    forget()
    with web(tmp_path) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        places = {}
        for number, shard in enumerate(shards):
            file, end, header = f"model-{number + 1:05}-of-00030.safetensors", 0, {}
            for name in shard:
                size = 2 * int(np.prod(names[name]))
                header[name] = {"dtype": "BF16", "shape": names[name], "data_offsets": [end, end + size]}
                end += size
                places[name] = file
            raw = json.dumps(header).encode()
            server.files[f"/model/{file}"] = len(raw).to_bytes(8, "little") + raw, 8 + len(raw) + end
        for name, content in {
            "config.json": {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": layers},
            "model.safetensors.index.json": {"metadata": {}, "weight_map": places},
        }.items():
            raw = json.dumps(content).encode()
            server.files[f"/model/{name}"] = raw, len(raw)
        asked = {"merge_method": "linear", "models": [{"model": f"{server.url}/model"}]}
        planned = sdmw.plan(asked)
        assert server.sent < 200_000  # headers and index have 147,000
    forget()
    assert planned.problems == ()
    assert planned.bytes_read > 140e9


SECRETS = [
    f"https://someone:{SECRET}@models.example/base", f"s3://{SECRET}@bucket/base",
    f"https://models.example/base?X-Amz-Signature={SECRET}", f"az://account/container/base?sig={SECRET}",
    f"https://models.example/base#{SECRET}", f"s3://AKIA:{SECRET}/x@bucket/base", f"https://AKIA:{SECRET}/x@host/base",
]  # fmt: skip


@pytest.mark.parametrize("address", SECRETS)
def test_an_address_with_a_secret_is_refused_without_repeating_it(address, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(f"merge_method: linear\nmodels:\n- model: {address!r}\n")
    with pytest.raises(PlanError, match="an address with credentials, a signature or parameters in it") as caught:
        sdmw.merge(tmp_path / "recipe.yaml", tmp_path / "out")
    problems = json.dumps(sdmw.plan(tmp_path / "recipe.yaml").to_dict())
    (tmp_path / "recipe.yaml").write_text(f"merge_method: linear\nmodels:\n- model: {address!r}\n  colour: red\n")
    with pytest.raises(sdmw.SdmwError) as wrong:
        sdmw.plan(tmp_path / "recipe.yaml")  # which shows the lines
    said = [str(caught.value), repr(caught.value), problems, str(wrong.value), *capsys.readouterr()]
    assert SECRET not in "".join(said).replace(f"#{SECRET}", "")
    assert os.listdir(tmp_path) == ["recipe.yaml"]


def test_what_a_store_says_is_never_repeated(store, monkeypatch):
    """Its errors hold addresses, which may be signed."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{store.url}/{SECRET}")
    monkeypatch.setattr(remote, "RETRIES", 0)
    store.answer = lambda method, path, span: "500"
    forget()
    (problem, *_) = sdmw.plan(recipe("s3://nowhere/models")).problems
    assert SECRET not in str(problem)
    assert store.url not in str(problem)
    assert problem.found == "the folder cannot be listed: the server says 500 Internal Server Error"


@pytest.mark.parametrize(
    "address", ["s3://bucket/../other", "s3://", "s3://bucket//x", "gs://bucket/a/./b", "https:///a"]
)
def test_addresses_that_lead_elsewhere_are_refused(address):
    with pytest.raises(CheckpointError, match="an empty part, or one that leads upwards"):
        sdmw.inspect(address)


def test_names_in_a_store_that_lead_out_of_the_folder_are_refused(store):
    """Obstore refuses to write such keys, others do not."""
    connection = HTTPConnection(store.url.removeprefix("http://"))
    connection.request("PUT", "/bucket/models/base/%2e%2e/%2e%2e/etc/passwd", body=b"x")
    assert connection.getresponse().status == 200
    connection.close()
    (problem, *_) = sdmw.plan(REMOTE).problems
    assert re.match("the folder cannot be listed|'[.][.]'", problem.found)
    with pytest.raises(CheckpointError, match="leads out of it"):
        remote_folder.found_of("s3://bucket/models/corp", "../func/config.json")
    assert not any(map(is_plain, ("..", ".", "", "a/b", "a\\b", "a\0")))


def test_a_folder_that_is_not_there_and_one_that_may_not_be_read(store, monkeypatch):
    assert "no such folder, or an empty one" in str(sdmw.plan(recipe("s3://bucket/nothing")).problems[0])
    store.answer = lambda method, path, span: "403"
    forget()
    found = sdmw.plan(recipe("s3://bucket/models")).problems[0].found
    assert found == "the folder cannot be listed: access is denied; credentials come from the environment"


def test_only_a_merge_is_written_to_an_address(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError, match="s3://bucket/out: expected a directory of this machine, found an address"):
        sdmw.extract(world / "base", world / "corp", "s3://bucket/out", rank=2, progress=False)
    assert os.listdir(tmp_path) == []


def test_each_call_reads_what_is_there_now(store, tmp_path):
    """Within half a minute too: the config of one model must not come to the weights of the next."""
    asked = {"merge_method": "linear", "models": [{"model": "s3://bucket/models/base", "parameters": {"weight": 1.0}}]}
    merged(asked, tmp_path / "before")
    config = json.loads((tmp_path / "before" / "config.json").read_text()) | {"rope_theta": 12345.0}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    store.put(tmp_path / "other", "models/base")
    merged(asked, tmp_path / "after")
    assert json.loads((tmp_path / "after" / "config.json").read_text())["rope_theta"] == 12345.0


def test_a_store_that_does_not_answer_is_asked_once_for_each_model(store, monkeypatch):
    """Each time may take a minute; and what lies there cannot be guessed."""
    monkeypatch.setattr(remote, "RETRIES", 0)
    forget()
    store.answer = lambda method, path, span: "500"
    assert "the server says 500" in str(sdmw.plan(REMOTE).problems)
    assert len(store.requests) == len(MODELS)


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr(remote, "RETRIES", 0)
    for name, value in (("ENDPOINT_URL", "http://127.0.0.1:1"), ("ALLOW_HTTP", "true"), ("ACCESS_KEY_ID", "someone")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    forget()
    (problem, *_) = sdmw.plan(recipe("s3://bucket/models")).problems
    assert problem.found == "the folder cannot be listed: it cannot be reached"
    forget()


def test_without_obstore(monkeypatch):
    remote.library.cache_clear()
    forget()
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert "pip install 'sdmw[remote]'" in str(sdmw.plan(recipe("s3://bucket/models")).problems[0])
    remote.library.cache_clear()


def test_names_of_models_in_stores():
    address = "s3://bucket/a+b@c"
    assert ModelRef.parse(address) == ModelRef(address)
    assert ModelRef.parse(f"{address}+s3://bucket/lora") == ModelRef(address, None, ModelRef("s3://bucket/lora"))
    assert ModelRef.parse("org/base@v1+s3://b/lora@x") == ModelRef("org/base", "v1", ModelRef("s3://b/lora@x"))
    assert ModelRef("s3://b/x/").identity() == ModelRef("s3://b/x").identity()
    assert objection("s3://bucket/models/base/") is None
    assert objection("https://host:8443/a@b") is None
    assert objection("https://[::1]:8443/a") is None
    assert objection("az://account/container") is None
    assert objection("az://account") == (
        "an address without a container", "Write it as in az://account/container/folder"
    )  # fmt: skip
    said = Problem("https://a:b@c/d", "'https://c/d?e=f'", "x://y/z#q", excerpt=("- s3://u@b/c?d",))
    assert (said.where, said.expected, said.found, said.excerpt) == (
        "https://…@c/d", "'https://c/d?…'", "x://y/z#q", ("- s3://…@b/c?…",)
    )  # fmt: skip


def test_what_a_worker_fetches_ahead_is_for_all_of_its_threads(store):
    """Else they take each other's blocks, and a worker of four threads fetched the models five times."""

    class Cluster:
        apart = Apart(workers=2, threads=5, most_threads=4)

        def __call__(self):
            return ThreadPoolExecutor(1)

    inputs = [formats.read(f"s3://bucket/models/{name}") for name in MODELS]
    with working(lambda event: None, 5, Cluster(), inputs=inputs) as context:
        assert pickle.loads(context.pool._setting).ahead == 4 * len(MODELS) * read_ahead.HELD


@everything
def test_other_processes_read_stores_too(store, expected, tmp_path):
    forked = pytest.raises(RunError, match="cannot be read in a forked process; use a spawned one")
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool, forked:
        merged(REMOTE, tmp_path / "out", executor=pool)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        merged(REMOTE, tmp_path / "out", executor=pool)
    assert bits(tmp_path / "out") == expected


@everything
def test_all_that_reads_models_reads_them_in_stores(store, world, tmp_path):
    base, corp = "s3://bucket/models/base", "s3://bucket/models/corp"
    assert sdmw.inspect(base).to_dict()["tensors"] == sdmw.inspect(world / "base").to_dict()["tensors"]
    rows = [sdmw.compare(*each, progress=False).to_dict()["rows"] for each in ((base, corp), local(world))]
    assert rows[0] == rows[1]
    sdmw.extract(base, corp, tmp_path / "adapter", rank=2, progress=False)
    sdmw.extract(*local(world), tmp_path / "local", rank=2, progress=False)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "local" / "adapter_model.safetensors"
    ).read_bytes()
    sdmw.pack(base, corp, tmp_path / "archive", progress=False)
    sdmw.apply(base, tmp_path / "archive", tmp_path / "applied", progress=False)
    applied, tuned = (folder / "model.safetensors" for folder in (tmp_path / "applied", world / "corp"))
    assert sdmw.compare(applied.parent, tuned.parent, progress=False).to_dict()["tensors"]["equal"] == 10
    sdmw.measure(REMOTE, tmp_path / "store", progress=False)
    assert sdmw.sweep(tmp_path / "store").rows


def local(world):
    return str(world / "base"), str(world / "corp")


@everything
def test_memory_stays_within_the_plan(store, tmp_path, monkeypatch):
    """In a process of its own, with blocks of their real size."""
    models = "[s3://bucket/models/corp, s3://bucket/models/func]"
    text = f"merge_method: sdm_w\nbase_model: s3://bucket/models/base\nmodels: {models}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    rng = np.random.default_rng(8)
    base = {f"model.layers.{n}.w": rng.normal(0, 0.02, (1024, 4096)).astype(np.float16) for n in range(4)}
    for name in MODELS:
        write_checkpoint(tmp_path / name, base if name == "base" else fine_tuned(rng, base))
        store.put(tmp_path / name, f"models/{name}")
    command = [
        sys.executable,
        "-m",
        "sdmw",
        "merge",
        str(tmp_path / "recipe.yaml"),
        str(tmp_path / "out"),
        "-q",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    run = json.loads(done.stdout)["run"]
    assert run["peak_rss"] < run["planned_peak"]
    assert store.sent < 3 * run["bytes_read"]
