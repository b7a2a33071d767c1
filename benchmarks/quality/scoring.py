"""Scores a model on a suite in one pass: exact match under teacher forcing equals greedy decoding's."""

from collections.abc import Iterator

import numpy as np
import torch
from suites import Choice, Exact, Pairs, Passages, Rows, Suite
from transformers import LlamaForCausalLM

TOGETHER = 3_000  # tokens in one batch, padding included


@torch.inference_mode()
def outcomes(model: LlamaForCausalLM, suite: Suite) -> tuple[dict[str, np.ndarray], float]:
    """({set: (items,) bool, right or wrong}, perplexity of the passages)."""
    found, perplexity = {}, float("nan")
    for name, items in suite.items():
        match items:
            case Exact(rows):
                found[name] = hits(model, rows)
            case Choice(rows, candidates):
                found[name] = chosen(model, rows, candidates)
            case Pairs(right, wrong):
                found[name] = log_likelihoods(model, right) > log_likelihoods(model, wrong)
            case Passages(rows):
                counted = sum(len(tokens) - 1 for tokens in rows.tokens)
                perplexity = float(np.exp(-log_likelihoods(model, rows).sum() / counted))
    return found, perplexity


def hits(model: LlamaForCausalLM, rows: Rows) -> np.ndarray:
    """(rows,) whether every token that counts is the likeliest one."""
    right = np.ones(len(rows.tokens), bool)
    for numbers, where, logits, targets in batches(model, rows):
        missed = (logits.argmax(-1) != targets).numpy()
        right[numbers[where[missed]]] = False
    return right


def chosen(model: LlamaForCausalLM, rows: Rows, candidates: np.ndarray) -> np.ndarray:
    """(rows,) whether the row's own candidate is the likeliest of all."""
    right = np.zeros(len(rows.tokens), bool)
    for numbers, where, logits, _ in batches(model, rows):
        right[numbers[where]] = logits[:, candidates].numpy().argmax(1) == numbers[where]
    return right


def log_likelihoods(model: LlamaForCausalLM, rows: Rows) -> np.ndarray:
    """(rows,) float64: the sum of the log-probabilities of the tokens that count."""
    sums = np.zeros(len(rows.tokens))
    for numbers, where, logits, targets in batches(model, rows):
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        np.subtract.at(sums, numbers[where], losses.double().numpy())
    return sums


def batches(model: LlamaForCausalLM, rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray, torch.Tensor, torch.Tensor]]:
    """(numbers of the rows; for each counted position: its row in the batch, logits, the token that follows)."""
    order = sorted(range(len(rows.tokens)), key=lambda number: len(rows.tokens[number]))
    while order:
        longest = len(rows.tokens[order[-1]])
        numbers = np.array(order[-max(1, TOGETHER // longest) :])
        order = order[: -len(numbers)]
        tokens = torch.zeros((len(numbers), longest), dtype=torch.int64)
        counts = torch.zeros((len(numbers), longest - 1), dtype=torch.bool)
        for row, number in enumerate(numbers):
            ids, begin = rows.tokens[number], rows.begins[number]
            tokens[row, : len(ids)] = torch.tensor(ids)
            counts[row, begin - 1 : len(ids) - 1] = True
        hidden = model.model(input_ids=tokens[:, :-1]).last_hidden_state
        where = counts.nonzero()[:, 0].numpy()
        yield numbers, where, model.lm_head(hidden[counts]), tokens[:, 1:][counts]
