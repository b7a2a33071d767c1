"""Trains all models of the study, breadth first, and goes on where it was stopped.

python benchmarks/quality/train.py [--bases 3] [--pairs 4] [--short]
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
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    models = Models(SHORT if options.short else FULL)
    print(models.home, flush=True)
    for seed in breadth_first(options.bases, options.pairs):
        # The cost claim needs all schedules, but once a base; the whole one is a baseline for each pair.
        fractions = FRACTIONS if seed.pair == 0 else FRACTIONS[:1]
        for name in ("corp", "func", *(f"multitask-{part}" for part in fractions)):
            models.need(seed, name)


if __name__ == "__main__":
    main()
