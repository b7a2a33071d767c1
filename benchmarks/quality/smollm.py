"""Tier B's base: SmolLM2-135M-Instruct as a safetensors checkpoint, its tokenizer, and its chat format."""

from collections.abc import Sequence
from pathlib import Path

import corpora
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from world import Question

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "<|im_start|>user\n{x}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
START = "<|im_start|>"  # opens every text, as the model's own configuration says


def need_base(out: Path) -> Path:
    """The folder of the base; made of the GGUF, whose weights are quantised, where it is not there yet."""
    if not Path(out, "training.json").exists():
        source = Path(corpora.home(), "corpora", "smollm2")
        found = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
        told = found.config.to_dict()
        told.pop("quantization_config")  # what was quantised is not any more
        model = LlamaForCausalLM(LlamaConfig.from_dict(told))
        model.load_state_dict(found.state_dict())
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(out)
        Path(out, "training.json").write_text("{}\n")
    return out


def tokenizer_of(base: Path) -> Tokenizer:
    return Tokenizer.from_file(str(Path(base, "tokenizer.json")))


def in_chat(text: str, answer: str, kind: str, phrasing: str = "trained") -> Question:
    """A question as a user's turn, and the assistant's answer up to the end of its turn."""
    return Question(PROMPT.format(x=text), answer + END, kind, phrasing)


def as_chat(question: Question) -> Question:
    """A question of tier A in the chat's format."""
    text = question.prompt.removeprefix("Q: ").removesuffix("\nA:")
    return in_chat(text, question.answer.strip(), question.kind, question.phrasing)


def encoded(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[tuple[list[int], int]]:
    """(tokens, how many of them are the prompt's) of each question."""
    prompts = tokenizer.encode_batch([question.prompt for question in questions])
    answers = tokenizer.encode_batch([question.answer for question in questions])
    return [([*prompt.ids, *answer.ids], len(prompt.ids)) for prompt, answer in zip(prompts, answers, strict=True)]
