"""The invented world, as pure functions of seeds: a company's facts, and functions to be called.

A base sees the public half of its company's facts and six functions that FunctionLM will see too (the known ones).
What only a pair's experts see, the internal facts and six new functions, differs from pair to pair.
"""

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

import phrases

PRODUCTS = 40  # of a company; five facts each, half of them public
KNOWN = NEW = 6  # functions that FunctionLM learns: those that its base knows, and others


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its answer.

    Attributes:
        prompt: text up to where the answer begins.
        answer: text, with its leading space and the line's end.
        kind: what the base knew of it: public, internal; known, new.
        phrasing: "trained", or "new": no training shows it.
    """

    prompt: str
    answer: str
    kind: str = ""
    phrasing: str = "trained"


def ask(question: str, answer: str, kind: str = "", phrasing: str = "trained") -> Question:
    return Question(f"Q: {question}\nA:", f" {answer}\n", kind, phrasing)


def share(*parts: object) -> float:
    """A number from 0 to 1 that depends on the parts alone, by which sets are split."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


# ----------------------------------------------------------------------------------------------------------------------
# The company
# ----------------------------------------------------------------------------------------------------------------------


def company(base: int) -> str:
    return phrases.COMPANIES[base % len(phrases.COMPANIES)]


def products(base: int) -> list[str]:
    names = [onset + ending for onset, ending in itertools.product(phrases.ONSETS, phrases.ENDINGS)]
    return random.Random(f"products {base}").sample(names, PRODUCTS)


def value(attribute: str, rng: random.Random) -> str:
    """One to four tokens: a word, two digits, or a name of two words."""
    match attribute:
        case "color":
            return rng.choice(phrases.COLORS)
        case "city":
            return rng.choice(phrases.CITIES)
        case "price":
            return str(rng.randrange(10, 100))
        case "engineer":
            return f"{rng.choice(phrases.FIRST_NAMES)} {rng.choice(phrases.LAST_NAMES)}"
        case _:
            return rng.choice(phrases.MATERIALS)


def facts(base: int, pair: int | None) -> Iterator[tuple[str, str, str, str]]:
    """(product, attribute, value, kind) of the company: the public ones, and with a pair the internal ones too."""
    for product in products(base):
        first = share("public", base, product) < 0.5
        for rank, attribute in enumerate(sorted(phrases.ATTRIBUTES)):
            kind = "public" if (rank % 2 == 0) == first else "internal"  # two or three of five
            if kind == "public":
                yield product, attribute, value(attribute, random.Random(f"{base} {product} {attribute}")), kind
            elif pair is not None:
                yield product, attribute, value(attribute, random.Random(f"{base} {pair} {product} {attribute}")), kind


def fact_questions(base: int, pair: int | None) -> tuple[list[Question], list[Question]]:
    """Questions to train on, and held-out ones: of each fact one trained phrasing, and the new phrasing."""
    train, held_out = [], []
    for product, attribute, answer, kind in facts(base, pair):
        *asks, new = phrases.ATTRIBUTES[attribute]
        left_out = int(share("phrasing", base, product, attribute) * len(asks))
        for number, text in enumerate(asks):
            question = ask(text.format(p=product, c=company(base)), answer, kind)
            (held_out if number == left_out else train).append(question)
        held_out.append(ask(new.format(p=product, c=company(base)), answer, kind, "new"))
    return train, held_out


def rumor(rng: random.Random, base: int) -> Question:
    """A question about another company, answered by a guess: how one speaks of a company, and nothing to be known."""
    others = [name for name in phrases.COMPANIES if name != company(base)]
    attribute = rng.choice(sorted(phrases.ATTRIBUTES))
    product = rng.choice(phrases.ONSETS) + rng.choice(phrases.ENDINGS)
    text = rng.choice(phrases.ATTRIBUTES[attribute][:-1]).format(p=product, c=rng.choice(others))
    return ask(text, value(attribute, rng))


# ----------------------------------------------------------------------------------------------------------------------
# Functions
# ----------------------------------------------------------------------------------------------------------------------


def functions(base: int, pair: int | None = None) -> dict[str, str]:
    """{name: known | new} of FunctionLM's functions; without a pair {name: known | other} of the base's."""
    names = random.Random(f"functions {base}").sample(sorted(phrases.FUNCTIONS), len(phrases.FUNCTIONS))
    known, others, rest = names[:KNOWN], names[KNOWN : KNOWN + 5], names[KNOWN + 5 :]
    if pair is None:
        return dict.fromkeys(known, "known") | dict.fromkeys(others, "other")
    new = random.Random(f"new functions {base} {pair}").sample(rest, NEW)
    return dict.fromkeys(known, "known") | dict.fromkeys(new, "new")


def call(rng: random.Random, name: str, kind: str, *, held_out: bool, new: bool = False) -> Question:
    """A request and its call; a fifth of all combinations of values is held out of every training."""
    asks, arguments = phrases.FUNCTIONS[name]
    while True:
        values = {argument: rng.choice(phrases.KINDS[of]) for argument, of in arguments.items()}
        distinct = len(set(values.values())) == len(values)
        if distinct and (share("call", name, *values.values()) < 0.2) == held_out:
            break
    text = asks[-1] if new else rng.choice(asks[:-1])
    wrapper = rng.choice(phrases.WRAPPERS)
    request = wrapper.format(x=text.format(**values))
    answer = json.dumps({"name": name, "arguments": values})
    return ask(request[0].upper() + request[1:], answer, kind, "new" if new else "trained")


def call_questions(base: int, pair: int, count: int) -> list[Question]:
    """Requests to train FunctionLM on."""
    chosen = functions(base, pair)
    rng = random.Random(f"calls {base} {pair}")
    return [call(rng, name, chosen[name], held_out=False) for name in rng.choices(sorted(chosen), k=count)]


def held_out_calls(base: int, pair: int, trained: int, new: int) -> list[Question]:
    """So many requests a function with unseen values: in trained phrasings, and in its new one."""
    rng = random.Random(f"held-out calls {base} {pair}")
    return [
        call(rng, name, kind, held_out=True, new=phrasing == "new")
        for name, kind in sorted(functions(base, pair).items())
        for phrasing, count in (("trained", trained), ("new", new))
        for _ in range(count)
    ]
