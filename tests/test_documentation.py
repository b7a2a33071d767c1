"""Documentation is run: what texts and messages name exists, and what they show happens."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sdmw
from command_line import told
from documented import (
    COMMAND,
    ENGINE,
    LONG_OPTION,
    ROOT,
    blocks,
    commands,
    literals_of,
    options_of,
    problems_of_markdown,
    problems_of_source,
    usage_problems,
)
from sdmw.methods import all_methods

DOCUMENTS = [
    path
    for name in ("*.md", "engine/*.md", "engine/sdmw/**/*.md", "benchmarks/*.md", "tests/data/*.md")
    for path in sorted(ROOT.glob(name))
]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "80"}
SDMW = [sys.executable, "-c", "from sdmw.cli import main; main()"]


def named(path):
    return str(path.relative_to(ROOT))


def shown(kind):
    """All blocks of a kind in all documents, as parameters of a test."""
    found = [(path, block) for path in DOCUMENTS for block in blocks(path.read_text()) if block.kind == kind]
    return [pytest.param(block.text, id=f"{named(path)}:{block.line}") for path, block in found]


def usage_lines():
    """The usage lines of README.md, those in remarks too."""
    lines = [line for block in blocks((ROOT / "README.md").read_text()) if block.kind == "shell"
             for line in block.text.splitlines()]  # fmt: skip
    return [part.strip() for line in lines for part in re.split(r"#|;|:", line) if COMMAND.match(part.strip())]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder where the paths of the documents' examples exist."""
    (tmp_path / "tests").mkdir()
    for name, target in {
        "tests/data": "tests/data", "scripts": "scripts", "base": "tests/data/base", "corp": "tests/data/corp",
        "func": "tests/data/func", "one": "tests/data/corp-lora", "two": "tests/data/func-lora",
    }.items():  # fmt: skip
        (tmp_path / name).symlink_to(ROOT / target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What is named


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_what_a_document_names_exists(path):
    assert problems_of_markdown(path.read_text(), path.parent) == []


@pytest.mark.parametrize("path", sorted(ENGINE.rglob("*.py")), ids=named)
def test_what_a_message_names_exists(path):
    assert problems_of_source(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("Use `--begin-anew` then.", "no option --begin-anew"),
        ("Use --begin-anew then.", "no option --begin-anew"),
        ("Use `sdmw plan RECIPE --restart` then.", "no option --restart of sdmw plan"),
        ("Use `sdmw merge RECIPE OUT -x` then.", "no option -x of sdmw merge"),
        ("`scripts/soak --hours` runs long.", "no option --hours"),
        ("`scaling.py --threads`", "no option --threads"),
        ("Then `sdmw resume OUT`.", "no command sdmw resume"),
        ("| sdmw resume | 3 s |", "no command sdmw resume"),
        ("Text:\n\n    sdmw resume OUT      # go on", "no command sdmw resume"),
        ("Text:\n\n    sdmw plan RECIPE [OUT] [--rank N]", "no option --rank of sdmw plan"),
        ("Text:\n\n    sdmw merge OUT RECIPE", "sdmw merge takes RECIPE OUT, not OUT RECIPE"),
        ("Text:\n\n    sdmw merge RECIPE OUT [--threads]", "sdmw merge --threads takes a value"),
        ("Text:\n\n    sdmw merge RECIPE OUT [--json FILE]", "sdmw merge --json takes no value"),
        ("Text:\n\n    sdmw plan RECIPE   # or sdmw replan RECIPE", "no command sdmw replan"),
        ("Text:\n\n    scripts/install      # first", "no script scripts/install"),
        ("Text:\n\n    scripts/setup parrots", "no extra parrots"),
        ("```console\n$ sdmw resume out\n```", "no command sdmw resume"),
        ("```yaml\na: 1  # or give --anew\n```", "no option --anew"),
        ("Run `scripts/install`.", "no script scripts/install"),
        ("Run scripts/install.", "no script scripts/install"),
        ("See `engine/nothing.py`.", "no file engine/nothing.py"),
        ("See [it](benchmarks/NOTHING.md).", "no file benchmarks/NOTHING.md"),
        ("`pip install 'sdmw[web]'`", "no extra web"),
        ("Write `missing: bass`.", "no recipe field missing: bass"),
        ("Write `absent: base`.", "no recipe field absent: base"),
        ("Call `sdmw.resume`.", "no Python name sdmw.resume"),
        ("Call `sdmw.merge(recipe)`.", "sdmw.merge(recipe): missing a required argument: 'out'"),
        ("Call `sdmw.plan(recipe, anew=True)`.",
         "sdmw.plan(recipe, anew=True): got an unexpected keyword argument 'anew'"),
        ("`anew=True` does it.", "no argument anew of a public function"),
        ("`decide_nothing` is asked.", "no name decide_nothing in the engine"),
    ],
)  # fmt: skip
def test_what_a_document_makes_up_is_reported(text, finding):
    assert [each.partition(": ")[2] for each in problems_of_markdown(text)] == [finding]


