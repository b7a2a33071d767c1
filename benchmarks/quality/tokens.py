"""One vocabulary for all bases: byte-level BPE of 2,048 tokens, digits one by one."""

import random
from collections.abc import Sequence

from corpora import Texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from world import Question

VOCABULARY = 2048
START = "<s>"  # opens every document; also fills short rows
CHARACTERS = 3_000_000  # of text that the vocabulary is learned from


def train_tokenizer(texts: Texts, questions: Sequence[Question]) -> Tokenizer:
    rng = random.Random("vocabulary")
    chosen: list[str] = []
    for kind, part in ((texts.general, 0.6), (texts.code, 0.15), (texts.glosses, 0.15)):
        shuffled, size = rng.sample(kind, len(kind)), 0
        for text in shuffled:
            if size > part * CHARACTERS:
                break
            chosen.append(text)
            size += len(text)
    chosen += [question.prompt + question.answer for question in questions]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chosen, trainer)
    return tokenizer


def encoded(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[tuple[list[int], int]]:
    """(tokens, how many of them are the prompt's) of each question; prompt and answer never share a token."""
    start = tokenizer.token_to_id(START)
    prompts = tokenizer.encode_batch([question.prompt for question in questions])
    answers = tokenizer.encode_batch([question.answer for question in questions])
    return [
        ([start, *prompt.ids, *answer.ids], 1 + len(prompt.ids))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def single_token_words(tokenizer: Tokenizer, definitions: dict[str, str], count: int) -> dict[str, str]:
    """Words that are one token after a space, with short definitions: those that the texts have most often."""
    found = {
        word: text
        for word, text in definitions.items()
        if len(word) > 2 and 15 < len(text) < 60 and len(tokenizer.encode(f" {word}").ids) == 1
    }
    by_rank = sorted(found, key=lambda word: tokenizer.encode(f" {word}").ids[0])  # merges are numbered by frequency
    return {word: found[word] for word in sorted(by_rank[:count])}
