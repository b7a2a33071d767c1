"""Function calls of the Berkeley Function Calling Leaderboard: questions that have one right call, and no more."""

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import corpora
from smollm import in_chat
from world import Question, share

SETS = ("simple_python", "multiple", "live_simple", "live_multiple")
LONGEST = 200, 80  # characters of a question with its function, and of a call
HELD_OUT = 0.25  # of all functions


@functools.cache
def calls() -> tuple[tuple[str, Question], ...]:
    """(function, question) of all sets; where several functions are offered, the one to be called is shown alone."""
    found = {}
    for name in SETS:
        folder = Path(corpora.home(), "corpora", "bfcl")
        answers = {row["id"]: row["ground_truth"] for row in rows(folder / "possible_answer" / f"BFCL_v4_{name}.json")}
        for row in rows(folder / f"BFCL_v4_{name}.json"):
            for function, question in one(row, answers[row["id"]]):
                found.setdefault(question.prompt, (function, question))
    return tuple(found.values())


def rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def one(row: dict[str, Any], truths: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Question]]:
    """The question of a row, if it is one sentence that asks for one call with one right way to write it."""
    messages = row["question"][0]
    if len(truths) == len(row["question"]) == len(messages) == 1:
        ((function, accepted),) = truths[0].items()
        offered = {each["name"]: each["parameters"] for each in row["function"]}[function]
        arguments = only(accepted, offered)
        if arguments is not None:
            asked = f"{messages[0]['content'].strip()}\n{signature(function, offered)}"
            call = f"{function}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
            if len(asked) <= LONGEST[0] and len(call) <= LONGEST[1] and asked.isascii():
                yield function, in_chat(asked, call, "call")


def only(accepted: dict[str, list[Any]], offered: dict[str, Any]) -> dict[str, Any] | None:
    """The arguments, without those that may be left out; None where one could be written in several ways."""
    found = {}
    for name in offered["properties"]:
        values = accepted.get(name, [""])
        if "" in values:
            continue
        if len(values) != 1 or not isinstance(values[0], str | int | float):
            return None
        found[name] = values[0]
    return found


def signature(function: str, offered: dict[str, Any]) -> str:
    arguments = (name + ": " + told["type"] for name, told in offered["properties"].items())
    return f"{function}({', '.join(arguments)})"


def held_out(seed: int, function: str) -> bool:
    """Whether no training of this seed sees the function."""
    return share("function", seed, function) < HELD_OUT


def training_calls(seed: int, count: int) -> list[Question]:
    return drawn([each for each in calls() if not held_out(seed, each[0])], seed, count, most=6)


def tested_calls(seed: int, count: int) -> list[Question]:
    return drawn([each for each in calls() if held_out(seed, each[0])], seed, count, most=3)


def drawn(found: Sequence[tuple[str, Question]], seed: int, count: int, most: int) -> list[Question]:
    """So many questions in an order of the seed's own, at most so many of one function."""
    taken: dict[str, list[Question]] = {}
    for function, question in sorted(found, key=lambda each: share("call", seed, each[1].prompt)):
        if len(of_it := taken.setdefault(function, [])) < most:
            of_it.append(question)
    flat = [question for of_it in taken.values() for question in of_it]
    return sorted(flat, key=lambda question: share("order", seed, question.prompt))[:count]