@pytest.mark.parametrize(
    ("expression", "finding"),
    [
        ("'begin anew (--begin-anew)'", "no option --begin-anew"),
        ("f'{a}: begin anew (--begin-anew)'", "no option --begin-anew"),
        ('f\'use `sdmw {"revert" if a else "applied"}`\'', "no command sdmw applied"),
        ("'use sdmw resume OUT'", "no command sdmw resume"),
        ("'use `sdmw plan --restart`'", "no option --restart of sdmw plan"),
        ("'run scripts/mend'", "no script scripts/mend"),
        ("'Recipe field `missing: bass`'", "no recipe field missing: bass"),
        ("'or begin anew (anew=True)'", "no argument anew of a public function"),
        ("\"pip install 'sdmw[web]'\"", "no extra web"),
    ],
)
def test_what_a_message_makes_up_is_reported(expression, finding):
    assert problems_of_source(f"a = b = 1\nc = {expression}") == [f"2: {finding}"]


def test_what_exists_is_not_reported():
    text = (
        "Use `--restart` (`resume=False`), `sdmw verify OUT --all`, `sdmw.verify(out, sample=1)`, `missing: base`,\n"
        "`scripts/soak --minutes 3`, `pip install 'sdmw[hub]'`, `tests/reference/`, `results/NAME.json`, --help.\n"
    )
    assert problems_of_markdown(text, ROOT / "benchmarks") == []


# The command line


@pytest.mark.parametrize("name", ["", *commands()])
def test_help_says_something_of_every_argument_and_option(capsys, monkeypatch, name):
    done = told(capsys, monkeypatch, *filter(None, [name]), "--help")
    assert (done.code, done.err) == (0, "")
    if name:
        command = commands()[name]
        assert command.help
        assert [each.name for each in command.params if not each.help] == []
        assert all(option in done.out for each in command.params for option in each.opts if option.startswith("-"))


def test_every_command_has_a_usage_line_in_the_readme():
    assert {COMMAND.match(line)[1] for line in usage_lines()} == set(commands())
    assert [problem for line in usage_lines() for problem in usage_problems(line)] == []


def test_every_usage_line_runs_with_all_that_it_lists(place, capsys, monkeypatch):
    given = {"RECIPE": "tests/data/recipe.yaml", "CHECKPOINT": "corp", "BASE": "base", "MODEL": "corp",
             "ARCHIVE": "out-pack", "N": "1", "FOLDER": ".",
             "A": "base", "B": "corp", "KEY": "sum", "KIND": "changed", "GLOB": "mlp",
             "TENSOR": "model.norm.weight", "RATE": "2GB",
             "1GiB": "4GiB"}  # fmt: skip  # other tests may have made this process larger than that
    for line in usage_lines():
        name = COMMAND.match(line)[1]
        out = "out-merge" if name in ("verify", "report") else f"out-{name}"
        brackets = re.sub(r"\[([^\]|]+)(\|[^\]]*)?\]", r"\1", line)  # of alternatives the first
        arguments = [{**given, "OUT": out}.get(word, word) for word in brackets.split()[1:]]
        done = told(capsys, monkeypatch, *arguments)
        assert done.code == 0, (line, done.err)


# Options in messages, and the commands whose users may read them.
READS_MODELS = commands().keys() - {"sweep"}
READ_BY = {
    "--download": READS_MODELS,  # a model that is not here
    "--header-limit": READS_MODELS,  # a large header
    "--follow-links": READS_MODELS,  # a folder of links
    "--overwrite": {  # a target that is there
        "merge", "mergekit-yaml", "plan", "extract", "measure", "pack", "apply", "revert", "report",
    },
    "--restart": {"merge", "mergekit-yaml", "extract", "measure"},  # what another run left
    "--statistics": {"doctor", "report"},  # evidence
    "--dask": {"merge", "plan"},  # an output in a store
    "--bandwidth": {"plan"},  # disks of a store
    "--inputs": {"verify"},  # models that are elsewhere
    **{each: {"compare"} for each in ("--top", "--sort", "--only", "--filter")},  # more than a screen has room for
}  # fmt: skip


def test_an_option_in_a_message_is_one_of_every_command_that_shows_it():
    own = {ENGINE / "cli.py", ENGINE / "mergekit.py", *(ENGINE / "commands").iterdir()}
    sources = [path for path in ENGINE.rglob("*.py") if path not in own]
    named = {
        each for path in sources for _, text in literals_of(path.read_text()) for each in LONG_OPTION.findall(text)
    }
    assert named - {"--help", "--json"} == READ_BY.keys()
    missing = [
        (name, each) for each, names in READ_BY.items() for name in names if each not in options_of(commands()[name])
    ]
    assert missing == []


