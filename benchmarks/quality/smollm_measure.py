"""Tier B: trains what is missing, merges with sdmw, scores, and writes results/smollm-seed-N.json.

python benchmarks/quality/smollm_measure.py [--seeds 3] [--results FOLDER]

One thread; goes on where it was stopped: trainings are kept each minute, and whatever was scored before by the same
code is taken from the cache. Multi-task models, which take as long as both experts, come last.
"""

import argparse
import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deltas
import numpy as np
import smollm
import smollm_suite
import suites
import torch
from measure import Scored, bits_of, code_that_scores
from scoring import outcomes
from side_by_side import alone
from smollm_merges import merges
from smollm_models import SmolModels
from smollm_suite import DOMAINS, Counts
from training import load
from transformers.utils import logging

import sdmw
from methods import Merge

SOURCES = (
    "suites", "scoring", "world", "phrases", "general", "pairs", "corpora", "smollm", "smollm_facts", "bfcl",
    "smollm_suite", "smollm_merges", "smollm_measure", "methods",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    logging.disable_progress_bar()
    options.results.mkdir(parents=True, exist_ok=True)
    models = SmolModels()
    with alone(models.home):
        run(models, options.seeds, Counts(), options.results)


def run(models: SmolModels, seeds: int, counts: Counts, results: Path) -> None:
    """All seeds' experts and merges, then their multi-task models; a seed's file is written after either."""
    torch.set_num_threads(1)
    for multitask in (False, True):
        for seed in range(seeds):
            for name in (*DOMAINS, *(("multitask",) if multitask else ())):
                models.need(seed, name)
            bench = Bench(models, seed, counts)
            write(results, bench, list(bench.all()))


class Bench:
    """One seed's models, its suite, and a cache of what was scored."""

    def __init__(self, models: SmolModels, seed: int, counts: Counts) -> None:
        self.models, self.seed, self.counts = models, seed, counts
        self.suite = smollm_suite.suite(smollm.tokenizer_of(models.base), seed, counts)
        self.code = code_that_scores(SOURCES)
        self.cache = Path(models.of(seed, "scored"), self.code)
        self.cache.mkdir(parents=True, exist_ok=True)

    def all(self) -> Iterator[Scored]:
        """The base, the trained models that are there, and every merge."""
        yield self.single("base", self.models.base)
        for name in (*DOMAINS, "multitask"):
            if Path(self.models.of(self.seed, name), "training.json").exists():
                yield self.single(name, self.models.of(self.seed, name))
        for merge in merges(self.models.base, *(self.models.of(self.seed, name) for name in DOMAINS)):
            yield self.merged(merge)

    def single(self, name: str, folder: Path) -> Scored:
        """A trained model, with how far it moved from the base."""

        def make() -> Scored:
            facts = json.loads(Path(folder, "training.json").read_text())
            facts["delta_length"] = round(length(self.models.base, folder), 4)
            return self.score(folder, name, "", facts)

        return self.cached(["single", name], make)

    def merged(self, merge: Merge) -> Scored:
        """A merge by sdmw, on the disk while it is scored."""

        def make() -> Scored:
            with tempfile.TemporaryDirectory(dir=self.cache) as folder:
                begun = time.process_time()
                report = sdmw.merge(merge.recipe, Path(folder, "merged"), threads=1, progress=False)
                facts: dict[str, Any] = {"cpu_s": round(time.process_time() - begun, 3)}
                facts["weights"] = [model.facts.get("weight") for model in report.models]
                facts["applied_length"] = round(length(self.models.base, Path(folder, "merged")), 4)
                return self.score(Path(folder, "merged"), merge.name, "equal", facts)

        recipe = json.dumps(merge.recipe).replace(str(self.models.home), "")
        return self.cached(["merge", recipe, merge.name], make)

    def score(self, folder: Path, name: str, pairing: str, facts: dict[str, Any]) -> Scored:
        """Ask the model everything."""
        right, perplexity = outcomes(load(folder), self.suite)
        bits = {each: np.packbits(found).tobytes().hex() for each, found in right.items()}
        print(self.seed, name, {each: round(float(found.mean()), 3) for each, found in right.items()}, flush=True)
        return Scored(name, pairing, bits, round(perplexity, 3), facts)

    def cached(self, what: list[str], make: Callable[[], Scored]) -> Scored:
        """What was scored before by the same code, else what `make` returns."""
        path = self.cache / f"{hashlib.sha256(json.dumps([repr(self.counts), what]).encode()).hexdigest()[:20]}.json"
        if not path.exists():
            path.with_suffix(".new").write_text(json.dumps(dataclasses.asdict(make())))
            path.with_suffix(".new").replace(path)
        return Scored(**json.loads(path.read_text()))


def length(before: Path, after: Path) -> float:
    """Euclidean length of what changed."""
    start, end = deltas.tensors(before), deltas.tensors(after)
    return float(np.sqrt(sum(np.square(end[name] - start[name]).sum(dtype=np.float64) for name in start)))


def write(results: Path, bench: Bench, scored: list[Scored]) -> None:
    """One seed's file: how many items each set has, which are for validation, which phrasing, and all outcomes."""
    counts = {name: suites.count(items) for name, items in bench.suite.items() if name != "passages"}
    masks = {name: bits_of(smollm_suite.validates(name, count)) for name, count in counts.items()}
    new = bits_of(np.array(bench.suite["corp"].tags) == "new")
    content = {
        "study": f"{bench.models.home.name}-{bench.code}",
        "seed": bench.seed,
        "counts": counts,
        "validation": masks,
        "new_phrasing": {"corp": new},
    }
    lines = ",\n".join(json.dumps(dataclasses.asdict(each)) for each in scored)
    text = json.dumps(content)[:-1] + ',\n"scored": [\n' + lines + "\n]}\n"
    Path(results, f"smollm-seed-{bench.seed}.json").write_text(text)
    print(f"seed {bench.seed}: {len(scored)} models scored", flush=True)


if __name__ == "__main__":
    main()
