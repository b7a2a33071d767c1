"""Objects of a store (S3, Google, Azure) or a web server, read by ranges; every error is an OSError in our own words.

Credentials are found by obstore in the environment, and what it says never goes into a message: it may hold addresses
with signatures. Certificates are always verified.
"""

import errno
import importlib
import os
import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from sdmw.addresses import place_and_key
from sdmw.errors import MissingExtraError, Problem
from sdmw.storage.hub_address import SCHEME, web_place

R = TypeVar("R")

TRIES = 5  # of a request whose answer breaks off
RETRIES = 4  # that obstore makes of a request that a server refuses for the moment
PATIENCE = 60  # seconds for one request, all that is tried again included
DENIED = "access is denied; credentials come from the environment"
LIMITED = 330  # seconds for which a server is asked again that takes no more for now: the Hub counts for five minutes
PAUSE = 20  # seconds before such a server is asked again
BACKOFF = 0.2  # seconds before a second try, twice as many before each further one

_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")
# Names of hosts and objects, which may hold any of the words below.
_NAMES = re.compile(r"\w+://\S+|(?:location|for path|by) \S+")
_NOT_KNOWN = ("NotSupportedError", "NotImplementedError")  # to the store
_UNREAD = re.compile(r"kind: (?:Body|Decode)\b")  # what broke off; the library itself asks again for all else
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
# Words of an error, and what to say of it.
_CAUSES = (
    ("certificate", "its certificate is not trusted"),
    ("badscheme", "it is reached without TLS, which AWS_ALLOW_HTTP=true would allow"),
    ("timed out", "no answer in time"),
    ("timeout", "no answer in time"),
    ("dns", "its host name is unknown"),
    ("connect", "it cannot be reached"),
    ("credential", "no credentials are found in the environment"),
    ("range request not supported", "the server sends only whole files, not ranges of them"),
    ("content-range", "the server does not say which range of a file it sends"),
    ("requested", "the server sends a range other than the one requested"),
    ("content-length", "the server does not say how long a file is"),
    ("invalid path", "an object has a name that cannot be read: an empty part, one of dots, or control characters"),
)


class ChangedError(OSError):
    """An object is another one than was asked for."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a store says of an object.

    Attributes:
        size: in bytes.
        version: its ETag, or what there is instead: the time of its last change.
        modified_ns: its last change, nanoseconds since 1970.
    """

    size: int
    version: str
    modified_ns: int

    @classmethod
    def of(cls, told: Any) -> "Found":
        """From obstore's words; OSError where nothing would tell another object from this one."""
        modified, tag = int(told["last_modified"].timestamp() * 10**9), told["e_tag"]
        if not (tag or modified):
            raise OSError(
                errno.ENOTSUP,
                "the server gives neither an ETag nor a time of change, so a replaced file would go unnoticed",
            )
        if tag and not tag.startswith(('"', "W/")):  # listings of Azure leave the quotes out
            tag = f'"{tag}"'
        return cls(told["size"], tag or f"{modified} {told['size']}", modified)


def head(address: str) -> Found:
    """What is known of an object.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be asked for.
    """
    place, key = place_and_key(address)
    if place.startswith(SCHEME):
        with suppress(_FirstByteError):
            return _found_by_first_byte(place, key)
    return Found.of(asked(lambda: library().head(store_of(place), key)))


class _FirstByteError(Exception):
    """A file's first byte cannot be read, as that of an empty one."""


def _found_by_first_byte(place: str, key: str) -> Found:
    """By the request that reads too: the Hub sends readers on, to where a HEAD may be refused or tell another ETag."""

    def ask() -> Found:
        answer = library().get(store_of(place), key, options={"range": (0, 1)})
        found = Found.of(answer.meta)
        answer.bytes()
        return found

    try:
        return asked(ask)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _FirstByteError from error


def fetch(address: str, start: int, stop: int, version: str | None = None) -> tuple[bytes, Found]:
    """Bytes of an object, as `fetch_view` gives them, but copied."""
    data, found = fetch_view(address, start, stop, version)
    return bytes(data), found


