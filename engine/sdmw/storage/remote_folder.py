"""A model's folder in a store or on a web server: what lies in it, and its small files."""

import errno
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from sdmw.addresses import is_plain
from sdmw.errors import CheckpointError, Problem, UnreachableError, quoted
from sdmw.storage import hub_address, remote
from sdmw.storage.remote import Found

FRESH = 30.0  # seconds for which a folder that was listed is taken to be as it was
SMALL, MOST_KEPT = 1 << 20, 16 << 20  # bytes of one file that is kept, and of all of them
PROBES = 8  # at once
# A web server lists nothing: what is looked for there, beside the shards that an index names.
NAMES = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "adapter_config.json",
    "adapter_model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "modules.json",
    "config_sentence_transformers.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "USE_POLICY.md",
)  # fmt: skip

_lock = threading.Lock()
_listed: dict[str, tuple[float, dict[str, Found | None]]] = {}
_contents: OrderedDict[tuple[str, str], bytes] = OrderedDict()


def contents(address: str, *, inner: bool = False) -> dict[str, Found | None]:
    """What lies in a folder, by name; None for a folder in it.

    Args:
        address: of the folder.
        inner: it was listed in another one; then it may be empty, as consoles and mounts of stores make folders.

    Raises:
        CheckpointError: it cannot be listed, or a name in it would lead out of it, or it is not there.
    """
    with _lock:
        at, found = _listed.get(address, (0.0, {}))
    if found and time.monotonic() - at < FRESH:
        return found
    try:
        found = _probed(address) if _lists_nothing(address) else remote.names_below(address)
    except OSError as error:
        said = f"the folder cannot be listed: {error.strerror}"
        mend = "Accept the terms on the model's page, and use a token that may read it (hf auth login, or HF_TOKEN)"
        is_gated = address.startswith(hub_address.SCHEME) and remote.is_denied(error)
        raise UnreachableError([Problem(address, "", said, mend if is_gated else "")]) from None
    if not found and not inner:
        raise CheckpointError([Problem(address, "", "no such folder, or an empty one")])
    if bad := [name for name in found if not is_plain(name)]:
        raise CheckpointError([Problem(address, "names of files", quoted(bad[0]), "Rename the object")])
    with _lock:
        _listed[address] = time.monotonic(), found
    return found


def found_of(address: str, name: str) -> Found:
    """What is known of a file; CheckpointError where there is none."""
    folder, _, last = name.rpartition("/")
    if not all(map(is_plain, name.split("/"))):
        raise CheckpointError([Problem(f"{address}/{name}", "a file of this folder", "a name that leads out of it")])
    place = f"{address}/{folder}" if folder else address
    known = {} if folder and _lists_nothing(address) else contents(place)
    try:
        if (found := known.get(last)) is None:
            if not _lists_nothing(address):
                raise FileNotFoundError
            found = remote.head(f"{place}/{last}")  # an index may name files that nobody looks for
    except OSError as error:
        where = f"{address}/{name}"
        if isinstance(error, FileNotFoundError):
            raise CheckpointError([Problem(where, "", "no such file")]) from None
        raise UnreachableError([Problem(where, "", f"cannot be read: {error.strerror}")]) from None
    return found


def start_of(address: str, name: str, most: int) -> tuple[int, bytes]:
    """The size of a file, and its first bytes, at most `most`; small files are kept.

    Raises:
        CheckpointError: it cannot be read.
    """
    for _ in range(2):
        found = found_of(address, name)
        size, key = min(found.size, most), (f"{address}/{name}", found.version)
        with _lock:
            kept = _contents.get(key)
        if kept is not None and len(kept) >= size:
            return found.size, kept[:size]
        try:
            data, now = remote.fetch(key[0], 0, size) if size else (b"", found)
        except OSError as error:
            raise UnreachableError([Problem(key[0], "", f"cannot be read: {error.strerror}")]) from None
        if now.size == found.size:  # not its version: listings of some stores say another than answers do
            _keep(key, data)
            return found.size, data
        forget()
    raise CheckpointError([Problem(f"{address}/{name}", "", "keeps being replaced")])


def forget() -> None:
    """Let go of what was listed and read: it may be another now."""
    with _lock:
        _listed.clear()
        _contents.clear()


def _keep(key: tuple[str, str], data: bytes) -> None:
    if len(data) > SMALL:
        return
    with _lock:
        _contents[key] = data
        while sum(map(len, _contents.values())) > MOST_KEPT:
            _contents.popitem(last=False)


def _lists_nothing(address: str) -> bool:
    return address.startswith(("https://", "hf://"))


def _probed(address: str) -> dict[str, Found | None]:
    """Which of the names that models have a web server knows; of a model on the Hub all that it has, and folders."""
    listed = hub_address.names_below(address) if address.startswith(hub_address.SCHEME) else None
    named = dict.fromkeys(NAMES, False) if listed is None else listed
    folders = [name for name, is_folder in named.items() if is_folder]
    files = [name for name, is_folder in named.items() if not is_folder]

    def probe(name: str) -> Found | None:
        try:
            return remote.head(f"{address}/{name}")
        except FileNotFoundError:
            if listed:
                raise OSError(errno.EIO, f"{name} is listed but not there") from None
            return None

    if not files:
        return dict.fromkeys(folders)
    first, *others = files
    probed = {first: probe(first)}  # by itself: a server that cannot be reached is not asked thirty times
    with ThreadPoolExecutor(PROBES) as threads:
        probed |= zip(others, threads.map(probe, others), strict=True)
    return {name: found for name, found in probed.items() if found} | dict.fromkeys(folders)
