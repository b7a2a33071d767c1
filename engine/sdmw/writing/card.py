"""The model card (README.md): front matter that the Hub reads, a body for people. Every name in it is hostile."""

import io
import re
from collections.abc import Iterable, Sequence

from sdmw.errors import CheckpointError, printable
from sdmw.storage.files import read_start

_LARGEST_README = 2**20  # bytes; what lies beyond is not looked at
_DEEPEST = 32  # nested collections of front matter: ruamel's time grows with the square
_NO_LICENSE = ("", "~", "null", "Null", "NULL")


def model_card(
    *,
    method: str,
    base_model: str | None,
    hub_ids: Sequence[str],
    license: str | None,  # noqa: A002  the Hub's word
    models: Sequence[tuple[str, Sequence[str]]],
    recipe_text: str | None,
    version: str,
    fingerprints: Sequence[tuple[str, str]],
    adapter: bool = False,
) -> str:
    """The card of a merge. No time, path of the machine or other accident enters it beyond what is passed.

    Args:
        method: name of the merge method.
        base_model: as the recipe names it.
        hub_ids: the inputs that are on the Hub; without any the front matter names none.
        license: what all inputs agree on.
        models: name of each, and what there is to say of it.
        recipe_text: shown as it is; None where there is none.
        version: of sdmw.
        fingerprints: name and hash of each input.
        adapter: it is a PEFT adapter, and no model.
    """
    merged = [f"Method: {_code(method)}"]
    if base_model is not None:
        merged.append(f"Base: {_code(base_model)}")
    sections = [
        f"---\n{_front_matter(hub_ids, license, adapter)}---",
        "# Adapter" if adapter else "# Merged model",
        f"Made with sdmw {_code(version)}." if adapter else f"Merged with sdmw {_code(version)}.",
        _listed(merged),
        "## Models",
        _listed(_model(*model) for model in models),
        *(("## Recipe", _fenced(recipe_text)) if recipe_text is not None else ()),
        "## Fingerprints of the inputs",
        _listed(f"{_code(name)}: {_code(fingerprint)}" for name, fingerprint in fingerprints),
    ]
    return "\n\n".join(sections) + "\n"


def common_license(directories: Sequence[tuple[str, bool]]) -> str | None:
    """The licence that the cards of all checkpoints name; None where one names none or they differ.

    Args:
        directories: each with whether links are followed that leave it.
    """
    found = {license_of(directory, follow_links=follow_links) for directory, follow_links in directories}
    return found.pop() if len(found) == 1 else None


def license_of(directory: str, *, follow_links: bool = False) -> str | None:
    """`license:` in the front matter of a checkpoint's README.md; None where it cannot be found in its first MiB."""
    try:
        text = read_start(directory, "README.md", _LARGEST_README, follow_links=follow_links)
        front = re.match(rb"(?:\xef\xbb\xbf)?\s*---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", text, re.DOTALL | re.MULTILINE)
        return _license_in(front[1].decode()) if front else None
    except (CheckpointError, UnicodeDecodeError):
        return None


def _license_in(front_matter: str) -> str | None:
    """The scalar of the top level's `license`. Events are enough: nothing is composed, aliases are never expanded."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, NodeEvent, ScalarEvent, SequenceStartEvent

    depth = 0
    key: str | None = None
    at_key = True
    try:
        for event in YAML(typ="safe", pure=True).parse(front_matter):
            if isinstance(event, CollectionStartEvent):
                if depth == _DEEPEST or (depth == 0 and isinstance(event, SequenceStartEvent)):
                    return None
                depth += 1
                continue
            depth -= isinstance(event, CollectionEndEvent)
            if depth != 1 or not isinstance(event, (NodeEvent, CollectionEndEvent)):
                continue
            scalar = str(event.value) if isinstance(event, ScalarEvent) else None
            if not at_key and key == "license":
                return None if scalar is None or scalar.strip() in _NO_LICENSE else scalar.strip()
            key, at_key = scalar, not at_key
    except (YAMLError, ValueError):
        pass
    return None


def _front_matter(hub_ids: Sequence[str], licence: str | None, adapter: bool) -> str:
    from ruamel.yaml import YAML
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted

    front: dict[str, object] = {}
    # Quoted and in ASCII: the Hub and llama.cpp read YAML 1.1, where a plain `no` is false, and split lines at more
    # characters than YAML does.
    if hub_ids:
        front["base_model"] = [Quoted(hub_id) for hub_id in hub_ids]
    front["base_model_relation"] = "adapter" if adapter else "merge"
    front["library_name"] = "peft" if adapter else "transformers"
    front["tags"] = ["lora", "sdmw"] if adapter else ["merge", "sdmw"]
    if licence is not None:
        front["license"] = Quoted(licence)
    yaml = YAML()
    yaml.allow_unicode = False
    yaml.width = 2**31  # no line is folded
    written = io.StringIO()
    yaml.dump(front, written)
    return written.getvalue()


def _model(name: str, said: Sequence[str]) -> str:
    return ", ".join([_code(name), *said])


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _code(text: str) -> str:
    """A code span that shows the text whatever it is: on one line, delimited by more backticks than it has."""
    line = printable(text).replace("\n", "\\n").replace("\t", "\\t") or "(empty)"
    ticks = "`" * (_longest_run(line) + 1)
    pad = " " if "`" in (line[0], line[-1]) or line[0] == line[-1] == " " else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def _fenced(text: str) -> str:
    fence = "`" * max(3, _longest_run(text) + 1)
    body = printable(text.replace("\r\n", "\n"))
    return f"{fence}yaml\n{body}{'' if body.endswith(chr(10)) else chr(10)}{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
