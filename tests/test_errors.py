"""How problems are listed: all that differ, and of many of one kind the first and a count."""

import pickle

import sdmw
from sdmw.errors import MOST_KINDS, MOST_OF_A_KIND, PlanError, Problem, shorten


def missing(count, where="f"):
    return [Problem(f"{where}: tensor 'x{n}'", f"tensor 'x{n}' of shape [{n}, 4]", "none") for n in range(count)]


def test_few_are_listed_as_they_are():
    problems = [*missing(MOST_OF_A_KIND), Problem("a", "b", "c")]
    assert shorten(problems) == problems


def test_of_many_of_one_kind_the_rest_is_counted():
    found = shorten([*missing(1234), Problem("a", "b", "c")])
    assert len(found) == MOST_OF_A_KIND + 2
    assert found[-2] == Problem("a", "b", "c")
    assert str(found[-1]) == f"f: and {1234 - MOST_OF_A_KIND} more problems of this kind"
    assert str(shorten(missing(60), "recipe")[-1]) == "recipe: and 10 more problems of this kind"


def test_each_kind_is_counted_by_itself():
    others = [Problem(f"g: tensor 'y{n}'", "a dtype", f"'I{n}'") for n in range(70)]
    said = [str(problem) for problem in shorten([*missing(60), *others])][-2:]
    assert said == ["f: and 10 more problems of this kind", "g: and 20 more problems of this kind"]


def test_however_many_kinds_there_are_the_list_is_short():
    problems = [Problem("a", "b" * n, "c") for n in range(5000)]
    assert len(shorten(problems)) == MOST_KINDS + MOST_OF_A_KIND + 1


def test_to_shorten_again_changes_nothing():
    once = shorten([*missing(500), *missing(500, "g")])
    assert shorten(once) == once


def test_an_error_has_a_short_list():
    error = PlanError(missing(20_000))
    assert len(error.problems) == MOST_OF_A_KIND + 1
    assert len(str(error).splitlines()) == MOST_OF_A_KIND + 1
    assert pickle.loads(pickle.dumps(error)).problems == error.problems
    assert isinstance(error, sdmw.SdmwError)
