"""What a run is known by, and what differs between a kept run and one that would resume it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sdmw.errors import LONGEST_NAME, Problem, quoted

MOST = 50  # differences that are listed; the rest is counted
OPAQUE = ""  # the key of a fact that people cannot read: it is shown only where its place has no other difference

_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is known by.

    Attributes:
        digest: of all that its result depends on; equal for two runs of which each may resume the other.
        facts: values of JSON that tell people what it is made from: by the file that they are about, empty for the
            recipe and the options.
    """

    digest: str
    facts: Mapping[str, Any]


def differences(before: object, now: Identity | None, where: str) -> list[Problem]:
    """Why a kept run cannot be resumed; nothing where it can.

    Args:
        before: the identity with which it was begun, as its journal has it.
        now: of the run that would resume it.
        where: the work directory in which it is kept.
    """
    told = before if isinstance(before, dict) else {}
    digest, facts = (now.digest, now.facts) if now else (None, {})
    if told.get("digest") == digest:
        return []
    mend = "Restore it, or start over (--restart, resume=False)"
    earlier = told.get("facts")
    if not isinstance(earlier, dict):
        found = "an interrupted run of another version of sdmw is kept here and cannot be resumed"
        return [Problem(where, "", found, "Finish it with that version, or start over (--restart, resume=False)")]
    lines = list(_lines(earlier, facts)) or [Problem("plan", "", "changed")]
    if len(lines) > MOST:
        lines[MOST:] = [Problem(where, "", f"and {len(lines) - MOST:,} more differences")]
    found = "an interrupted run is kept here and cannot be resumed, because of the changes listed below"
    return [Problem(where, "", found, mend), *lines]


def _lines(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Problem]:
    """The differences of what both have; where there are none, the files that only one of them has."""
    found = [(place, *each) for place in now if place in before for each in _readable(before[place], now[place])]
    for place, path, old, new in found:
        said = f"{_shown(old)} → {_shown(new)}" if path else "changed"
        yield Problem(": ".join(filter(None, (place, path))), "", said)
    if not found:
        yield from (Problem(place, "", "was an input, and no longer is one") for place in before if place not in now)
        yield from (Problem(place, "", "is an input, and was not one before") for place in now if place not in before)


def _readable(before: Any, now: Any) -> Iterable[tuple[str, Any, Any]]:
    found = list(_changes(before, now, ""))
    return [each for each in found if each[0] != OPAQUE] or found


def _changes(before: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Each place where two values of JSON differ, by its path: `models.1.parameters.weight`."""
    if isinstance(before, dict) and now is _NOTHING:
        yield from _changes(before, {}, path)
    elif before is _NOTHING and isinstance(now, dict):
        yield from _changes({}, now, path)
    elif isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from _changes(before.get(key, _NOTHING), now.get(key, _NOTHING), _below(path, key))
    elif _are_listed_alike(before, now):
        for place, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _changes(one, other, _below(path, str(place)))
    elif before != now:
        yield path, before, now


def _are_listed_alike(before: Any, now: Any) -> bool:
    """Whether both are lists of as many mappings, so that they can be held against each other one by one."""
    if not (isinstance(before, list) and isinstance(now, list) and len(before) == len(now)):
        return False
    return all(isinstance(each, dict) for each in (*before, *now))


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "not set"
    if isinstance(value, str):
        return quoted(value)
    text = json.dumps(_plainer(value), ensure_ascii=False)
    return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…"


def _plainer(value: Any) -> Any:
    """A value with `10` for `10.0`, as people write it."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plainer(each) for key, each in value.items()}
    return [_plainer(each) for each in value] if isinstance(value, list) else value
