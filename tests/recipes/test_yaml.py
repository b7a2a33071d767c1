import os
import time
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml.events import ScalarEvent

from recipes.asking import loaded, refused
from sdmw.errors import RecipeError
from sdmw.recipes import yaml
from sdmw.recipes.findings import Findings
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import ModelEntry, Rule

GOOD = "merge_method: linear\nmodels:\n- model: a\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str | bytes, **options):
    Path("r.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return loaded("r.yaml", **options)


def faults(text: str | bytes) -> list[str]:
    Path("r.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return refused("r.yaml")


def nine(anchor: str) -> str:
    return ",".join([f"*{anchor}"] * 9)


def parsed(text: str):
    findings = Findings()
    data = yaml.tree(text, findings)
    findings.check()
    return data


class TestFiles:
    def test_missing(self):
        assert refused("no/r.yaml") == ["no/r.yaml: no such file"]
        assert refused("") == [": no such file"]

    def test_a_directory(self, here):
        assert refused(str(here)) == [f"{here}: a directory"]

    def test_a_fifo_does_not_wait(self):
        os.mkfifo("pipe")
        assert refused("pipe") == ["pipe: not a regular file"]

    def test_a_device(self):
        assert refused("/dev/zero") == ["/dev/zero: not a regular file"]

    def test_a_name_that_no_file_has(self):
        assert refused("a\0b") == [r"a\x00b: embedded null byte"]
        assert refused("a" * 5000)[0].endswith("File name too long")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_unreadable(self):
        Path("r.yaml").touch(mode=0)
        assert refused("r.yaml") == ["r.yaml: Permission denied"]

    def test_too_large(self):
        assert faults(b"#" * ((1 << 18) + 1)) == ["r.yaml: larger than 262144 bytes"]
        with pytest.raises(RecipeError, match="at most 262144"):
            parsed("#" * ((1 << 18) + 1))

    def test_as_large_as_may_be(self):
        assert read(GOOD + "#" * ((1 << 18) - len(GOOD))).models == (ModelEntry(ModelRef("a")),)

    def test_empty(self):
        assert faults("") == ["r.yaml: expected a recipe, found an empty file"]
        assert faults("# nothing\n") == ["r.yaml: expected a recipe, found only comments and empty lines"]
        assert faults("---\n") == ["r.yaml:2:1: expected a mapping with merge_method and models, found nothing"]
        assert faults("- 1") == ["r.yaml:1:1: expected a mapping with merge_method and models, found a list"]

    def test_not_utf_8(self):
        assert faults(b"a: b\nc: \xff") == ["r.yaml:2: expected UTF-8, found byte 0xff. Save the file as UTF-8"]
        assert faults(GOOD.encode("utf-16"))[0].startswith("r.yaml:1: expected UTF-8, found byte 0xff")

    def test_a_byte_order_mark_and_line_ends_are_kept_in_the_text(self):
        text = "\ufeff" + GOOD.replace("\n", "\r\n")
        assert read(text).text == text


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("[1", "r.yaml:1:1: not YAML: a bracket that is not closed. Close it, or separate the items with a comma\n"
                   "    [1\n    ^"),
            ("a: *x", "r.yaml:1:4: not YAML: found undefined alias 'x'\n    a: *x\n       ^"),
            ("a:1\nb: 2", "r.yaml:1:2: not YAML: no space after the colon. Write name: value\n    a:1\n     ^"),
            (
                "a: 1\nb:2\nc: 3",
                "r.yaml:2:2: not YAML: no space after the colon. Write name: value\n    b:2\n     ^",
            ),
            (
                "a:\n  -b: 1\n  - b: 2",
                "r.yaml:2:3: not YAML: no space after the dash. Write - name: value\n      -b: 1\n      ^",
            ),
            ("a: 1\nb 2\nc: 3", "r.yaml:2:1: not YAML: no colon after this name. Write name: value\n    b 2\n    ^"),
            ("a:\n\t- b", "r.yaml:2:1: not YAML: a tab. Indent with spaces\n     - b\n    ^"),
            ("a:\n  - b\n - c", "r.yaml:3:2: not YAML: a line that is not indented like the rest of its block. "
                                 "Indent them alike\n     - c\n     ^"),
            ("a: b: c", "r.yaml:1:5: not YAML: a colon in the wrong place. Indent the line like the rest of its "
                        "block, or put text with a colon in quotes\n    a: b: c\n        ^"),
            ("a: 'b", "r.yaml:1:4: not YAML: a quote that is not closed. Close it\n    a: 'b\n       ^"),
            ("a: @b", "r.yaml:1:4: not YAML: a character that cannot begin text. Put the text in quotes\n"
                      "    a: @b\n       ^"),
            ("x" * 99 + ": b: c", "r.yaml:1:103: not YAML: a colon in the wrong place. Indent the line like the rest "
                                  "of its block, or put text with a colon in quotes\n"
                                  f"    {'x' * 47}: b: c\n{' ' * 54}^"),
            ("a: \x07", r"r.yaml:1:4: not YAML: the character '\x07'"),
            ("a: b\n" + "---\nc: d\n" * 64, "r.yaml:2:1: expected recipes between `---`, found an empty "
             "recipe, or more than 64"),
            ("%YAML 1.1\n---\na: yes", "r.yaml:2:1: expected YAML 1.2, found YAML 1.1"),
            ("[" * 1000, "r.yaml:1:21: more than 20 levels. Is this a recipe?"),
            ("- a\n" * 30_000, "r.yaml:10000:3: more than 10000 values. Is this a recipe?"),
        ],
    )  # fmt: skip
    def test_what_stops_the_reading(self, text, problem):
        assert faults(text) == [problem]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("zzz: 1", "r.yaml:4:1: zzz: unknown field. Known: merge_method, name, models, slices, modules, "
                       "base_model, parameters, dtype, out_dtype, nonfinite, missing, extra, integers, rename, "
                       "tokenizer_source, tokenizer, chat_template, generation_config, random_seed"),
            ("dtype: float16\ndtype: float32", "r.yaml:5:1: dtype: duplicate key. It is also in line 4"),
            ("dtype: !x float16", "r.yaml:4:8: dtype: expected no tag, found the tag '!x'"),
            ("dtype: !!binary aaaa", "r.yaml:4:8: dtype: expected no tag, found the tag '!!binary'"),
            ("dtype: !!python/name:os.system ''", "r.yaml:4:8: dtype: expected no tag, "
                                                  "found the tag '!!python/name:os.system'"),
            ("parameters: !!omap []", "r.yaml:4:13: parameters: expected no tag, found the tag '!!omap'"),
            ("parameters: !!map [1]", "r.yaml:4:13: parameters: expected no tag, found the tag '!!map'"),
            ("parameters: {weight: !!int x}", "r.yaml:4:22: parameters.weight: expected a value for !!int, found 'x'"),
            ("parameters: {weight: !!bool x}", "r.yaml:4:22: parameters.weight: expected a value for !!bool, "
                                               "found 'x'"),
            ("parameters: {weight: !!float ''}", "r.yaml:4:22: parameters.weight: expected a value for !!float, "
                                                 "found ''"),
            ("3: x", "r.yaml:4:1: '3': expected a name, found the key '3'. Put it in quotes"),
            ("? [1]\n: x", "r.yaml:4:3: 'a collection': expected a name, found the key 'a collection'. "
                           "Put it in quotes"),
            ("<<: 3", "r.yaml:4:5: '<<': expected a mapping, or a list of mappings, to merge, found '3'"),
            ("<<: {}\n<<: {}", "r.yaml:5:5: '<<': duplicate key. Merge a list: <<: [*a, *b]"),
        ],
    )  # fmt: skip
    def test_what_the_reading_goes_past(self, text, problem):
        assert faults(GOOD + text) == [problem]

    def test_an_integer_beyond_all_floats(self):
        for digits in ("9" * 400, "9" * 5000, "0x" + "f" * 5000):
            (problem,) = faults(GOOD + f"parameters: {{weight: {digits}}}")
            assert problem.startswith("r.yaml:4:22: parameters.weight: expected a value for !!int, found")
            assert len(problem) < 300

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1e-5", 1e-5), ("10", 10), ("1e1", 10.0), (".5", 0.5), ("-3", -3), ("0x10", 16), ("1_0", 10),
            ("yes", "yes"), ("on", "on"), ("true", True), ("~", None), ("", None), ("2001-01-01", "2001-01-01"),
            ("'10'", "10"), ("!!str 10", "10"), ("=", "="), ("1:30", "1:30"),
        ],
    )  # fmt: skip
    def test_scalars_are_yaml_1_2(self, text, value):
        assert parsed(f"a: {text}") == {"a": value}
        assert type(parsed(f"a: {text}")["a"]) is type(value)

    def test_anchors_and_merge_keys(self):
        recipe = read(
            "merge_method: linear\nmodels:\n- model: a\n  parameters: &p {weight: 1}\n- model: b\n  parameters: *p\n"
            "- {model: c, parameters: {<<: *p}}\n- {model: d, parameters: {<<: [*p], weight: 2}}\n"
        )
        assert [entry.parameters["weight"] for entry in recipe.models] == [
            (Rule(None, w),) for w in (1.0, 1.0, 1.0, 2.0)
        ]

    def test_of_merged_mappings_the_first_wins_and_the_own_keys_most(self):
        assert parsed("- &a {x: 1, y: 1}\n- &b {y: 2, z: 2}\n- {z: 3, <<: [*a, *b]}")[2] == {"z": 3, "x": 1, "y": 1}

    def test_an_anchor_may_be_set_anew(self):
        assert parsed("- &a 1\n- *a\n- &a 2\n- *a") == [1, 1, 2, 2]

    def test_problems_in_an_alias_are_told_where_it_was_written(self):
        assert faults(GOOD + "  parameters: &p {weight: x}\n- model: b\n  parameters: *p\n") == [
            "r.yaml:4:27: models.0.parameters.weight: expected a number, found 'x'",
            "r.yaml:4:27: models.1.parameters.weight: expected a number, found 'x'",
        ]

    def test_a_name_is_no_mapping_to_merge(self):
        problem = "r.yaml:1:1: a.'<<': expected a mapping, or a list of mappings, to merge, found 'a'"
        assert problem in faults("&a a: {<<: *a}")

    @pytest.mark.parametrize(
        "text",
        [
            "a: &a [*a]",
            "a: &a {<<: *a}",
            "a: &a [x]\n" + "".join(f"{b}: &{b} [{nine(a)}]\n" for a, b in pairwise("abcdefghi")),
            "a: &a {x: 1}\n" + "".join(f"{b}: &{b} {{<<: [{nine(a)}]}}\n" for a, b in pairwise("abcdefghi")),
        ],
    )
    def test_bombs(self, text):
        start = time.monotonic()
        assert faults(text)[-1].endswith("Is this a recipe?")
        assert time.monotonic() - start < 20

    def test_many_problems_do_not_take_for_ever(self):
        start = time.monotonic()
        assert (
            len(faults("".join(f"parametre{i}: 1\n" for i in range(3_000)))) == 2 + 50 + 1
        )  # missing, unknown, a count
        assert time.monotonic() - start < 30


