"""What aligning vocabularies costs: merges by token against the same merge row by row, in pairs, inputs cached.

python benchmarks/vocabularies.py [--folder FOLDER] [--parameters N] [--vocabulary N] [--rounds N]

The models have one shape. Beside half of them lie tokenizers that number the same tokens otherwise, a few of their own
among them, so that every row of a vocabulary comes from another place; the worst that can be. Whole processes are
timed. Writes results/vocabularies.json.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import processes
import synthetic

MERGE = "import json, sys, sdmw; sdmw.merge(json.loads(sys.argv[1]), sys.argv[2], progress=False)"
SOURCES = ("base", "union")
OWN = 8  # tokens that each model alone has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    parser.add_argument("--parameters", type=float, default=1.1e9)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or temporary
        shapes = synthetic.decoder(int(arguments.parameters), vocabulary=arguments.vocabulary)
        paths = synthetic.write_models(os.path.join(folder, "vocabulary"), shapes, 2)
        for number, path in enumerate(paths):
            write_tokenizer(path, arguments.vocabulary, number)
        rows = list(compare(paths, os.path.join(folder, "out"), arguments.rounds))
    said = {"parameters": int(arguments.parameters), "vocabulary": arguments.vocabulary}
    processes.write_json("vocabularies", {"machine": processes.machine(), **said, "rows": rows})


def write_tokenizer(path: str, size: int, number: int) -> None:
    """A tokenizer.json of so many tokens in an order of the model's own, the base's ascending; and as many merges."""
    order = np.random.default_rng(number).permutation(size - OWN) if number else np.arange(size - OWN)
    vocabulary = {f"token{token}": int(place) for token, place in enumerate(order)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": size - OWN + n, "content": f"<{number}-{n}>", "special": True, **flags} for n in range(OWN)]
    model = {"type": "BPE", "vocab": vocabulary, "merges": [["token", str(token)] for token in range(size - OWN)]}
    with open(os.path.join(path, "tokenizer.json"), "w") as file:
        json.dump({"version": "1.0", "added_tokens": added, "model": model}, file)


def compare(paths: list[str], out: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Each way of aligning, paired with a merge that does not."""
    print(processes.machine())
    print(f"{'aligned to':17} {'s':>6} {'CPU s':>6} {'MB':>5} {'unaligned s':>12} {'CPU s':>6} {'MB':>5} {'ratio':>6}")
    for source in SOURCES:
        pairs = [(run(paths, out, source), run(paths, out, None)) for _ in range(rounds)]
        ratio = statistics.median(aligned.wall_s / plain.wall_s for aligned, plain in pairs)
        aligned, plain = (min(side, key=lambda one: one.wall_s) for side in zip(*pairs, strict=True))
        print(
            f"{source:17} {aligned.wall_s:6.2f} {aligned.cpu_s:6.2f} {aligned.peak_rss / 1e6:5.0f} "
            f"{plain.wall_s:12.2f} {plain.cpu_s:6.2f} {plain.peak_rss / 1e6:5.0f} {ratio:6.2f}",
            flush=True,
        )
        kept = [
            [{"wall_s": one.wall_s, "cpu_s": one.cpu_s, "peak_rss": one.peak_rss} for one in pair] for pair in pairs
        ]
        yield {"source": source, "ratio": ratio, "pairs": kept}


def run(paths: list[str], out: str, source: str | None) -> processes.Measured:
    """One merge in a process of its own."""
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": paths[0],
        "models": [{"model": path, "parameters": {"weight": 0.5}} for path in paths[1:]],
        **({"tokenizer_source": source} if source else {}),
    }
    processes.fill_cache(*paths)
    done = processes.run([sys.executable, "-c", MERGE, json.dumps(recipe), out])
    processes.remove(out)
    if done.returncode:
        raise RuntimeError(done.output[-2000:])
    return done


if __name__ == "__main__":
    main()
