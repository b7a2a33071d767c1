"""What the front matter of a checkpoint's card says, whatever else stands in it."""

import time

import pytest

from sdmw.writing.front_matter import read_front_matter
from sdmw.writing.licences import licence_of


def license_in(folder):
    found = licence_of(read_front_matter(folder))
    return found and str(found)


def readme(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\r\nlicense: mit\r\n---\r\nText", "mit"),
        ("\ufeff---\nlicense: mit\n---", "mit"),
        ("\n---\ntags: [license, b]\nlicense: 'llama3'  # c\n---\n", "llama3"),
        ("---\nnested: {license: gpl}\nlist:\n- license: gpl\nlicense: mit\n---\n", "mit"),
        ("---\na: &x 1\nb: *x\n? [license]\n: no\nlicense: mit\n---\n", "mit"),
        ("---\na: b\n? license\n: mit\n---\n", "mit"),
        ("---\n? 'license' # which\n# this one\n: - mit\n  - gpl\nb: c\n---\n", "mit, gpl"),
        ("---\n? license\n---\n", None),
        ("---\na: license\nb: gpl\n---\n", None),
        ("---\nlicense: [mit, gpl]\n---\n", "mit, gpl"),
        ("---\nlicense: mit\n...\nText", "mit"),
        ("---\n{license: mit, x: {license: gpl}}\n---\n", "mit"),
        ("---\n{x: {license: gpl}, y: [{license: gpl}], z: [a, [b]],\n  'license': [mit, gpl]}\n---\n", "mit, gpl"),
        ("---\n{license: {name: gpl}}\n---\n", None),
        ("---\n{license: [mit, [gpl]]}\n---\n", None),
        ("---\nlicense:\n---\n", None),
        ("---\nlicense: null\n---\n", None),
        ("---\n- license\n- mit\n---\n", None),
        ("---\nlicense\n---\n", None),
        ("---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\n: : [ %\nlicense: mit\n---\n", "mit"),
        ("---\n\x00license: mit\n---\n", None),
        (b"---\nlicense: mit\xff\n---\n", None),
        (b"", None),
        ("---\nlicense: mit\npad: " + "x" * 2**20 + "\n---\n", None),
    ],
)  # fmt: skip
def test_the_licence_of_a_card(tmp_path, text, licence):
    assert license_in(readme(tmp_path, text)) == licence


def test_no_card_no_licence(tmp_path):
    assert license_in(str(tmp_path)) is None
    (tmp_path / "README.md").mkdir()
    assert license_in(str(tmp_path)) is None


def test_a_card_that_is_a_link_out_of_the_folder(tmp_path):
    readme(tmp_path / "other", "---\nlicense: mit\n---\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").symlink_to("../other/README.md")
    assert license_in(str(tmp_path / "model")) is None


@pytest.mark.parametrize(
    "front",
    ["[" * 900_000, "- " * 400_000, "{a: " * 200_000, "? " * 400_000, "a: &a [x]\n" + "b: [*a, *a]\n" * 10_000,
     "x" * 900_000, "'" + "x\n" * 400_000, "license" + " " * 900_000 + ": a"],
    ids=range(8),
)  # fmt: skip
def test_a_hostile_card_is_done_with_soon(tmp_path, front):
    start = time.process_time()
    license_in(readme(tmp_path, f"---\n{front}\n---\n"))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("language: en", {"language": ("en",)}),
        ("language:\n- en\n- no\n", {"language": ("en", "no")}),
        ("language:\n  - en\n# remark\n  - 'no'\n", {"language": ("en", "no")}),
        ("'language': [en,\n  no]\npipeline_tag: fill-mask",
         {"language": ("en", "no"), "pipeline_tag": ("fill-mask",)}),
        ("language: [en, [no]]\n", {}),
        ("language: {a: en}\n", {}),
        ("language: *x\n", {}),
        ("language: &x [en, *x]\n", {}),
        ("language: en\nlanguage: no\n", {"language": ("en",)}),
        ("language: [~, '']\n", {}),
        ("datasets: [" + "a, " * 200 + "b]", {"datasets": ("a",) * 100}),
        ("datasets: [" + "x" * 201 + ", b]", {"datasets": ("b",)}),
        ("datasets: [" + "x, " * 6000 + "b]", {}),
        ("license: other\nlicense_name: llama3.2\nlicense_link: LICENSE",
         {"license": ("other",), "license_name": ("llama3.2",), "license_link": ("LICENSE",)}),
        ("model-index:\n- name: x\n  license: no\nother: 1", {}),
    ],
)  # fmt: skip
def test_its_words(tmp_path, text, words):
    assert read_front_matter(readme(tmp_path, f"---\n{text}\n---\n")) == words


def test_results_of_benchmarks_cost_nothing(tmp_path):
    result = "- name: x\n  results:\n" + "".join(f"  - value: {n}\n    type: accuracy\n" for n in range(20_000))
    start = time.process_time()
    assert license_in(readme(tmp_path, f"---\nmodel-index:\n{result}license: mit\n---\n")) == "mit"
    assert time.process_time() - start < 1
