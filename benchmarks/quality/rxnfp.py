"""Merges real fine-tunes made by others: rxnfp's BERT of chemical reactions and two fine-tunes. Nothing is trained.

python benchmarks/quality/rxnfp.py

The fine-tunes lack the base's name prefix and its heads, and one has a classifier of its own: sdmw finds the names, and
the recipe says what becomes of the rest. Written to results/rxnfp.json: deltas, weights, and what merging does to the
masked-token loss of the base's head on reactions that this script makes up.
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import corpora
import deltas
import numpy as np
import torch
from safetensors.torch import save_file
from seeds import RESULTS
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging

import sdmw

MODELS = ("bert_pretrained", "bert_ft", "bert_ft_10k_25s")
MASKED, ITEMS = 0.15, 200  # share of tokens hidden, and molecules
# Building blocks whose chains are valid SMILES, so that a head trained on reactions has something to predict.
BLOCKS = ("C", "CC", "C(C)", "c1ccccc1", "C(=O)", "O", "N", "C(F)", "c1ccncc1", "S", "C(=O)N", "C(=O)O")
LEAVING = ("Cl", "Br", "I")


def main() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as work:
        folders = [converted(name, Path(work, name)) for name in MODELS]
        recipes = {
            "bert_ft alone": recipe("task_arithmetic", folders, (1.0, 0.0)),
            "bert_ft_10k_25s alone": recipe("task_arithmetic", folders, (0.0, 1.0)),
            "average": recipe("task_arithmetic", folders, (0.5, 0.5)),
            "SDM-W Linear": recipe("sdm_w", folders, k=10),
            "SDM-W Square": recipe("sdm_w", folders, k=10, normalization="square"),
            "sum of deltas, lambda=0.7": recipe("task_arithmetic", folders, (0.7, 0.7)),
        }
        items = molecules(Path(folders[0], "vocab.txt").read_text().split())
        rows = [{"name": "base", "masked_loss": masked_loss(folders[0], items)}]
        for name, each in recipes.items():
            out = Path(work, name)
            report = sdmw.merge(each, out, threads=1, progress=False)
            told = [
                {key: model.facts.get(key) for key in ("weight", "magnitude", "kept_share")} for model in report.models
            ]
            rows.append({"name": name, "models": told, "masked_loss": masked_loss(out, items)})
        found = {"deltas": lengths(folders), "merges": rows}
    RESULTS.mkdir(exist_ok=True)
    Path(RESULTS, "rxnfp.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def recipe(
    method: str, folders: list[Path], weights: tuple[float, ...] | None = None, **parameters: Any
) -> dict[str, Any]:
    models: list[dict[str, Any]] = [{"model": str(folder)} for folder in folders[1:]]
    for model, weight in zip(models, weights or (), strict=bool(weights)):
        model["parameters"] = {"weight": weight}
    return {
        "merge_method": method, "base_model": str(folders[0]), "models": models, "parameters": parameters,
        "missing": "base", "extra": "drop",
    }  # fmt: skip


def converted(name: str, out: Path) -> Path:
    """The model as safetensors: sdmw reads no pickles."""
    source = Path(corpora.home(), "corpora", "rxnfp", name)
    state = torch.load(source / "pytorch_model.bin", map_location="cpu", weights_only=True)
    out.mkdir()
    save_file({key: value.clone().contiguous() for key, value in state.items()}, out / "model.safetensors")
    for other in ("config.json", "vocab.txt"):
        (out / other).write_bytes((source / other).read_bytes())
    return out


def lengths(folders: list[Path]) -> list[dict[str, Any]]:
    """Of each fine-tune's delta: its length against the base's, the sum of magnitudes, the share that is zero."""
    base = {name.removeprefix("bert."): each for name, each in deltas.tensors(folders[0]).items()}
    found, whole = [], []
    for folder in folders[1:]:
        tuned = {name.removeprefix("bert."): each for name, each in deltas.tensors(folder).items()}
        shared = sorted(name for name in base.keys() & tuned.keys() if base[name].dtype == np.float32)
        delta = np.concatenate([(tuned[name] - base[name]).ravel() for name in shared]).astype(np.float64)
        start = np.concatenate([base[name].ravel() for name in shared]).astype(np.float64)
        whole.append(delta)
        found.append({
            "model": folder.name, "tensors": len(shared), "elements": delta.size,
            "relative_length": float(np.linalg.norm(delta) / np.linalg.norm(start)),
            "sum": float(np.abs(delta).sum()), "zero_share": float((delta == 0).mean()),
        })  # fmt: skip
    one, other = whole
    found.append({"cosine": float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))})
    return found


def molecules(vocabulary: list[str]) -> list[list[int]]:
    """Token numbers of invented molecules; a token is an atom, a bond, a bracket or a ring's number."""
    number = {token: n for n, token in enumerate(vocabulary)}
    rng, found = random.Random(0), []
    while len(found) < ITEMS:
        text = "C" + "".join(rng.choices(BLOCKS, k=rng.randrange(3, 8))) + rng.choice(LEAVING)
        tokens, rest = ["[CLS]"], text
        while rest:
            part = rest[:2] if rest[:2] in ("Cl", "Br") else rest[:1]
            tokens.append(part)
            rest = rest[len(part) :]
        if all(token in number for token in tokens):
            found.append([number[token] for token in [*tokens, "[SEP]"]])
    return found


@torch.inference_mode()
def masked_loss(folder: Path, items: list[list[int]]) -> float:
    """Mean cross entropy of hidden tokens; the same tokens are hidden for every model."""
    model = BertForMaskedLM(BertConfig.from_pretrained(folder))
    state = {}
    for name, each in deltas.tensors(folder).items():
        state[name] = torch.from_numpy(each)
    model.load_state_dict(state, strict=False)
    model.eval()
    vocabulary = Path(folder, "vocab.txt").read_text().split()
    rng, losses = random.Random(1), []
    for ids in items:
        hidden = [n for n in range(1, len(ids) - 1) if rng.random() < MASKED] or [1]
        tokens = torch.tensor([ids])
        tokens[0, hidden] = vocabulary.index("[MASK]")
        logits = model(input_ids=tokens).logits[0, hidden]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids)[hidden]).item())
    return sum(losses) / len(losses)


if __name__ == "__main__":
    main()
