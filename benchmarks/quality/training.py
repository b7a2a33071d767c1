"""Trains a model, one thread, resumably: what a step draws depends on its number alone, and parts are kept beside."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from sizes import Size
from tokens import VOCABULARY
from transformers import LlamaConfig, LlamaForCausalLM

Draw = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
KEPT_EVERY = 60.0  # seconds of processor time between two savings of a training under way


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate by step: warm-up, then down to a share of the peak.

    Attributes:
        steps: how many.
        rate: the peak.
        cosine: half a cosine down to a tenth of the peak; else a straight line to nothing.
        decay: weight decay of matrices.
        kept: steps after which a copy is saved as well, and under which name.
    """

    steps: int
    rate: float
    cosine: bool = False
    decay: float = 0.0
    kept: tuple[int, str] | None = None

    def at(self, step: int) -> float:
        """The learning rate of a step."""
        warm = max(1, self.steps // 20)
        if step < warm:
            return self.rate * (step + 1) / warm
        if self.cosine:
            return self.rate * (0.55 + 0.45 * math.cos(math.pi * step / self.steps))
        return self.rate * (1 - step / self.steps)


def new_model(size: Size, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        intermediate_size=3 * size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


def load(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def loss_of(model: LlamaForCausalLM, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the labels that count; the head is asked for those positions alone."""
    hidden = model.model(input_ids=tokens[:, :-1]).last_hidden_state
    counts = labels[:, 1:] != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[counts]), labels[:, 1:][counts])


def train(model: LlamaForCausalLM, draw: Draw, schedule: Schedule, out: Path) -> None:
    """Train and save to the folder `out`, with training.json beside; an interrupted training is resumed."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": schedule.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.95))
    part = out.with_name(f"{out.name}.part")
    begin, spent, tokens_seen = _resume(part, model, optimizer)
    model.train()
    clock = last_kept = time.process_time()
    losses: list[float] = []
    for step in range(begin, schedule.steps):
        tokens, labels = draw(step)
        tokens_seen += tokens.numel()
        for group in optimizer.param_groups:
            group["lr"] = schedule.at(step)
        loss = loss_of(model, tokens, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        now = time.process_time()
        if schedule.kept and step + 1 == schedule.kept[0]:
            save(model, out.with_name(schedule.kept[1]), step + 1, spent + now - clock, tokens_seen, losses)
        if now - last_kept > KEPT_EVERY:
            _keep(part, model, optimizer, (step + 1, spent + now - clock, tokens_seen))
            print(
                f"{out.name} {step + 1}/{schedule.steps} loss {sum(losses[-100:]) / len(losses[-100:]):.3f}", flush=True
            )
            last_kept = time.process_time()
    save(model, out, schedule.steps, spent + time.process_time() - clock, tokens_seen, losses)
    part.unlink(missing_ok=True)


def save(model: LlamaForCausalLM, out: Path, steps: int, cpu_s: float, tokens: int, losses: list[float]) -> None:
    """The model, and training.json last: a folder that has it is complete."""
    model.save_pretrained(out)
    recent = losses[-50:] or [float("nan")]
    told = {"steps": steps, "cpu_s": round(cpu_s, 1), "tokens": tokens, "loss": round(sum(recent) / len(recent), 4)}
    Path(out, "training.json").write_text(json.dumps(told) + "\n")
    print(out.parent.name, out.name, told, flush=True)


def _keep(part: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, where: tuple[int, float, int]) -> None:
    beside = part.with_name(f"{part.name}.new")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "where": where}, beside)
    beside.replace(part)


def _resume(part: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> tuple[int, float, int]:
    """(next step, processor seconds, tokens) so far."""
    if not part.exists():
        return 0, 0.0, 0
    kept = torch.load(part, weights_only=True)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return tuple(kept["where"])
