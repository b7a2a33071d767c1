"""Trains all models of the study, breadth first, and goes on where it was stopped.

python benchmarks/quality/train.py [--bases 3] [--pairs 4] [--experts] [--short]
"""

import argparse

import torch
from models import Models, breadth_first
from sizes import FULL, SHORT
from transformers.utils import logging

FRACTIONS = (1, 2, 4, 8)  # multi-task schedules, as parts of both experts' steps together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--short", action="store_true", help="the one-minute version")
    parser.add_argument("--experts", action="store_true", help="leave multi-task models out for now")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    models = Models(SHORT if options.short else FULL)
    print(models.home, flush=True)
    seeds = breadth_first(options.bases, options.pairs)
    for seed in seeds:
        for name in ("corp", "func"):
            models.need(seed, name)
    # The cost claim needs all schedules, but once a base is enough for it; the whole one is a baseline of every pair.
    for seed in seeds:
        for part in FRACTIONS if seed.pair == 0 else FRACTIONS[:1]:
            if not options.experts:
                models.need(seed, f"multitask-{part}")


if __name__ == "__main__":
    main()
