"""What a text names (commands, options, files, recipe fields, Python names), and whether it exists."""

import ast
import functools
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import typer

import sdmw
from sdmw import cli
from sdmw.errors import RecipeError
from sdmw.methods import all_methods
from sdmw.recipes.load import load

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "engine" / "sdmw"
# Where a path in a text may begin, after the folder of the text itself.
PLACES = (ROOT, ENGINE, ROOT / "benchmarks", ROOT / "tests")
EXTENSIONS = {".json", ".md", ".py", ".safetensors", ".svg", ".toml", ".txt", ".yaml"}

# Names of others, each with the reason why it is in our texts.
FOREIGN = {
    "ru_maxrss": "the kernel's own account, getrusage(2)",
    "save_embedding_layers": "an argument of peft's save_pretrained",
    "trust_remote_code": "an argument of transformers' from_pretrained",
}
# What follows the name of the program where it is the subject of a sentence, beside verbs that end in s.
AFTER_THE_SUBJECT = {"and", "can", "cannot", "could", "in", "may", "must", "or", "to", "will"}

OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
LONG_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
SCRIPT = re.compile(r"(?<![\w./-])scripts/(\w+)")
KEYWORD = re.compile(r"(?<![\w.])([a-z_]+)=(?:True|False|None|\d+(?:\.\d+)?|\"[^\"]*\"|'[^']*')(?!\w)")
EXTRA = re.compile(r"sdmw\[([\w,-]+)\]")
FIELD = re.compile(r"^(\w+): (\S.*)$")
COMMAND = re.compile(r"(?<![\w./-])sdmw ([a-z][\w-]*)")
PROGRAM_FILE = re.compile(r"(?<![\w/-])((?:scripts/\w+)|(?:\w+/)*\w+\.py)(?!\w)")


@functools.cache
def commands():
    """Every command of the program by its name."""
    return dict(typer.main.get_command(cli.app).commands)


def options_of(command):
    """The options of a command, and whether each takes a value."""
    taking = {name: not each.is_flag for each in command.params
              for name in (*each.opts, *each.secondary_opts) if name.startswith("-")}  # fmt: skip
    return {**taking, "-h": False, "--help": False}


@functools.cache
def all_options():
    """The options of all commands together."""
    names = {name for command in commands().values() for name in options_of(command)}
    return names | set(options_of(typer.main.get_command(cli.app)))


def arguments_of(command):
    """The arguments of a command as its usage line calls them: all, and those that it cannot do without."""
    arguments = [each for each in command.params if not each.opts[0].startswith("-")]
    return [each.metavar for each in arguments], [each.metavar for each in arguments if each.required]