def fetch_view(address: str, start: int, stop: int, version: str | None = None) -> tuple[memoryview, Found]:
    """Bytes of an object, from `start` up to `stop` or its end, and what it is.

    Args:
        address: of the object.
        start: of the first byte.
        stop: of the one behind the last, beyond `start`.
        version: that it must have; None for any.

    Raises:
        FileNotFoundError: there is no such object.
        ChangedError: it has another version.
        OSError: it cannot be read.
    """
    place, key = place_and_key(address)
    options: dict[str, Any] = {"range": (start, stop)}
    if version is not None and version.startswith('"'):  # a weak one matches nothing
        options["if_match"] = version

    def ask() -> tuple[memoryview, Found]:
        answer = library().get(store_of(place), key, options=options)
        found = Found.of(answer.meta)
        if version is not None and found.version != version:
            raise ChangedError(errno.ESTALE, "was replaced")
        data = memoryview(answer.bytes())
        if len(data) != min(stop, found.size) - start:
            raise _BrokenOffError
        return data, found

    return asked(ask)


def names_below(address: str) -> dict[str, Found | None]:
    """What lies in a folder of a store, by name; None for a folder.

    Raises:
        OSError: it cannot be listed, or has a name that is none.
    """
    place, key = place_and_key(address)
    told = asked(lambda: library().list_with_delimiter(store_of(place), key or None))
    named: list[tuple[str, Found | None]] = [(each["path"], Found.of(each)) for each in told["objects"]]
    named += [(prefix.rstrip("/"), None) for prefix in told["common_prefixes"]]
    return {path.removeprefix(key).removeprefix("/"): found for path, found in named if path.rstrip("/") != key}


class _BrokenOffError(Exception):
    """An answer had fewer bytes than it announced."""


def asked(ask: Callable[[], R], tries: int = TRIES) -> R:
    """What a store answers; tried again where the answer breaks off, or where it takes no more requests for now.

    Args:
        ask: calls obstore.
        tries: how often it may be called.

    Raises:
        FileNotFoundError: there is no such object.
        ChangedError: it has another version.
        OSError: the store refuses or cannot be reached, in our own words.
    """
    ends = time.monotonic() + LIMITED
    while True:
        hurried = _hurried
        try:
            return _asked(ask, tries)
        except OSError as error:
            if error.errno != errno.EBUSY or tries == 1 or time.monotonic() > ends:
                raise
        if hurried.wait(PAUSE * random.uniform(0.75, 1.25)):
            ends = 0.0


def hurry() -> None:
    """Have nobody wait any longer for a server that takes no more requests for now: a run is ending."""
    global _hurried
    _hurried.set()
    _hurried = threading.Event()


_hurried = threading.Event()  # replaced as soon as it is set


def _asked(ask: Callable[[], R], tries: int) -> R:
    for attempt in range(tries):
        try:
            return ask()
        except (OSError, MissingExtraError) as error:
            if isinstance(error, FileNotFoundError):
                raise FileNotFoundError(errno.ENOENT, "no such object") from None
            if isinstance(error, OSError) and error.errno is None:  # the library's, with its words
                raise OSError(errno.EIO, _reason(type(error).__name__, str(error))) from None
            raise
        except Exception as error:
            kind, said = type(error).__name__, str(error)
            if kind == "PreconditionError":
                raise ChangedError(errno.ESTALE, "was replaced") from None
            if kind == "AlreadyExistsError":
                raise FileExistsError(errno.EEXIST, "already exists") from None
            unread = kind == "GenericError" and _UNREAD.search(said) is not None
            broken = isinstance(error, _BrokenOffError) or unread
            if not broken or attempt == tries - 1:
                raise OSError(_number(kind, said), _reason(kind, said)) from None
        time.sleep(BACKOFF * 2**attempt * random.uniform(0.5, 1))
    raise AssertionError


def is_denied(error: OSError) -> bool:
    """Whether the store refuses for want of credentials."""
    return error.strerror == DENIED


