"""What a person and a script see of the command line."""

import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import CONFIG, fine_tuned, llama_like, write_checkpoint
from command_line import everything_in, told
from ending import processor_seconds, seconds_to_its_end
from sdmw.api import merging
from sdmw.errors import OutputError, Problem
from sdmw.reporting import display, terminal, terminal_bar
from sdmw.running import events

MAIN = [sys.executable, "-c", "from sdmw.cli import main; main()"]
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": os.environ.get("HOME", "/")}
GONE_WITHIN = 4  # seconds of processors after a signal; two are promised, machines that test are slow


def commanded(*arguments, environment=(), **options):
    """The command in a process of its own."""
    given = {**ENVIRONMENT, **dict(environment)}
    return subprocess.run([*MAIN, *map(str, arguments)], env=given, capture_output=True, timeout=60, **options)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe of two tiny fine-tunes, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return written(tmp_path, "corp", "func")


def written(folder, *names):
    rng = np.random.default_rng(3)
    base = llama_like(rng)
    write_checkpoint(folder / "base", base)
    for name in names:
        write_checkpoint(folder / name, fine_tuned(rng, base))
    models = [{"model": f"./{name}"} for name in names]
    text = json.dumps({"merge_method": "sdm_w", "base_model": "./base", "models": models})
    (folder / "recipe.yaml").write_text(text)
    return "recipe.yaml"


def test_a_merge(recipe, capsys, monkeypatch):
    done = told(capsys, monkeypatch, "merge", recipe, "out", "--threads", 2)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].split() == ["model", "magnitude", "weight", "kept", "share"]
    for line, name in zip(lines[1:3], ("./corp", "./func"), strict=True):
        assert re.fullmatch(rf"{name} +[\d.e-]+ +0\.\d{{4}} +\d\d\.\d\d%", line)
    assert re.fullmatch(r"result +out", lines[3])
    assert re.fullmatch(r"peak memory +[\d.]+ [MG]B resident, [\d.]+ [MG]B of it anonymous", lines[4])
    assert re.fullmatch(r"time +\d+\.\d s, [\d.]+ KB read, [\d.]+ KB written", lines[5])
    assert lines[6:] == ["load it      AutoModelForCausalLM.from_pretrained('out')"]
    assert "\x1b" not in done.out


def test_json_is_all_there_is_on_standard_output(recipe, capsys, monkeypatch):
    done = told(capsys, monkeypatch, "merge", recipe, "out", "--json")
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert report == json.loads(Path("out/sdmw_report.json").read_text())
    planned = told(capsys, monkeypatch, "plan", recipe, "out2", "--json")
    assert (planned.code, planned.err) == (0, "")
    plan = json.loads(planned.out)
    wanted = {"models", "layers", "tensors", "bytes_read", "bytes_written", "peak_bytes", "free_bytes", "seconds"}
    assert plan.keys() >= {*wanted, "problems"}
    size = sum(file.stat().st_size for file in Path("out").glob("*.safetensors"))
    tensors = sum(tensor.nbytes for tensor in llama_like(np.random.default_rng(3)).values())
    assert (plan["models"], plan["layers"], plan["tensors"], plan["problems"]) == (2, 9, 9, [])
    assert (plan["bytes_read"], plan["bytes_written"]) == (2 * 3 * tensors, size)
    assert plan["peak_bytes"] >= report["run"]["peak_rss"] > 0
    inspected = told(capsys, monkeypatch, "inspect", "out", "--json")
    assert (inspected.code, inspected.err) == (0, "")
    found = json.loads(inspected.out)
    assert len(found["tensors"]) == found["total"]["tensors"] == 9
    assert found["total"]["bytes"] == tensors