@functools.cache
def extras():
    """The optional parts of the package."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@functools.cache
def keywords():
    """The parameters of all public functions."""
    functions = [each for name in sdmw.__all__ if inspect.isfunction(each := getattr(sdmw, name))]
    return {name for function in functions for name in inspect.signature(function).parameters}


@functools.cache
def help_of(program):
    """What a script of ours prints for --help; nothing where it is no Python."""
    text = program.read_text()
    if program.suffix != ".py" and not text.startswith("#!/usr/bin/env python3"):
        return ""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(program), "--help"], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout


def found_program(name, beside):
    """The file of a script that a text names."""
    for place in (beside, *PLACES):
        if (place / name).is_file():
            return place / name
    return None


# Markdown


@dataclass(frozen=True)
class Block:
    """A part of a Markdown text; `kind` is prose, shell for an indented block, or what stands after the fence."""

    kind: str
    line: int
    text: str


def blocks(text):
    """The parts of a Markdown text: paragraphs, rows of tables, headings, items, and blocks of code."""
    lines = text.splitlines()
    number, prose = 0, []

    def paragraph():
        if prose:
            yield Block("prose", prose[0][0], " ".join(line.strip() for _, line in prose))
            prose.clear()

    while number < len(lines):
        line = lines[number]
        if fence := re.fullmatch(r"\s*```(\w*)", line):
            yield from paragraph()
            end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == "```")
            yield Block(fence[1] or "text", number + 1, "\n".join(lines[number + 1 : end]))
            number = end + 1
        elif line.startswith("    ") and not prose:
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield Block("shell", number + 1, "\n".join(each[4:] for each in lines[number:end]).rstrip())
            number = end
        else:
            if not line.strip() or re.match(r"\s*([-*|#]|\d+\.) ?", line):
                yield from paragraph()
            if line.strip():
                prose.append((number + 1, line))
            number += 1
    yield from paragraph()


def spans(prose):
    """The pieces in backticks, each with the sentence that it stands in."""
    for sentence in re.split(r"(?<=[.;:])\s+(?=[^`]*(?:`[^`]*`[^`]*)*$)", prose):
        for match in re.finditer(r"`([^`]+)`", sentence):
            yield match[1], sentence


def problems_of_markdown(text, beside=ROOT):
    """What a Markdown text names that does not exist, as `line: finding`."""
    found = []
    for block in blocks(text):
        if block.kind == "prose":
            said = list(_of_prose(block.text, beside))
        elif block.kind in ("shell", "console"):
            said = [each for line in block.text.splitlines() for each in _of_shell(line, beside)]
        else:
            said = list(_of_options(block.text, block.text, beside))
        found += [f"{block.line}: {each}" for each in said]
    return found


def _of_prose(prose, beside):
    for span, sentence in spans(prose):
        yield from _of_span(span, sentence, beside)
    plain = re.sub(r"`[^`]+`", "`", prose)
    yield from _of_options(plain, prose, beside)
    yield from _of_scripts(plain)
    for target in re.findall(r"\]\(([^)#]+)\)", plain):
        if "://" not in target and not (beside / target).exists():
            yield f"no file {target}"
    if prose.startswith(
        "|"
    ):  # rows of tables name commands or methods, without backticks; `s` heads a column of seconds
        for word in COMMAND.findall(plain):
            if len(word) > 1 and word not in commands() and word not in all_methods():
                yield f"no command sdmw {word}"


def _of_span(span, sentence, beside):
    if COMMAND.match(span):
        yield from usage_problems(span)
        return
    yield from _of_options(span, sentence, beside)
    yield from _of_scripts(span)
    yield from _of_extras(span)
    if field := FIELD.match(span):
        yield from _of_field(*field.groups())
    elif re.fullmatch(r"sdmw(\.\w+)+(\(.*\))?", span):
        yield from _of_python(span)
    elif KEYWORD.fullmatch(span):
        yield from _of_keywords(span)
    elif _is_path(span) and not SCRIPT.match(span):
        if not _exists(span, beside):
            yield f"no file {span}"
    elif re.fullmatch(r"[a-zA-Z_][\w.]*", span) and re.search(r"[a-z][_.][a-z]|[a-z][A-Z]", span):
        unknown = [each for each in span.split(".") if each not in words() and each not in FOREIGN]
        yield from (f"no name {each} in the engine" for each in unknown)


def _of_shell(line, beside):
    command, _, remark = line.removeprefix("$ ").partition(" #")
    for part in (command, *re.split(r"[;:]", remark)):
        if match := COMMAND.search(part):
            yield from usage_problems(part[match.start() :])
        else:
            yield from _of_options(part, part, beside)
            yield from _of_scripts(part)


def usage_problems(usage):
    """What is wrong with a command line or a usage line: `sdmw merge RECIPE OUT [--threads N]`."""
    name = COMMAND.match(usage)[1]
    if name not in commands():
        yield f"no command sdmw {name}"
        return
    command = commands()[name]
    options = options_of(command)
    for group in re.findall(r"\[(-[^\]]*)\]", usage):
        for each in group.split("|"):
            option, _, value = each.strip().partition(" ")
            if option in options and bool(value) != options[option]:
                yield f"sdmw {name} {option} takes {'a' if options[option] else 'no'} value"
    for option in OPTION.findall(usage):
        if option not in options:
            yield f"no option {option} of sdmw {name}"
    for option in (each for param in command.params if param.nargs == 2 for each in param.opts):
        usage = re.sub(rf"{option} \S+ \S+", "", usage)
    given = re.sub(r"\[-[^\]]*\]|(?<![\w-])--?[a-z][\w-]* \S+|(?<![\w-])--?[a-z][\w-]*", "", usage).split()[2:]
    words = [each.strip("[]") for each in given]
    if words and all(re.fullmatch(r"[A-Z]+", word) for word in words) and words not in arguments_of(command):
        yield f"sdmw {name} takes {' '.join(arguments_of(command)[0])}, not {' '.join(words)}"


def _of_options(text, sentence, beside):
    for option in LONG_OPTION.findall(text):
        # The programs that stand beside the option, else any command, else the programs of the sentence.
        near, far = (_programs(each, beside) for each in (text, sentence))
        if near:
            known = any(option in help_of(each) for each in near)
        else:
            known = option in all_options() or any(option in help_of(each) for each in far)
        if not known and option not in FOREIGN:
            yield f"no option {option}"


def _programs(text, beside):
    found = (found_program(name, beside) for name in PROGRAM_FILE.findall(text))
    return [each for each in found if each]


def _of_scripts(text):
    for match in SCRIPT.finditer(text):
        path = ROOT / match[0]
        if not (path.is_file() and os.access(path, os.X_OK)):
            yield f"no script {match[0]}"
    if setup := re.match(r"scripts/setup((?: +\w+)+)", text):
        yield from (f"no extra {each}" for each in setup[1].split() if each not in extras())


def _of_extras(text):
    for names in EXTRA.findall(text):
        yield from (f"no extra {each}" for each in names.split(",") if each not in extras())


def _of_field(name, value):
    """Whether some method takes a field, at the top or under `parameters`."""
    for method in all_methods():
        models = [{"model": "a"}, {"model": "b"}]
        top = {"merge_method": method, "base_model": "base", "models": models}
        try:
            given = _from_yaml(value)
        except ValueError:
            break
        for recipe in ({**top, name: given}, {**top, "parameters": {name: given}}):
            try:
                load(recipe, all_methods())
                return
            except RecipeError:
                continue
    yield f"no recipe field {name}: {value}"


def _from_yaml(text):
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(text) from error


def _of_python(text):
    """Whether a dotted name, perhaps called, exists and takes these arguments."""
    path, _, call = text.partition("(")
    try:
        value = _resolved(path)
    except (AttributeError, ImportError):
        yield f"no Python name {path}"
        return
    if call:
        tree = ast.parse(text, mode="eval").body
        try:
            inspect.signature(value).bind(*tree.args, **{each.arg: None for each in tree.keywords})
        except TypeError as error:
            yield f"{text}: {error}"


def _resolved(path):
    names = path.split(".")
    value = importlib.import_module(names[0])
    for at, name in enumerate(names[1:], 1):
        try:
            value = getattr(value, name)
        except AttributeError:
            value = importlib.import_module(".".join(names[: at + 1]))
    return value


def _of_keywords(text):
    for name in KEYWORD.findall(text):
        if name not in keywords() and name not in FOREIGN:
            yield f"no argument {name} of a public function"


def _is_path(span):
    if not re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", span) or span.startswith("."):
        return False
    return "/" in span or Path(span).suffix in EXTENSIONS


def _exists(span, beside):
    pattern = re.sub(r"\b[A-Z]+\b", "*", span.rstrip("/")) if not span.endswith(".md") else span
    return any(any(place.glob(pattern)) for place in (beside, *PLACES)) or any(span in each for each in literals())


# Sources


@functools.cache
def literals():
    """All text in the engine's sources."""
    return {text for path in sorted(ENGINE.rglob("*.py")) for _, text in literals_of(path.read_text())}