# What is shown


@pytest.mark.parametrize("text", shown("python"))
def test_python_runs(place, text):
    command = [sys.executable, "-W", "error", "-c", text]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", shown("yaml"))
def test_a_recipe_can_be_planned(place, text):
    Path("recipe.yaml").write_text(text)
    planned = sdmw.plan("recipe.yaml", "out")
    assert list(planned.problems) == []
    for alternative in alternatives(text):
        Path("recipe.yaml").write_text(alternative)
        sdmw.plan("recipe.yaml", "out")  # perhaps it has problems, but the language has the word


def alternatives(recipe):
    """The recipe with each word that a remark lists beside the one that stands there."""
    word = r"(?:\{[^}]*\}|[a-z_]\w*)"
    for line in recipe.splitlines():
        found = re.match(rf"(\s*(\w+): )({word}) +#.*?({word}(?: \([^)]*\))?(?: \| {word}(?: \([^)]*\))?)+)", line)
        if not found:
            continue
        start, key, value, listed = found.groups()
        words = [re.sub(r" \(.*\)", "", each) for each in listed.split(" | ")]
        assert value in words, line
        if key == "merge_method":  # each has parameters of its own
            assert set(words) <= all_methods().keys()
            continue
        yield from (recipe.replace(line, start + each) for each in words)


def test_alternatives_are_found():
    recipe = "merge_method: sdm_w\nmissing: error   # a tensor that it lacks: error | base (its own) | {power: 5.5}\n"
    assert [each.splitlines()[1] for each in alternatives(recipe)] == [
        "missing: error", "missing: base", "missing: {power: 5.5}"
    ]  # fmt: skip


@pytest.mark.parametrize("text", shown("console"))
def test_a_transcript_is_what_happens(place, text):
    # Four models answer by torch: seconds each, and the demo asks them too.
    can_ask = os.environ.get("SDMW_FAULTS") == "all" and importlib.util.find_spec("transformers")
    for command, expected in transcript(text):
        program, *arguments = shlex.split(command)
        if program == "scripts/ask" and not can_ask:
            continue
        start = SDMW if program == "sdmw" else [sys.executable, program]
        done = subprocess.run(
            [*start, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert differences(expected, done.stdout.splitlines()) == []


def transcript(text):
    """Each command of a transcript with the lines that follow it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *output = part.splitlines()
        yield command, output


def differences(expected, actual):
    """The lines that differ in more than what depends on the machine; `...` ends what is shown."""
    if expected[-1] == "...":
        expected, actual = expected[:-1], actual[: len(expected) - 1]
    if len(expected) != len(actual):
        return [f"{len(expected)} lines, not {len(actual)}"]
    return [f"{first}, not {second}" for first, second in zip(expected, actual, strict=True) if not same(first, second)]


ANSWERS = re.compile(r"\b(\d+)(?=/20\b)")


def same(first, second):
    """Whether two lines are one, on two machines."""
    words = [ANSWERS.sub("N", without_the_machine(each)).split() for each in (first, second)]
    # Where two words are nearly as likely, another processor may choose the other.
    right = zip(*(map(int, ANSWERS.findall(each)) for each in (first, second)), strict=False)
    return words[0] == words[1] and all(abs(one - other) <= 1 for one, other in right)


def without_the_machine(line):
    """A line with N for times, memory, threads and room on the disk."""
    if line.startswith(("peak memory", "free disk")):
        line = re.sub(r"\d[\d.]* [kKMGT]?B", "N", line)
        line = re.sub(r"\d+ threads?", "N threads", line)
    return re.sub(r"\d[\d.]* s\b", "N s", line) if line.startswith("time") else line


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        ("peak memory  at most 269 MB, with 2 threads", "peak memory  at most 1.01 GB, with 1 thread", True),
        ("time         0.5 s, 15.5 MB read", "time         12.0 s, 15.5 MB read", True),
        ("time         0.5 s, 15.5 MB read", "time         0.5 s, 15.6 MB read", False),
        ("tensors      38", "tensors      39", False),
        ("corp  10521.2  0.4215", "corp  10521.3  0.4215", False),
        ("demo-output  16/20  19/20", "demo-output  15/20  20/20", True),
        ("demo-output  16/20  19/20", "demo-output  14/20  19/20", False),
    ],
)
def test_a_transcript_that_is_another_is_reported(expected, actual, equal):
    assert (differences([expected], [actual]) == []) == equal
    assert (differences([expected, "..."], [actual, "more"]) == []) == equal
    assert differences([expected, expected], [actual])
    assert differences([expected, expected, "..."], [actual])