class TestWork:
    """Counted, not timed."""

    def test_a_text_is_scanned_once(self, monkeypatch):
        read_ = []
        monkeypatch.setattr(yaml, "_reader", counted(yaml._reader, read_))
        parsed("a: [1, 2, 3]")
        assert len([event for event in read_ if isinstance(event, ScalarEvent)]) == 4

    def test_what_is_too_large_is_not_read_to_its_end(self, monkeypatch):
        read_ = []
        monkeypatch.setattr(yaml, "_reader", counted(yaml._reader, read_))
        with pytest.raises(RecipeError, match="more than 10000 values"):
            parsed("- a\n" * 30_000)
        assert len(read_) < 10_010

    def test_each_look_at_a_merged_key_counts(self):
        wide = ", ".join(f"k{i}: 1" for i in range(1_000))
        problem = "r.yaml:1:1: more than 10000 values. Is this a recipe?"
        assert problem in faults(f"a: &a {{{wide}}}\nb: {{<<: [{', '.join(['*a'] * 11)}]}}\n")

    @pytest.mark.parametrize("key", ["base_model", "models"])
    def test_a_model_name_longer_than_any_path_is_not_looked_for(self, monkeypatch, key):
        monkeypatch.setattr(os.path, "realpath", pytest.fail)
        monkeypatch.setattr(os.path, "isdir", pytest.fail)
        name = "a/" * 3_000
        given = {"base_model": name} if key == "base_model" else {"models": [{"model": name}]}
        (problem,) = refused({"merge_method": "linear", "models": [{"model": "a"}], **given})
        assert problem.endswith("expected at most 4096 characters, found 6000")

    def test_long_paths_are_not_resolved_by_the_thousand(self, monkeypatch):
        monkeypatch.setattr(os.path, "realpath", pytest.fail)
        models = [{"model": "a/" * 500 + str(i)} for i in range(100)]
        (problem,) = refused({"merge_method": "linear", "models": models})
        assert problem.startswith("models: expected names of models with at most 10000 slashes in all")


def counted(reader, read_):
    """A maker of readers whose events are kept as they are asked for."""

    def made():
        it = reader()
        parse = it.parse
        it.parse = lambda text: (read_.append(event) or event for event in parse(text))
        return it

    return made


class TestPythonBombs:
    def test_a_mapping_in_itself(self):
        loop: dict = {}
        loop["a"] = loop
        assert refused(loop)[-1].endswith("more than 20 levels. Is this a recipe?")

    def test_too_many_values(self):
        assert refused({"models": [1] * 30_000}) == ["recipe: more than 10000 values. Is this a recipe?"]
