"""The recipe field `rename`: regular expressions for names of tensors that no rule finds."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sdmw.errors import quoted
from sdmw.recipes.findings import Findings, Path, close
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import Rename

LONGEST = 1000  # characters of a pattern


def rules_of(data: Mapping[str, Any]) -> list[Any]:
    """What stands under `rename`, as it is given."""
    given = data.get("rename")
    return given if isinstance(given, list) else []


def read_renames(
    data: Mapping[str, Any],
    references: Mapping[Path, ModelRef],
    models: Sequence[ModelRef],
    base: ModelRef | None,
    findings: Findings,
) -> tuple[Rename, ...]:
    """The rules, each with the name that its model has among the models.

    Args:
        data: the plain tree.
        references: what each `model` in it refers to.
        models: all that the recipe lists.
        base: its `base_model`.
        findings: takes the faults: a model that is none of these, or the base; a pattern that is none.
    """
    found = []
    for number, rule in enumerate(rules_of(data)):
        at: Path = ("rename", number)
        model = references.get((*at, "model"))
        if not isinstance(rule, dict) or model is None:
            continue  # told by the shape
        if base is not None and model.identity() == base.identity():
            mend = "Rename the tensors of the other models"
            findings.add(
                (*at, "model"), "the base, which names the output's tensors", expected="one of models", mend=mend
            )
            continue
        name = next((str(each) for each in models if each.identity() == model.identity()), None)
        if name is None:
            mend = close(str(model), map(str, models))
            findings.add((*at, "model"), quoted(str(model)), expected="one of models", mend=mend)
        elif isinstance(pattern := rule.get("from"), str) and isinstance(to := rule.get("to"), str):
            _check(pattern, to, at, findings)
            found.append(Rename(name, pattern, to))
    return tuple(found)


def _check(pattern: str, to: str, at: Path, findings: Findings) -> None:
    if len(pattern) > LONGEST:
        findings.add((*at, "from"), f"{len(pattern):,}", expected=f"at most {LONGEST:,} characters")
        return
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        findings.add((*at, "from"), f"{quoted(pattern)}: {error}", expected="a regular expression of Python")
        return
    try:
        compiled.sub(to, "")
    except (re.error, IndexError) as error:
        findings.add((*at, "to"), f"{quoted(to)}: {error}", expected="a name with groups of `from`")
