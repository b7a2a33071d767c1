"""`scripts/mutants` makes the changes that it says, and each is a program."""

import ast
import importlib.machinery
import importlib.util
import random
import sys

import pytest

from documented import ROOT


@pytest.fixture(scope="module")
def mutants():
    loader = importlib.machinery.SourceFileLoader("mutants", str(ROOT / "scripts" / "mutants"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mutants", loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mutants", module)  # where its dataclasses look for their own module
        patch.setattr(sys, "dont_write_bytecode", True)
        loader.exec_module(module)
        yield module


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("return a < b", {"return (a <= b)"}),
        ("return a < b == c", {"return (a <= b == c)", "return (a < b != c)"}),
        ("return a + b * c", {"return (a - b * c)", "return a + (b // c)"}),
        ("return a and not b", {"return (a or not b)", "return a and (b)"}),
        ("return a + 2", {"return (a - 2)", "return a + 3", "return a + 1"}),
        ("return a if b else True", {"return (a if not b else True)", "return a if b else False"}),
        ("return [c for c in a if c]", {"return [c for c in a if (c or True)]"}),
        ("return max(a, b)", {"return min(a, b)"}),
        ("a.b()", {"pass"}),
        ("a += b", {"pass"}),
        ('raise ValueError(f"{a + b}" + "c")', {"pass"}),
        ("assert a < b", set()),
        ("isinstance(a, int | float)", {"pass"}),
        ("return zip(a, b, strict=True)", set()),
    ],
)
def test_the_changes_of_a_line(mutants, before, after):
    found = mutants.mutants_of("x.py", f"LARGE = 1 << 20\n\n\ndef f(a: int = None, b='é') -> int:\n    {before}\n")
    assert {mutant.after for mutant in found} == after
    assert all((mutant.line, mutant.before) == (5, before) for mutant in found)


def test_the_changes_of_the_engine_are_programs(mutants):
    everything = mutants.all_mutants()
    assert len({mutant.key for mutant in everything}) == len(everything) > 1000
    for mutant in random.Random(1).sample(everything, 100):
        ast.parse(mutant.source)
        assert (mutants.ROOT / mutants.ENGINE / mutant.module).read_text() != mutant.source


def test_the_tests_that_it_runs_exist(mutants):
    for module in (*mutants.TESTS, *mutants.FOLDERS):
        assert all((ROOT / file).exists() for file in mutants.tests_of(module)), module
        assert (ROOT / mutants.ENGINE / module).exists()
