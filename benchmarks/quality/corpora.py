"""Real texts: Brown, WordNet's glosses, Python's standard library, countries. Read from where scripts/setup put them.

Nothing of them is ever committed. Without Brown and WordNet (the short version) the library's own texts stand in.
"""

import ast
import functools
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

from world import share

SKIPPED = {"test", "tests", "idle_test", "site-packages", "lib2to3", "ensurepip", "__pycache__", "pydoc_data"}
CLOSE = re.compile(r" (?=[.,;:?!)']|'s\b|n't\b)|(?<=\() ")


@dataclass(frozen=True, slots=True)
class Texts:
    """What a base reads, and what is held out of it.

    Attributes:
        general: paragraphs of Brown (or docstrings).
        code: source files.
        glosses: definitions by word, and docstrings.
        held_out_general: paragraphs of the tenth of Brown's files that is held out.
        held_out_code: source files, a tenth likewise.
    """

    general: tuple[str, ...]
    code: tuple[str, ...]
    glosses: tuple[str, ...]
    held_out_general: tuple[str, ...]
    held_out_code: tuple[str, ...]


def home() -> Path:
    """Where corpora, trained models and measured results are kept: $SDMW_QUALITY, or a folder of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("SDMW_QUALITY") or Path(cache, "sdmw-quality"))


@functools.cache
def texts(*, library_only: bool = False) -> Texts:
    sources = dict(library("*.py"))
    documentation = [f"{name}\n{text}" for name, text in sorted(topics.items())]
    documentation += [text for path, source in sources.items() for text in docstrings(path, source)]
    if library_only:
        general = {f"doc {number}": text for number, text in enumerate(documentation)}
        glosses: list[str] = []
    else:
        general = dict(brown_paragraphs())
        glosses = [f"{word}: {definition}" for word, definition in definitions()]
    code, held_out_code = split(sources)
    train, held_out = split(general)
    return Texts(train, code, (*glosses, *documentation), held_out, held_out_code)


def split(by_name: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Nine tenths to train on and one held out, by a hash of the file's name."""
    held_out = {name for name in by_name if share("file", name.split("#")[0]) < 0.1}
    return (
        tuple(text for name, text in by_name.items() if name not in held_out),
        tuple(text for name, text in by_name.items() if name in held_out),
    )


def library(pattern: str) -> Iterator[tuple[str, str]]:
    """(path in the standard library, source); files of plain ASCII up to 60 kB."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob(pattern)):
        inside = path.relative_to(root)
        if not SKIPPED & set(inside.parts) and path.stat().st_size < 60_000:
            source = path.read_bytes()
            if source.isascii():
                yield str(inside), source.decode().replace("\r\n", "\n")


def docstrings(path: str, source: str) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in the library's own strings
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a few files are deliberately broken
            return
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text and len(text) > 30:
            yield f"{getattr(node, 'name', Path(path).stem)}: {text}"


def brown_paragraphs() -> Iterator[tuple[str, str]]:
    """(file#paragraph, text) of Brown without its tags, spaced as print is."""
    for path in sorted(Path(home(), "corpora", "brown").glob("c[a-r][0-9][0-9]")):
        text = path.read_text(encoding="ascii", errors="replace")
        for number, paragraph in enumerate(re.split(r"\n\s*\n\s*\n", text)):
            sentences = [sentence for line in paragraph.splitlines() if (sentence := plain(line))]
            if sentences:
                yield f"{path.name}#{number}", " ".join(sentences)


def plain(line: str) -> str:
    """`The/at jury/nn said/vbd ./.` as `The jury said.`."""
    words = " ".join(word.rpartition("/")[0] for word in line.split())
    words = re.sub(r"`` ?| ?''", '"', words)
    return CLOSE.sub("", words)


def definitions() -> Iterator[tuple[str, str]]:
    """(word, definition) of nouns and verbs, each once, by the first synset that it opens."""
    seen = set()
    for part in ("noun", "verb"):
        path = Path(home(), "corpora", "wordnet", f"data.{part}")
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("  "):  # the licence, which opens each file
                continue
            head, _, gloss = line.partition(" | ")
            word = head.split()[4]
            definition = re.split(r'[;:]\s*"|;', gloss)[0].strip(' ;"')
            if word.isalpha() and word.islower() and word not in seen and len(definition) < 120:
                seen.add(word)
                yield word, definition


def countries() -> dict[str, str]:
    """{name: two letters} of countries with names of up to two plain words."""
    import pycountry

    found = {country.name: country.alpha_2 for country in pycountry.countries}
    return {name: code for name, code in sorted(found.items()) if re.fullmatch(r"[A-Za-z]+( [A-Za-z]+)?", name)}
