"""Which models there are, where each is kept, and how it is trained: a base, its pairs' experts, multi-task models."""

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path

import corpora
import world
from sizes import FULL, Size
from training import Schedule, load, new_model, train

from data import BaseRows, QuestionBatches

CALLS = 6_000  # requests that FunctionLM draws from
SOURCES = ("phrases", "world", "general", "corpora", "tokens", "sizes", "data", "training", "models")


@dataclass(frozen=True, slots=True)
class Seed:
    """The unit of all statistics: a pair of experts of a base."""

    base: int
    pair: int


def breadth_first(bases: int, pairs: int) -> list[Seed]:
    """First pairs of all bases first, so that a part of the study is worth something."""
    return [Seed(base, pair) for pair in range(pairs) for base in range(bases)]


def key(size: Size) -> str:
    """A hash of what decides the trained models: code without comments, docstrings and imports; sizes; texts."""
    digest = hashlib.sha256(repr(size).encode())
    for name in SOURCES:
        digest.update(code_of(Path(__file__).with_name(f"{name}.py").read_text()).encode())
    texts = corpora.texts(library_only=size.library_only)
    countries = {} if size.library_only else corpora.countries()
    for text in (*texts.general, *texts.code, *texts.glosses, repr(countries)):
        digest.update(text.encode())
    return digest.hexdigest()[:12]


def code_of(source: str) -> str:
    """A file without comments, docstrings and imports, so that words and their order change nothing."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            node.body = body[1:]
    return ast.unparse(tree)


class Models:
    """The folders of trained models; `need` trains one that is not there yet."""

    def __init__(self, size: Size = FULL) -> None:
        self.size = size
        self.home = Path(corpora.home(), key(size))

    def base(self, base: int) -> Path:
        """The folder of a base."""
        return Path(self.home, f"base-{base}", "base")

    def of(self, seed: Seed, name: str) -> Path:
        """The folder of a model of a pair."""
        return Path(self.home, f"base-{seed.base}", f"pair-{seed.pair}", name)

    def need_base(self, base: int) -> Path:
        """A base, trained if it is not there."""
        out, size = self.base(base), self.size
        if not Path(out, "training.json").exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            schedule = Schedule(size.broad + size.anneal, size.rate, cosine=True, decay=0.05)
            train(new_model(size, base), BaseRows(size, base), schedule, out)
        return out

    def need(self, seed: Seed, name: str) -> Path:
        """`corp`, `func` (each leaves NAME-third, itself after a third of its steps), or `multitask-N`, 1/N as long."""
        out, size = self.of(seed, name), self.size
        if Path(out, "training.json").exists():
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        facts = world.fact_questions(seed.base, seed.pair)[0]
        calls = world.call_questions(seed.base, seed.pair, CALLS)
        numbers = (seed.base, seed.pair)
        kept = None
        match name.split("-"):
            case ["corp"]:
                steps, batches = size.corp, QuestionBatches(size, (*numbers, 1), facts)
                kept = (steps // 3, "corp-third")
            case ["func"]:
                steps, batches = size.func, QuestionBatches(size, (*numbers, 2), calls)
                kept = (steps // 3, "func-third")
            case ["multitask", part]:
                steps = (size.corp + size.func) // int(part)
                batches = QuestionBatches(size, (*numbers, 3), facts, calls)
            case _:
                raise ValueError(f"no model is called {name}")
        train(load(self.need_base(seed.base)), batches, Schedule(steps, size.tune_rate, kept=kept), out)
        return out
