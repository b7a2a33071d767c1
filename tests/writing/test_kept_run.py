"""Whether a kept run can be resumed, and what is told where it cannot."""

import pytest

from sdmw import codec
from sdmw.writing.kept_run import Identity, differences

FACTS = {"": {"k": 10}, "/in/a": {"bytes": 5, "": "00"}}


def lines(before, now):
    """What differs, the first line aside."""
    kept = codec.encode(Identity("one", before))
    first, *rest = map(str, differences(kept, Identity("other", now), "/x/.out.sdmw"))
    assert first.startswith("/x/.out.sdmw: an interrupted run is kept here and cannot be resumed")
    assert first.endswith("(--restart, resume=False)")
    return rest


def test_equal_digests_are_enough():
    assert differences(codec.encode(Identity("one", FACTS)), Identity("one", {}), "/x") == []
    assert differences(None, None, "/x") == []


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (FACTS, FACTS, ["plan: changed"]),
        (FACTS, {**FACTS, "": {"k": 20.0}}, ["k: 10 → 20"]),
        (FACTS, {**FACTS, "": {"k": [0, 2.0, {"a": 0.5}]}}, ['k: 10 → [0, 2, {"a": 0.5}]']),
        (FACTS, {**FACTS, "": {"k": 10, "p": {"q": {"r": None}}}}, ["p.q.r: not set → null"]),
        (FACTS, {**FACTS, "": {}}, ["k: 10 → not set"]),
        (FACTS, {**FACTS, "": {"k": "x" * 300}}, [f"k: 10 → '{'x' * 199}…'"]),
        (FACTS, {**FACTS, "": {"k": [0] * 300}}, [f"k: 10 → [{'0, ' * 66}0…"]),
        (FACTS, {**FACTS, "/in/a": {"bytes": 6, "": "11"}}, ["/in/a: bytes: 5 → 6"]),
        (FACTS, {**FACTS, "/in/a": {"bytes": 5, "": "11"}}, ["/in/a: changed"]),
        (FACTS, {"": {"k": 20}}, ["k: 10 → 20"]),  # that an input is gone follows
        ({**FACTS, "/in/b": {}}, {**FACTS, "/in/c": {}},
         ["/in/b: was an input, and no longer is one", "/in/c: is an input, and was not one before"]),
    ],
)  # fmt: skip
def test_what_differs_is_told(before, now, told):
    assert lines(before, now) == told


@pytest.mark.parametrize("head", [{"version": "0.1.0", "recipe": "00"}, {"digest": "one"}, {"facts": []}, 5, [], None])
def test_notes_of_another_version_are_refused(head):
    (problem,) = differences(head, Identity("other", FACTS), "/x/.out.sdmw")
    assert str(problem).startswith("/x/.out.sdmw: an interrupted run of another version of sdmw is kept here")