def test_warnings_and_notes_stand_on_standard_error(recipe, capsys, monkeypatch):
    text = {**json.loads(Path(recipe).read_text()), "models": [{"model": "./base"}, {"model": "same"}], "lambada": 1}
    os.rename("corp", "same")
    Path("same/model.safetensors").write_bytes(Path("base/model.safetensors").read_bytes())
    Path("same/other.safetensors").write_bytes(b"")
    Path(recipe).write_text(json.dumps(text))
    done = told(capsys, monkeypatch, "merge", recipe, "out", "--json", "--ignore-unknown")
    assert done.code == 0
    assert len(json.loads(done.out)["warnings"]) == 2
    assert [line.split(" ")[0] for line in done.err.splitlines()] == ["warning:", "warning:", "note:"]
    assert "other.safetensors" in done.err
    assert "every fine-tune equals the base" in done.err
    assert "ignored: unknown field lambada at recipe.yaml:1:" in done.err
    planned = told(capsys, monkeypatch, "plan", recipe, "--ignore-unknown")
    assert planned.code == 0
    assert [line.split(" ")[0] for line in planned.err.splitlines()] == ["warning:", "note:"]


def test_a_plan(recipe, capsys, monkeypatch):
    done = told(capsys, monkeypatch, "plan", recipe, "--threads", 1)
    assert (done.code, done.err) == (0, "")
    pairs = dict(line.rstrip().split("  ", 1) for line in done.out.splitlines())
    assert list(pairs) == ["models", "blocks", "tensors", "read", "written", "peak memory", "free disk", "time"]
    assert re.fullmatch(r" *at most \d+(\.\d+)? [MG]B, with 1 thread", pairs["peak memory"])
    assert re.fullmatch(r" *0\.0 s at 1\.00 GB/s", pairs["time"])


def test_a_plan_of_what_cannot_be_read_counts_nothing(recipe, capsys, monkeypatch):
    os.rename("corp", "gone")
    done = told(capsys, monkeypatch, "plan", recipe)
    assert (done.code, done.out, len(done.errors)) == (1, "", 1)


def test_an_inspection(recipe, capsys, monkeypatch):
    done = told(capsys, monkeypatch, "inspect", "corp")
    assert (done.code, done.err) == (0, "")
    words = [line.split() for line in done.out.splitlines()]
    assert ["architecture", "LlamaForCausalLM"] in words
    assert ["dtype", "tensors", "parameters", "size"] in words
    assert ["model.layers.self_attn.q_proj.weight", "2", "512", "1.02", "KB"] in words
    missing = told(capsys, monkeypatch, "inspect", "./nothing")
    assert (missing.code, missing.out) == (1, "")
    assert missing.errors[0].startswith("'./nothing': no such directory")


@pytest.mark.parametrize(
    "arguments",
    [["merge"], ["merge", "a"], ["merge", "a", "b", "c"], ["mrege"], ["merge", "a", "b", "--threads", "0"],
     ["merge", "a", "b", "--threads", "x"], ["merge", "a", "b", "--frob"], ["plan"], ["inspect"]],
)  # fmt: skip
def test_wrong_usage(tmp_path, capsys, monkeypatch, arguments):
    done = told(capsys, monkeypatch, *arguments)
    assert (done.code, done.out) == (2, "")
    assert "Usage: " in done.err
    assert "Error: " in done.err


def test_help(capsys, monkeypatch):
    for arguments in (["--help"], ["merge", "--help"], ["plan", "--help"], ["inspect", "--help"]):
        done = told(capsys, monkeypatch, *arguments)
        assert (done.code, done.err) == (0, "")
        assert max(map(len, done.out.splitlines())) <= 80
        assert "Usage: " in done.out
        assert told(capsys, monkeypatch, *arguments[:-1], "-h") == done


def test_the_version(capsys, monkeypatch):
    done = told(capsys, monkeypatch, "--version")
    assert (done.code, done.out, done.err) == (0, f"sdmw {sdmw.__version__}\n", "")


HEAVY = {"numba", "llvmlite", "zarr", "torch", "transformers", "safetensors.torch"}


