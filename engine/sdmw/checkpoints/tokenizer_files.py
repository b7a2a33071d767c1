"""tokenizer.json and tokenizer_config.json with more added tokens; everything else in them stays as it is written.

The bytes around the list of added tokens are kept, which the `tokenizers` library would not do: it writes merges and
numbers in its own way, takes 1 GB for a large vocabulary, and gives numbers itself.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.checkpoints.json_files import TOKENIZER, read_object
from sdmw.checkpoints.tokenizer import FAST
from sdmw.checkpoints.tokens import DECODER, end_of_added, tokenizer_json

Entry = Mapping[str, Any]
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def added_token(number: int, content: str, like: Entry | None = None) -> Entry:
    """An added token as tokenizer.json has it; with the flags of another, or those that make any text one token."""
    return {"id": number, "content": content, **{flag: bool(like and like.get(flag)) for flag in FLAGS}}


def with_added(source: Checkpoint, entries: Sequence[Entry]) -> dict[str, bytes]:
    """The two files of a checkpoint with more added tokens, by name; tokenizer_config.json only where it lists any.

    Args:
        source: whose tokenizer it is.
        entries: the tokens, by ascending number.

    Raises:
        CheckpointError: tokenizer.json cannot be read.
    """
    files = {FAST: _spliced(tokenizer_json(source), entries)}
    config = read_object(source, TOKENIZER)
    if isinstance(config.get(DECODER), dict):
        more = {str(each["id"]): {name: each[name] for name in ("content", *FLAGS)} for each in entries}
        config[DECODER] = {**config[DECODER], **more}
        files[TOKENIZER] = json.dumps(config, indent=2, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"
    return files


def _spliced(raw: bytes, entries: Sequence[Entry]) -> bytes:
    """A tokenizer.json with the entries behind its own added tokens."""
    text = ",\n    ".join(json.dumps(each) for each in entries).encode()
    if (place := end_of_added(raw)) is None:
        start = raw.index(b"{") + 1
        return raw[:start] + b'"added_tokens": [' + text + b"]," + raw[start:]
    before = raw[:place].rstrip()
    return before + (b"" if before.endswith(b"[") else b",") + b"\n    " + text + b"\n  " + raw[place:]
