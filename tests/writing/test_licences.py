"""Whether the licences of a merge's inputs agree, and what is told where they do not."""

import pytest

from sdmw.writing.licences import Licence, agreed, common, licence_of, read_licences, warning

MIT, APACHE, LLAMA = Licence("mit"), Licence("apache-2.0"), Licence("other", "llama3.2")
BOTH = Licence("apache-2.0", more=("mit",))


def of(*licences):
    return [(f"m{n}", licence) for n, licence in enumerate(licences)]


@pytest.mark.parametrize(
    ("licences", "all_agree", "card"),
    [
        ([MIT, MIT], MIT, MIT),
        ([LLAMA, Licence("other", "llama3.2", "https://x")], LLAMA, LLAMA),
        ([MIT, APACHE], None, Licence("other")),
        ([LLAMA, Licence("other", "qwen")], None, Licence("other")),
        ([MIT, LLAMA, None], None, Licence("other")),
        ([MIT, None], None, None),
        ([MIT, Licence("MIT")], MIT, MIT),
        ([BOTH, Licence("MIT", more=("apache-2.0",))], BOTH, BOTH),
        ([BOTH, MIT], None, Licence("other")),
        ([Licence("other", None, "https://a"), Licence("other", None, "https://b")], None, Licence("other")),
        ([Licence("other", None, "https://a"), Licence("other")], None, Licence("other")),
        ([Licence("other", None, "https://a")] * 2, *[Licence("other", None, "https://a")] * 2),
        ([Licence("other")], Licence("other"), Licence("other")),
        ([Licence("other")] * 2, None, Licence("other")),
        ([Licence("other"), None], None, None),
        ([None, None], None, None),
        ([], None, None),
    ],
)
def test_what_they_come_to(licences, all_agree, card):
    assert agreed(of(*licences)) == all_agree
    assert common(of(*licences)) == card


def test_where_they_differ_each_is_named_with_its_models():
    said = "the inputs have different licences: 'mit' of 'm0', 'm2'; 'llama3.2' of 'm3'. The card says `other` "
    assert warning(of(MIT, None, MIT, LLAMA), ["config.json"]) == said + "and lists them."
    copied = ["LICENSE", "docs/Licence.txt", "NOTICE", "tokenizer.json"]
    assert warning(of(MIT, None, MIT, LLAMA), copied) == (
        said + "and lists them. 'LICENSE', 'docs/Licence.txt', 'NOTICE', copied into the output, comes from 'm0' only."
    )
    assert "'mit' of 'm0', 'm1', 'm2' and 2 more; " in warning(of(*[MIT] * 5, LLAMA), [])


def test_a_base_whose_licence_is_a_text_alone():
    """The text comes along, and is not held against the card of another."""
    said = (
        "the inputs may have different licences: 'llama3.2' of 'm1'; 'm0' names no licence in a card, but its "
        "'LICENSE' "
        "is copied. The card lists them."
    )
    assert warning(of(None, LLAMA), ["LICENSE", "vocab.txt"]) == said
    assert warning(of(None, LLAMA), ["vocab.txt"]) is None
    assert warning(of(None, None), ["LICENSE"]) is None


def test_cards_that_say_other_and_not_which_may_mean_two():
    said = "the cards of 'm0', 'm1' say `other` without naming the licence: they may differ. The card lists them."
    assert warning(of(Licence("other"), Licence("Other")), ["LICENSE"]) == said
    assert warning(of(Licence("other")), []) is None


def test_lists_and_links_are_named_whole():
    linked = [Licence("other", None, f"https://{place}") for place in "ab"]
    assert "'apache-2.0, mit' of 'm0'; 'mit' of 'm1'; 'other (https://a)' of 'm2'; 'other (https://b)' of 'm3'" in (
        warning(of(BOTH, MIT, *linked), []) or ""
    )


@pytest.mark.parametrize("licences", [[MIT, MIT], [MIT, Licence("Mit")], [BOTH, BOTH], [MIT, None], [None], []])
def test_where_they_do_not_differ_nothing_is_said(licences):
    assert warning(of(*licences), ["LICENSE"]) is None


@pytest.mark.parametrize(
    ("front", "found"),
    [
        ({"license": ("mit",)}, MIT),
        ({"license": ("mit",), "license_name": ("x",)}, MIT),
        ({"license": ("mit", "gpl")}, Licence("mit", more=("gpl",))),
        ({"license": ("mit", "other"), "license_name": ("x",)}, Licence("mit", "x", None, ("other",))),
        ({"license": ("other",), "license_name": ("llama3.2",)}, LLAMA),
        ({"license": ("other",)}, Licence("other")),
        ({"license_name": ("x",)}, None),
        ({}, None),
    ],
)
def test_one_card_s(front, found):
    assert licence_of(front) == found


def test_they_are_read_from_the_folders(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    folders = {"a": (str(tmp_path), False), "b": (str(tmp_path / "none"), False)}
    assert read_licences(folders) == [("a", MIT), ("b", None)]
