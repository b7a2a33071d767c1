"""What was measured, read from results/base-B-pair-P.json: metrics of every model and merge on either half."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_name("results")
GENERAL = ("words", "code", "facts", "agreement", "sums")  # for MMLU, HumanEval, RuBQ, Winogrande, MATH
SEVEN = ("func", "corp", *GENERAL)
TAGS = {"corp": ("public", "internal"), "func": ("known", "new")}  # what the base knew, and what it did not
TEST, VALIDATION = False, True


@dataclass(frozen=True, slots=True)
class Measured:
    """One seed's results.

    Attributes:
        base, pair: its numbers.
        metrics: {(pairing, name, half): {metric: value}}; single models have the pairing "".
        facts: {(pairing, name): what else is known: weights, lengths, processor seconds}.
    """

    base: int
    pair: int
    metrics: dict[tuple[str, str, bool], dict[str, float]]
    facts: dict[tuple[str, str], dict[str, Any]]

    def of(self, pairing: str, name: str, half: bool = TEST) -> dict[str, float]:
        """The metrics of one model or merge."""
        return self.metrics[pairing if name not in self.single() else "", name, half]

    def single(self) -> set[str]:
        """Names of the models that are no merges."""
        return {name for pairing, name in self.facts if not pairing}

    def names(self, pairing: str) -> list[str]:
        """Names of the merges of a pairing."""
        return [name for of, name in self.facts if of == pairing]


def measured(folder: Path = RESULTS) -> list[Measured]:
    """All seeds of one study; those that another code, size or text trained are refused beside them."""
    return sorted(map(one, read(folder, "base-*-pair-*.json")), key=lambda each: (each.base, each.pair))


def read(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The contents of results.

    Raises:
        ValueError: they are not all of one study.
    """
    found = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob(pattern))}
    if len(studies := {content.get("study") for content in found.values()}) > 1:
        each = "\n".join(f"{name}: {content.get('study')}" for name, content in found.items())
        raise ValueError(f"{folder} holds results of {len(studies)} studies; remove all but one's\n{each}")
    return list(found.values())


def one(content: dict[str, Any]) -> Measured:
    counts = content["counts"]
    halves = {name: bits(text, counts[name]) for name, text in content["validation"].items()}
    tags = {
        name: {tag: bits(text, counts[name]) for tag, text in of_set.items()}
        for name, of_set in content["tags"].items()
    }
    metrics, facts = {}, {}
    known: dict[str, np.ndarray] = {}
    for row in content["scored"]:
        right = {name: bits(text, counts[name]) for name, text in row["right"].items()}
        known = known or right  # the base comes first
        for half in (TEST, VALIDATION):
            chosen = {name: halves[name] == half for name in right}
            metrics[row["pairing"], row["name"], half] = scores(right, chosen, tags, known) | {
                "perplexity": row["perplexity"]
            }
        facts[row["pairing"], row["name"]] = row["facts"]
    return Measured(content["base"], content["pair"], metrics, facts)


def bits(text: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)


def scores(
    right: dict[str, np.ndarray],
    chosen: dict[str, np.ndarray],
    tags: dict[str, dict[str, np.ndarray]],
    known: dict[str, np.ndarray],
) -> dict[str, float]:
    """Accuracies from 0 to 1. `corp` and `func` are of trained phrasings, `func new phrasing` of the new ones.

    `corp answered` is of the items that the base (`known`) answers, `corp unanswered` of the others.
    """
    found: dict[str, float] = {name: share(right[name], chosen[name]) for name in GENERAL}
    for name, kinds in TAGS.items():
        trained = sum(tags[name].get(f"{kind} trained", 0) for kind in kinds)
        new = sum(tags[name].get(f"{kind} new", 0) for kind in kinds)
        found[name] = share(right[name], chosen[name] & (trained > 0))
        found[f"{name} new phrasing"] = share(right[name], chosen[name] & (new > 0))
        for word, of_base in (("answered", known[name]), ("unanswered", ~known[name])):
            found[f"{name} {word}"] = share(right[name], chosen[name] & (trained > 0) & of_base)
        for kind in kinds:
            found[f"{name} {kind}"] = share(right[name], chosen[name] & tags[name][f"{kind} trained"])
    found["domain mean"] = (found["func"] + found["corp"]) / 2
    found["minimum"] = min(found["func"], found["corp"])
    found["overall average"] = float(np.mean([found[name] for name in SEVEN if not np.isnan(found[name])]))
    return found


def share(right: np.ndarray, chosen: np.ndarray) -> float:
    return float(right[chosen].mean()) if chosen.any() else float("nan")
