"""Merges each pair's experts in all ways with sdmw, scores every result, and writes results/base-B-pair-P.json.

python benchmarks/quality/measure.py [--bases 3] [--pairs 4] [--processes CORES] [--short] [--results FOLDER]

Whatever was measured before by the same code, of the same models, is taken from the cache.
"""

import argparse
import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deltas
import numpy as np
import suites
from models import Models, Seed, breadth_first, code_of
from safetensors.torch import load_file
from scoring import outcomes
from side_by_side import PROCESSES, alone, executor
from sizes import FULL, SHORT
from train import FRACTIONS
from training import load, new_model
from transformers import LlamaForCausalLM

import methods
import sdmw
from methods import Merge, Trio

SOURCES = ("suites", "scoring", "world", "phrases", "general", "pairs", "methods", "deltas", "measure")
# How long each expert was trained: (corp, func)
PAIRINGS = {"equal": ("corp", "func"), "corp third": ("corp-third", "func"), "func third": ("corp", "func-third")}
SINGLE = ("corp", "func", "corp-third", "func-third", *(f"multitask-{part}" for part in FRACTIONS))
RANK = 32  # of the adapters extracted from the experts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--processes", type=int, default=PROCESSES, help="seeds side by side (default: all cores)")
    parser.add_argument("--short", action="store_true", help="the one-minute version: every sixteenth merge")
    parser.add_argument("--results", type=Path, help="default: results/ here; of the short version, beside its models")
    options = parser.parse_args()
    models = Models(SHORT if options.short else FULL)
    beside = models.home if options.short else Path(__file__).parent
    results = options.results or Path(beside, "results")
    results.mkdir(parents=True, exist_ok=True)
    trained = [
        seed
        for seed in breadth_first(options.bases, options.pairs)
        if all(Path(models.of(seed, name), "training.json").exists() for name in ("corp", "func"))
    ]
    with alone(models.home), executor(options.processes) as pool:
        list(pool.map(functools.partial(measure, models, results), trained))


def measure(models: Models, results: Path, seed: Seed) -> None:
    """One seed, in a process of the pool."""
    write(results, seed, Bench(models, seed))


@dataclass(frozen=True, slots=True)
class Scored:
    """What is kept of one model or merge.

    Attributes:
        name: as tables call it.
        pairing: a key of PAIRINGS, or "" for single models.
        right: {set: hexadecimal bits, one an item, right or wrong}.
        perplexity: of held-out text.
        facts: of a merge: weights, sum and length of the applied delta, processor seconds; of a model: of its training.
    """

    name: str
    pairing: str
    right: dict[str, str]
    perplexity: float
    facts: dict[str, Any]


