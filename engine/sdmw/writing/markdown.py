"""Text of others in Markdown: as code, which shows it whatever it is."""

import re

from sdmw.errors import printable


def code_span(text: str) -> str:
    """A code span that shows the text whatever it is: on one line, delimited by more backticks than it has."""
    line = printable(text).replace("\n", "\\n").replace("\t", "\\t") or "(empty)"
    ticks = "`" * (_longest_run(line) + 1)
    pad = " " if "`" in (line[0], line[-1]) or line[0] == line[-1] == " " else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def fenced(text: str, language: str) -> str:
    """A block of code, whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, _longest_run(text) + 1)
    body = printable(text.replace("\r\n", "\n"))
    return f"{fence}{language}\n{body}{'' if body.endswith(chr(10)) else chr(10)}{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
