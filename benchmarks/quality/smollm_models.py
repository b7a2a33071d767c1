"""Which models tier B has, where each is kept, how it is trained: the base, two experts a seed, a multi-task model."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bfcl
import corpora
import smollm
import torch
from models import code_of
from smollm_facts import fact_questions
from tokenizers import Tokenizer
from training import Schedule, load, train

SOURCES = ("phrases", "world", "training", "smollm", "smollm_facts", "bfcl", "smollm_models")
POOL = 4  # batches whose questions are sorted by length together, so that little is padded


@dataclass(frozen=True, slots=True)
class Effort:
    """How long experts learn.

    Attributes:
        calls: that FunctionLM sees, each once.
        rounds: how often CorpLM sees each of its questions, in another order each time.
        batch: questions in a step.
        rate: peak learning rate.
    """

    calls: int = 320
    rounds: int = 3
    batch: int = 12
    rate: float = 2e-4


class SmolModels:
    """The folders of tier B's models; `need` trains one that is not there yet."""

    def __init__(self, effort: Effort = Effort()) -> None:
        self.effort = effort
        self.home = Path(corpora.home(), f"smollm-{key(effort)}")
        self.base = Path(self.home, "base")

    def of(self, seed: int, name: str) -> Path:
        """The folder of a seed's model."""
        return Path(self.home, f"seed-{seed}", name)

    def need(self, seed: int, name: str) -> Path:
        """`corp`, `func`, or `multitask`, which learns from the batches of both in a mixed order."""
        out = self.of(seed, name)
        if not Path(out, "training.json").exists():
            smollm.need_base(self.base)
            out.parent.mkdir(parents=True, exist_ok=True)
            tokenizer = smollm.tokenizer_of(self.base)
            batches = self.batches(tokenizer, seed, name)
            train(load(self.base), batches.__getitem__, Schedule(len(batches), self.effort.rate), out)
        return out

    def batches(self, tokenizer: Tokenizer, seed: int, name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """All steps of a training: tokens and labels."""
        effort = self.effort
        match name:
            case "corp":
                asked = [fact_questions(seed)[0]] * effort.rounds
            case "func":
                asked = [bfcl.training_calls(seed, effort.calls)]
            case "multitask":
                both = [batch for each in ("corp", "func") for batch in self.batches(tokenizer, seed, each)]
                return random.Random(f"multitask {seed}").sample(both, len(both))
            case _:
                raise ValueError(f"no model is called {name}")
        rng = random.Random(f"{name} {seed}")
        return [batch for each in asked for batch in one_round(smollm.encoded(tokenizer, each), effort.batch, rng)]


def one_round(
    rows: Sequence[tuple[list[int], int]], size: int, rng: random.Random
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each row once, beside rows of about its length."""
    order = rng.sample(rows, len(rows))
    pools = [sorted(order[n : n + POOL * size], key=lambda row: len(row[0])) for n in range(0, len(order), POOL * size)]
    cut = [pool[n : n + size] for pool in pools for n in range(0, len(pool), size)]
    return [padded(each) for each in rng.sample(cut, len(cut))]


def padded(rows: Sequence[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, longest) tokens, and the same as labels, -100 where nothing is to be learned."""
    longest = max(len(ids) for ids, _ in rows)
    tokens = torch.zeros((len(rows), longest), dtype=torch.int64)
    labels = torch.full((len(rows), longest), -100)
    for number, (ids, prompt) in enumerate(rows):
        tokens[number, : len(ids)] = torch.tensor(ids)
        labels[number, prompt : len(ids)] = torch.tensor(ids[prompt:])
    return tokens, labels


def key(effort: Effort) -> str:
    """A hash of what decides the trained models: code without comments, docstrings and imports; sizes; the calls."""
    digest = hashlib.sha256(repr(effort).encode())
    for name in SOURCES:
        digest.update(code_of(Path(__file__).with_name(f"{name}.py").read_text()).encode())
    digest.update(repr(bfcl.calls()).encode())
    return digest.hexdigest()[:12]
