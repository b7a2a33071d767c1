"""Tables of Markdown, and the words for what is beyond noise."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def verdict(mean: float, p: float) -> str:
    word = "" if p >= 0.05 else " **better**" if mean > 0 else " **worse**"
    return f"{p:.3f}{word}"
