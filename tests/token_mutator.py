"""Mutates texts token by token: what a parser is likely to stumble over. For tests, and for benchmarks/fuzz.py."""

import random
import re

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[0-9.eE+-]+|[a-zA-Z_]+|\s+|.', re.DOTALL)


def mutated(data: bytes, tokens: list[bytes], chance: random.Random) -> bytes:
    """The input with a few of its tokens dropped, doubled, swapped, moved or replaced."""
    parts = TOKEN.findall(data) or [b""]
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        place, other = chance.randrange(len(parts)), chance.randrange(len(parts))
        match chance.randrange(5):
            case 0:
                parts[place] = b""
            case 1:
                parts[place] += parts[other]
            case 2:
                parts[place], parts[other] = parts[other], parts[place]
            case 3:
                parts[place:place] = parts[min(place, other) : max(place, other)]
            case 4:
                parts[place] = chance.choice(tokens)
    return b"".join(parts)