@pytest.mark.parametrize(
    ("code", "also"),
    [
        ("import sdmw", {"numpy", "pydantic", "ruamel.yaml", "rich", "typer", "psutil"}),
        ("import sdmw; sdmw.Recipe; sdmw.SdmwError", {"numpy", "pydantic", "ruamel.yaml", "rich", "psutil"}),
        ("import sdmw; sdmw.plan('recipe.yaml', 'out')", {"rich"}),
        ("import sdmw; sdmw.inspect('base')", {"rich"}),
        ("import sys, sdmw.cli; sys.argv = ['sdmw', 'plan', 'recipe.yaml']; sdmw.cli.main()", set()),
        ("import sys, sdmw.cli; sys.argv = ['sdmw', 'inspect', 'base']; sdmw.cli.main()", set()),
        ("import sys, sdmw.cli; sys.argv = ['sdmw', 'merge', 'no.yaml', 'out']; sdmw.cli.main()", set()),
        ("import sys, sdmw.cli; sys.argv = ['sdmw', 'merge', '--help']; sdmw.cli.main()", {"numpy", "rich"}),
    ],
)
def test_only_a_merge_loads_what_takes_long_to_load(recipe, code, also):
    program = f"import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n{code}"
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    loaded = set(done.stderr.split())
    assert "sdmw" in loaded
    assert not loaded & (HEAVY | also), done.stderr


LONG = "a-very-" + "long-" * 40 + "name"


@pytest.mark.parametrize("name", [LONG, "[red]x[bold]", "\x1b[31mred\x1b]0;t\x07", "two\nlines", "Модель"])
def test_names_are_shown_whole_and_harmless_at_eighty_columns(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(terminal, "Console", partial(terminal.Console, force_terminal=True, color_system=None))
    recipe = written(tmp_path, name)
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in f"./{name}")
    merged = told(capsys, monkeypatch, "merge", recipe, "out")
    inspected = told(capsys, monkeypatch, "inspect", name)
    for done in (merged, inspected):
        assert (done.code, done.err) == (0, "")
        assert max(map(len, done.out.splitlines())) <= 80
        assert "…" not in done.out
        assert "\x1b" not in done.out
    # A name that is folded goes on in the same column.
    column = "".join(line[: max(6, min(len(shown), 80))].split("  ")[0] for line in merged.out.splitlines()[1:])
    assert shown in column.replace(" ", "")
    assert shown[2:] in "".join(inspected.out.split())