@functools.cache
def words():
    """All words of the engine's sources."""
    return {word for path in ENGINE.rglob("*.py") for word in re.findall(r"\w+", path.read_text())}


def literals_of(source):
    """The line and the text of every string in a Python source, what is filled in standing as X."""
    tree = ast.parse(source)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and id(node) not in inner):
            for text in _texts(node):
                yield node.lineno, text


def _texts(node):
    """What an expression may read as: both sides of a condition, X where nobody knows."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    if isinstance(node, ast.FormattedValue):
        return _texts(node.value) or ["X"]
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            found = [before + after for before in found for after in _texts(part)]
        return found
    return []


def problems_of_source(source):
    """What the strings of a Python source name that does not exist, as `line: finding`."""
    return [f"{line}: {each}" for line, text in literals_of(source) for each in _of_literal(text)]


def _of_literal(text):
    for option in LONG_OPTION.findall(text):
        if option not in all_options() and option not in FOREIGN:
            yield f"no option {option}"
    for span, _ in spans(" ".join(text.split())):
        if COMMAND.match(span):
            yield from usage_problems(span)
        elif (field := FIELD.match(span)) and "X" not in field[2]:
            yield from _of_field(*field.groups())
    for word in COMMAND.findall(re.sub(r"`[^`]+`", "`", text)):
        if not (word in commands() or word.endswith("s") or word in AFTER_THE_SUBJECT):
            yield f"no command sdmw {word}"
    yield from _of_scripts(text)
    yield from _of_extras(text)
    yield from _of_keywords(text)