def code_that_scores(names: Sequence[str]) -> str:
    """A hash of these files of the study and of the whole engine: other code may score or merge otherwise."""
    digest = hashlib.sha256(
        "".join(code_of(Path(__file__).with_name(f"{each}.py").read_text()) for each in names).encode()
    )
    for path in sorted(Path(sdmw.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Bench:
    """One seed's models, its suite, and a cache of what was scored."""

    def __init__(self, models: Models, seed: Seed) -> None:
        self.models, self.seed = models, seed
        self.suite = suites.suite(seed, library_only=models.size.library_only)
        self.shell = new_model(models.size, 0).eval()
        self.code = code_that_scores(SOURCES)
        self.cache = Path(models.of(seed, "scored"), self.code)
        self.cache.mkdir(parents=True, exist_ok=True)

    def all(self) -> Iterator[Scored]:
        """Every model and merge of the seed."""
        yield self.single("base", self.models.base(self.seed.base))
        for name in SINGLE:
            if Path(self.models.of(self.seed, name), "training.json").exists():
                yield self.single(name, self.models.of(self.seed, name))
        for pairing, experts in PAIRINGS.items():
            trio = Trio.of(self.models.base(self.seed.base), *(self.models.of(self.seed, each) for each in experts))
            merges = list(methods.common(trio))
            if pairing == "equal":
                merges += [*methods.thorough(trio), *methods.lora(trio.base, self.adapters())]
            merges = merges[:: 16 if self.models.size == SHORT else 1]
            average = methods.length(*map(deltas.tensors, (trio.base, self.merged_average(trio))))[1]
            for merge in merges:
                yield self.merged(pairing, merge, trio, average)

    def single(self, name: str, folder: Path) -> Scored:
        """A trained model."""
        facts = json.loads(Path(folder, "training.json").read_text())
        return self.cached(["single", name], lambda: self.score(load(folder), name, "", facts))

    def merged(self, pairing: str, merge: Merge, trio: Trio, average: float) -> Scored:
        """A merge; `average` is the length of what the plain average applies."""
        recipe = json.dumps(merge.recipe).replace(str(self.models.home), "")
        return self.cached(
            ["merge", pairing, recipe, merge.name, merge.like], lambda: self.merge(pairing, merge, trio, average)
        )

    def merge(self, pairing: str, merge: Merge, trio: Trio, average: float) -> Scored:
        """Merge by sdmw, once more where the result is to be scaled, and score."""
        base = deltas.tensors(trio.base)
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            report = sdmw.merge(merge.recipe, Path(folder, "merged"), threads=1, progress=False)
            facts = {"cpu_s": round(time.process_time() - begun, 3)}
            out = Path(folder, "merged")
            if merge.like is not None:
                scale = merge.like * average / methods.length(base, deltas.tensors(out))[1]
                recipe = Trio.recipe(Trio(trio.base, (out,), trio.deltas), "task_arithmetic", (scale,))
                out = Path(folder, "scaled")
                sdmw.merge(recipe, out, threads=1, progress=False)
                facts["scaled_by"] = round(scale, 4)
            total, length = methods.length(base, deltas.tensors(out))
            facts["weights"] = [model.facts.get("weight") for model in report.models]
            facts |= {"applied_sum": round(total, 1), "applied_length": round(length, 4)}
            facts["times_average"] = round(length / average, 4)
            return self.score(self.with_weights(out), merge.name, pairing, facts)

    def merged_average(self, trio: Trio) -> Path:
        """The folder of the plain average, by which lengths are compared."""
        out = self.cache / hashlib.sha256(str(trio.experts).encode()).hexdigest()[:12]
        if not out.exists():
            sdmw.merge(trio.recipe("linear"), out, threads=1, progress=False)
        return out

    def adapters(self) -> list[Path]:
        """The experts' deltas as adapters of rank RANK, by sdmw itself."""
        found = []
        for name in PAIRINGS["equal"]:
            out = Path(self.cache, f"{name}-lora-{RANK}")
            if not out.exists():
                base, expert = self.models.base(self.seed.base), self.models.of(self.seed, name)
                sdmw.extract(base, expert, out, rank=RANK, threads=1, progress=False)
            found.append(out)
        return found

    def with_weights(self, folder: Path) -> LlamaForCausalLM:
        """The model, whose modules are made once."""
        state = {name: each for path in folder.glob("*.safetensors") for name, each in load_file(path).items()}
        self.shell.load_state_dict(state)
        return self.shell

    def score(self, model: LlamaForCausalLM, name: str, pairing: str, facts: dict[str, Any]) -> Scored:
        """Ask the model everything."""
        right, perplexity = outcomes(model, self.suite)
        bits = {each: np.packbits(found).tobytes().hex() for each, found in right.items()}
        return Scored(name, pairing, bits, round(perplexity, 3), facts)

    def cached(self, what: list[Any], make: Callable[[], Scored]) -> Scored:
        """What was scored before by the same code, else what `make` returns."""
        path = self.cache / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:20]}.json"
        if not path.exists():
            scored = make()
            fields = {name: getattr(scored, name) for name in Scored.__slots__}
            path.with_suffix(".new").write_text(json.dumps(fields))
            path.with_suffix(".new").replace(path)
        return Scored(**json.loads(path.read_text()))


def write(results: Path, seed: Seed, bench: Bench) -> None:
    """One seed's file: how many items each set has, which tags and which half they belong to, and all outcomes."""
    scored = list(bench.all())
    counts = {name: suites.count(items) for name, items in bench.suite.items() if name != "passages"}
    masks = {name: bits_of(suites.halves(name, count)) for name, count in counts.items()}
    tags = {
        name: {tag: bits_of(np.array(items.tags) == tag) for tag in sorted(set(items.tags))}
        for name, items in bench.suite.items()
        if name in ("corp", "func")
    }
    rows = [{name: getattr(each, name) for name in Scored.__slots__} for each in scored]
    # The study is a hash of what decides the trained models and what scores them: seeds.py does not mix two.
    content = {"study": f"{bench.models.home.name}-{bench.code}", "base": seed.base, "pair": seed.pair}
    content |= {"counts": counts, "validation": masks, "tags": tags}
    lines = ",\n".join(json.dumps(row) for row in rows)
    text = json.dumps(content)[:-1] + ',\n"scored": [\n' + lines + "\n]}\n"
    Path(results, f"base-{seed.base}-pair-{seed.pair}.json").write_text(text)
    print(f"base {seed.base} pair {seed.pair}: {len(rows)} models scored", flush=True)


def bits_of(mask: np.ndarray) -> str:
    return np.packbits(mask.astype(bool)).tobytes().hex()


if __name__ == "__main__":
    main()