def test_without_a_terminal_no_line_is_cut_or_folded(tmp_path, capsys, monkeypatch):
    """Programs read them; blanks that fill a column up are none of the line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    recipe = written(tmp_path, LONG)
    merged = told(capsys, monkeypatch, "merge", recipe, "out").out.splitlines()
    assert [line.split()[0] for line in merged if LONG in line] == [f"./{LONG}"]
    planned = told(capsys, monkeypatch, "plan", recipe, "out").out.splitlines()
    inspected = told(capsys, monkeypatch, "inspect", LONG).out.splitlines()
    assert inspected[0] == f"checkpoint    {tmp_path}/{LONG}"
    for line in (*merged, *planned, *inspected):
        assert line == line.rstrip()


def test_a_line_at_times_where_there_is_no_terminal(recipe, capsys, monkeypatch):
    assert display.LINE_EVERY == 30
    monkeypatch.setattr(display, "LINE_EVERY", 0)
    done = told(capsys, monkeypatch, "merge", recipe, "out", "--json")
    assert done.code == 0
    json.loads(done.out)
    lines = done.err.splitlines()
    for line in lines:
        assert re.fullmatch(r"(measure|apply): [\d.]+ (bytes|KB) of 20\.3 KB read, \d s", line), line
    assert [line for line in lines if " 20.3 KB of " in line] == [
        "measure: 20.3 KB of 20.3 KB read, 0 s", "apply: 20.3 KB of 20.3 KB read, 0 s"
    ]  # fmt: skip


def test_a_bar_on_a_terminal(recipe):
    main, other = pty.openpty()
    command = [*MAIN, "merge", recipe, "out", "--json"]
    environment = {**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=other) as process:
        os.close(other)
        seen = b""
        try:
            while part := os.read(main, 4096):
                seen += part
        except OSError:  # how Linux says that the other side is closed
            pass
        out = process.stdout.read()
    os.close(main)
    assert process.returncode == 0
    json.loads(out)
    assert b"\x1b[" in seen
    assert b"measure" in seen
    assert b"apply" in seen
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", seen.decode()))
    # What a terminal shows for Ctrl-C stays on the line of the bar, which is then wiped away.
    assert max(map(len, lines)) == 80 - terminal_bar.MARGIN
    assert re.search(rb"20\.3/20\.3\s+kB", seen), seen


@pytest.mark.parametrize("arguments", [["inspect", "base", "--json"], ["inspect", "base"], ["--help"]])
def test_a_reader_that_leaves(recipe, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*MAIN, *arguments], env=ENVIRONMENT, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_leaves_hides_no_fault(recipe):
    os.rename("corp", "gone")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*MAIN, "plan", recipe, "--json"],
        env=ENVIRONMENT,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_help_has_an_example_and_the_exit_codes_and_cuts_nothing(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = told(capsys, monkeypatch, "--help").out
    assert "sdmw merge recipe.yaml merged\n" in out
    assert re.search(r"^ +2 +an error in the recipe or the command line$", out, re.MULTILINE)
    assert "--install-completion" in out
    assert "..." not in out.replace("[ARGS]...", "")
    assert max(map(len, out.splitlines())) <= 80


def test_a_terminal_that_cannot_show_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = written(tmp_path, "Модель")
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    plain = commanded("merge", recipe, "out", environment=ascii_only, check=True)
    assert rb"\u041c\u043e\u0434\u0435\u043b\u044c" in plain.stdout
    as_json = commanded("merge", recipe, "out2", "--json", environment=ascii_only, check=True)
    assert json.loads(as_json.stdout)["models"][0]["name"] == "./Модель"


def test_a_target_whose_name_is_no_text(recipe):
    done = commanded("merge", recipe, os.fsdecode(b"out\xff"), "--json", check=True)
    report = json.loads(done.stdout)
    with open(b"out\xff/sdmw_report.json", "rb") as file:
        assert json.load(file) == report
    again = commanded("merge", recipe, os.fsdecode(b"out\xff"), check=False)
    assert (again.returncode, again.stdout) == (1, b"")
    assert rb"out\udcff: it exists" in again.stderr


def test_without_a_working_directory(recipe, tmp_path):
    (tmp_path / "here").mkdir()
    code = "import os, sdmw.cli; os.rmdir(os.getcwd()); sdmw.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "../base"], cwd=tmp_path / "here", env=ENVIRONMENT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    removed = (
        "current directory: expected an existing directory, found a removed one. Change to an existing directory (cd)"
    )
    assert done.stderr.startswith(f"error: {removed}")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_run_begins(recipe, capsys, monkeypatch, signum):
    def interrupted(*_arguments, **_options):
        os.kill(os.getpid(), signum)
        time.sleep(1)

    monkeypatch.setattr(merging, "load", interrupted)
    done = told(capsys, monkeypatch, "merge", recipe, "out")
    assert (done.code, done.out) == (128 + signum, "")
    assert done.errors == [f"{signal.Signals(signum).name}: stopped by this signal"]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three checkpoints of 640 MB that take no disk: sparse files. Merging them takes seconds."""
    folder = tmp_path_factory.mktemp("large")
    count, elements = 8, 20_000_000
    entries = {
        f"t{n}": {"dtype": "F32", "shape": [elements], "data_offsets": [4 * elements * n, 4 * elements * (n + 1)]}
        for n in range(count)
    }
    header = json.dumps(entries).encode()
    for name in ("base", "corp", "func"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(CONFIG))
        with open(folder / name / "model.safetensors", "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 4 * elements * count)
    models = [{"model": str(folder / "corp")}, {"model": str(folder / "func")}]
    text = {"merge_method": "sdm_w", "base_model": str(folder / "base"), "models": models}
    (folder / "recipe.yaml").write_text(json.dumps(text))
    return folder


@pytest.mark.parametrize(
    ("signum", "times"), [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1)]
)
def test_a_signal_ends_a_run_that_can_be_gone_on_with(large, tmp_path, signum, times):
    before = sorted(os.listdir(large))
    out, work = tmp_path / "out", tmp_path / ".out.sdmw" / "out"
    command = [*MAIN, "merge", str(large / "recipe.yaml"), str(out), "--threads", "1"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        limit = time.monotonic() + 30
        while not work.exists() and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.2)
        since = processor_seconds(process)
        for _ in range(times):
            os.kill(process.pid, signum)  # Popen's own would wait for it where it has ended
            time.sleep(0.02)
        took = seconds_to_its_end(process, since)
        told_out, told_err = process.communicate(timeout=30)
    assert process.returncode == 128 + signum
    assert took < GONE_WITHIN
    assert told_out == b""
    left = os.listdir(tmp_path)
    said = f"error: {signum.name}: stopped by this signal\n"
    if left:  # a layer was decided before
        assert left == [".out.sdmw"]
        again = shlex.join(["sdmw", *command[len(MAIN) :]])
        said += f"note: finished work is kept in {tmp_path}/.out.sdmw: the same command resumes it. "
        said += f"Continue with: {again}\n"
    assert told_err.decode() in ([said] if times == 1 else [said, ""])
    assert sorted(os.listdir(large)) == before


