"""Trains all models of the study, breadth first, and goes on where it was stopped.

python benchmarks/quality/train.py [--bases 3] [--pairs 4] [--processes CORES] [--experts] [--short]
"""

import argparse
import functools
from typing import NamedTuple

from models import Models, Seed, breadth_first
from side_by_side import PROCESSES, alone, run
from sizes import FULL, SHORT, Size

FRACTIONS = (1, 2, 4, 8)  # multi-task schedules, as parts of both experts' steps together


class Training(NamedTuple):
    """One training; those of lower rank begin first.

    Attributes:
        rank: 0 for bases, 1 for experts, 2 for multi-task models.
        pair, base: its seed; a base has pair -1.
        name: as `Models.need` knows it.
    """

    rank: int
    pair: int
    base: int
    name: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--processes", type=int, default=PROCESSES, help="trainings side by side (default: all cores)")
    parser.add_argument("--short", action="store_true", help="the one-minute version")
    parser.add_argument("--experts", action="store_true", help="leave multi-task models out for now")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    home = Models(size).home
    print(home, flush=True)
    needs = trainings(options.bases, options.pairs, multitask=not options.experts)
    with alone(home):
        run(needs, functools.partial(train, size), options.processes)


def trainings(bases: int, pairs: int, *, multitask: bool) -> dict[Training, list[Training]]:
    """{training: those that it needs}."""
    base = [Training(0, -1, number, "base") for number in range(bases)]
    needs: dict[Training, list[Training]] = {each: [] for each in base}
    for seed in breadth_first(bases, pairs):
        # The cost claim needs all schedules, once a base; the whole one is a baseline of every pair.
        fractions = FRACTIONS if seed.pair == 0 else FRACTIONS[:1]
        names = {"corp": 1, "func": 1} | {f"multitask-{part}": 2 for part in fractions if multitask}
        needs |= {Training(rank, seed.pair, seed.base, name): [base[seed.base]] for name, rank in names.items()}
    return needs


def train(size: Size, training: Training) -> None:
    models = Models(size)
    if training.rank == 0:
        models.need_base(training.base)
    else:
        models.need(Seed(training.base, training.pair), training.name)


if __name__ == "__main__":
    main()