def _number(kind: str, said: str) -> int:
    """The errno: ENOTSUP where a store does not know what it is asked for, EBUSY where it takes no more for now."""
    status = _STATUS.search(said)
    if status is not None and status[1].startswith("429"):
        return errno.EBUSY
    unknown = kind in _NOT_KNOWN or (status is not None and status[1].startswith("501"))
    return errno.ENOTSUP if unknown else errno.EIO


def _reason(kind: str, said: str) -> str:
    """In our own words: those of the library may hold an address with its signature."""
    status, code = _STATUS.search(said), _CODE.search(said)
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or (status and status[1][:3] in ("401", "403")):
        return DENIED
    if status:
        return f"the server says {status[1].strip()}{f' ({code[1]})' if code else ''}"
    if kind == "_BrokenOffError":
        return "the answers broke off"
    if kind == "ValueError":
        return "its address is not valid"
    said = _NAMES.sub("", said).lower().replace("retry_timeout", "")  # a field that is always there
    return next((words for part, words in _CAUSES if part in said), "the request failed")


@cache
def library() -> Any:
    """The module obstore; MissingExtraError where it is not installed."""
    try:
        return importlib.import_module("obstore")
    except ImportError:
        found = "obstore is needed but not installed"
        raise MissingExtraError([Problem("object stores", "", found, "pip install 'sdmw[remote]'")]) from None


_lock = threading.Lock()
_stores: dict[tuple[str, float], Any] = {}
_used = False  # by this process or the one that it was forked from, whether kept or not
_forked = False  # from a process that has used stores: its threads are not here, and would be waited for


def store_of(place: str, patience: float | None = None) -> Any:
    """Obstore's store of a bucket, container or server, opened once; OSError where it cannot be.

    Args:
        place: its address.
        patience: seconds that one request may take; None for those of one that reads.
    """
    global _used
    library()
    if _forked:
        raise OSError(errno.EIO, "stores cannot be read in a forked process; use a spawned one")
    key = place, patience or PATIENCE
    with _lock:
        _used = True
        if key not in _stores:
            _stores[key] = _opened(*key)
        return _stores[key]


def forget() -> None:
    """Open stores anew from now on, with the credentials that there are then: a token may have come since."""
    with _lock:
        _stores.clear()


def _opened(place: str, patience: float) -> Any:
    scheme = place.partition("://")[0]
    variable = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}.get(scheme)
    plain = variable is not None and os.environ.get(f"{variable}_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    client = {"allow_invalid_certificates": False, "allow_http": plain, "timeout": timedelta(seconds=patience)}
    backoff = {
        "init_backoff": timedelta(seconds=BACKOFF), "max_backoff": timedelta(seconds=PATIENCE / 8), "base": 2
    }  # fmt: skip
    retry = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=patience), "backoff": backoff}
    settings = {"client_options": client, "retry_config": retry}
    try:
        stores = importlib.import_module("obstore.store")
        if scheme == "hf":
            address, headers = web_place(place)
            client |= {"default_headers": headers, "allow_http": address.startswith("http://")}
            return stores.HTTPStore.from_url(address, **settings)
        if scheme == "https":  # whatever its name: `from_url` takes some hosts for a store, and signs requests to it
            return stores.HTTPStore.from_url(place, **settings)
        if scheme == "az":  # `from_url` takes the account for the container
            account, container = place.partition("://")[2].split("/")
            return stores.AzureStore(container, account_name=account, **settings)
        return stores.from_url(place, **settings)
    except MissingExtraError:
        raise
    except Exception as error:
        found = _reason(type(error).__name__, str(error))
        raise OSError(errno.EINVAL, f"the store cannot be opened: {found}") from None


def _after_fork() -> None:
    """Connections and the threads behind them stay with the parent."""
    global _lock, _forked
    _lock = threading.Lock()
    _forked = _forked or _used
    _stores.clear()


os.register_at_fork(after_in_child=_after_fork)