def test_the_target_is_free_again_after_a_fault(recipe, capsys, monkeypatch, tmp_path):
    with open("func/model.safetensors", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        good = file.read()
        file.seek(-4, os.SEEK_END)
        file.write(b"\xff\x7f\xff\x7f")
    before = everything_in(tmp_path)
    done = told(capsys, monkeypatch, "merge", recipe, "out")
    assert done.code == 1
    assert "found nan" in done.errors[0]
    assert everything_in(tmp_path) == before
    with open("func/model.safetensors", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(good)
    assert told(capsys, monkeypatch, "merge", recipe, "out").code == 0
    assert sdmw.inspect("out").total.tensors == 9


def fail():
    raise OutputError([Problem("the disk", "", "is tired")])


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def interrupted(capsys, monkeypatch, end, *arguments):
    """A command that is ended while it applies."""

    def receive(_display, event):
        if isinstance(event, events.Progress) and event.stage == "apply":
            end()

    with monkeypatch.context() as patched:
        patched.setattr(display.Display, "__call__", receive)
        return told(capsys, monkeypatch, *arguments)


def tensors_of(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.safetensors")}


@pytest.mark.parametrize("end", [fail, stop])
def test_the_mend_of_a_changed_recipe_is_followed(recipe, capsys, monkeypatch, no_bundles, end):
    """An interrupted merge, then another recipe: the message names the option that gives the right result."""
    ended = interrupted(capsys, monkeypatch, end, "merge", recipe, "out")
    assert ended.code == (1 if end is fail else 128 + signal.SIGTERM)
    assert os.listdir(".out.sdmw")

    changed = {**json.loads(Path(recipe).read_text()), "parameters": {"k": 50}}
    Path(recipe).write_text(json.dumps(changed))
    refused = told(capsys, monkeypatch, "merge", recipe, "out")
    assert (refused.code, refused.out) == (1, "")
    assert "--restart" in refused.errors[0]
    assert refused.errors[1:] == ["parameters.k: not set → 50"]

    assert told(capsys, monkeypatch, "merge", recipe, "out", "--restart").code == 0
    assert told(capsys, monkeypatch, "merge", recipe, "undisturbed").code == 0
    assert tensors_of("out") == tensors_of("undisturbed")
    assert not Path(".out.sdmw").exists()


def test_the_command_that_goes_on_does_not_restart(recipe, capsys, monkeypatch):
    ended = interrupted(capsys, monkeypatch, fail, "merge", recipe, "out", "--restart")
    assert f"Continue with: sdmw merge {recipe} out\n" in ended.err


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_a_quiet_merge_shows_no_progress(recipe, capsys, monkeypatch, option):
    monkeypatch.setattr(display, "LINE_EVERY", 0)
    done = told(capsys, monkeypatch, "merge", recipe, "out", option)
    assert (done.code, done.err) == (0, "")
    assert done.out


def test_verifying_takes_the_limit_that_its_message_speaks_of(recipe, capsys, monkeypatch):
    assert told(capsys, monkeypatch, "merge", recipe, "out").code == 0
    refused = told(capsys, monkeypatch, "verify", "out", "--header-limit", "100")
    assert refused.code == 1
    assert "raise the header limit" in refused.errors[0]
    assert told(capsys, monkeypatch, "verify", "out", "--header-limit", "1MB", "--download").code == 0
