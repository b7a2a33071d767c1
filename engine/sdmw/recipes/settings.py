"""The parameters of a recipe, held against the method's grammar and put in one form."""

import math
import struct
from collections.abc import Collection, Mapping
from typing import Any, Literal

from sdmw.recipes.findings import Findings, Path, close, described, guess
from sdmw.recipes.recipe import Chosen, Key, MethodGrammar, Parameter, Rule, Setting, Value
from sdmw.recipes.schema import RuleShape, shaped
from sdmw.sizes import counted

Level = Literal["top", "slice", "model"]  # a module's parameters are a slice's

_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0", "0.0"), False),
}
_ANYWHERE = ("int8_mask",)  # what is accepted whatever the method
INT8_MASK = "int8_mask is accepted and changes nothing: masks take no memory here"


class Settings:
    """Reads `parameters`, at the top and under models, as one method takes them.

    What is at fault goes to the findings, and something of the right type stands in its place until they are raised.
    """

    def __init__(
        self,
        method: MethodGrammar,
        findings: Findings,
        *,
        ignore_unknown: bool,
        of_others: Collection[str] = (),
    ) -> None:
        """Begin to read.

        Args:
            method: whose parameters they are.
            findings: takes faults and notes.
            ignore_unknown: unknown parameters are notes.
            of_others: parameters of other methods, which mergekit ignores: each is a note.
        """
        self._method = method
        self._findings = findings
        self._ignore_unknown, self._of_others = ignore_unknown, of_others
        self._idle: dict[str, list[Path]] = {}
        self._given: dict[str, list[Path]] = {}  # where each parameter says something

    def read(self, given: Any, path: Path, level: Level) -> dict[str, Setting]:
        """One level of parameters, in the order of the recipe.

        Args:
            given: the plain tree's `parameters`. Anything but a mapping counts as empty: the problem has been reported
                already. Parameters that are ignored are deleted from it.
            path: where it stands.
            level: what it stands under.
        """
        known = {parameter.name: parameter for parameter in self._method.parameters}
        result: dict[str, Setting] = {}
        for name, value in list(given.items()) if isinstance(given, dict) else ():
            at = (*path, name)
            if name == "int8_mask":
                self._findings.note(INT8_MASK)
            elif name not in known and name in self._of_others:
                self._idle.setdefault(name, []).append(at)
            elif name not in known and self._ignore_unknown:
                self._findings.note(f"ignored: unknown parameter {self._findings.name(at)}")
                del given[name]
            elif name not in known:
                found = f"unknown parameter of {self._method.name}"
                mend = _share_kept(name, value, known) or close(name, [*known, *_ANYWHERE]) or guess(name, known)
                self._findings.add(at, found, mend=mend, key=True)
            elif level == "slice" and (not known[name].varies or _is_worded(known[name], value)):
                mend = "Move it to the top level's parameters"
                self._findings.add(at, f"{name} belongs at the top level only", mend=mend, key=True)
            elif level == "model" and not known[name].by_model and name in self._of_others:
                # mergekit reads nothing there that all models share.
                self._findings.note(f"{self._findings.name(at)} has no effect: {name} is not looked up under a model")
            elif level == "model" and not known[name].by_model:
                mend = "Move it to the top level's parameters"
                self._findings.add(at, f"{name} belongs at the top level only", mend=mend, key=True)
            else:
                result[name] = self._setting(known[name], value, at)
                if result[name]:
                    self._given.setdefault(name, []).append(at)
        return result

    def check_together(self, top: Mapping[str, Setting]) -> None:
        """Find what cannot hold together; once all levels are read, of which `top` is the top one."""
        for parameter in self._method.parameters:
            said = top.get(parameter.name, ())
            if isinstance(said, Mapping):
                self._check_replaced(parameter, said)
            if isinstance(said, str | Mapping):
                self._check_apart(parameter)

    def _check_replaced(self, parameter: Parameter, said: Mapping[str, Chosen]) -> None:
        """A choice that another parameter takes the place of."""
        for key in parameter.keyed:
            choice, other = key.replaced_by or ("", "")
            if said.get(key.name) == choice and other in self._given:
                found = f"{choice}, although {other} is given: {self._findings.name(self._given[other][0])}"
                mend = f"Leave out {key.name}, or {other} everywhere"
                self._findings.add(("parameters", parameter.name, key.name), found, mend=mend)

    def _check_apart(self, parameter: Parameter) -> None:
        """Numbers in slices where the top level has a word."""
        for path in self._given.get(parameter.name, ()):
            if path[:-1] != ("parameters",):
                found = f"a number, but the top level's {parameter.name} is not one"
                self._findings.add(path, found, mend="Leave it out here, or write numbers everywhere", key=True)

    def note_idle(self) -> None:
        """A note for each parameter that only other methods take, wherever it stands."""
        for places in self._idle.values():
            more = f"; the same in {counted(len(places) - 1, 'more place')}" if len(places) > 1 else ""
            where = self._findings.name(places[0])
            self._findings.note(f"{where} has no effect: {self._method.name} does not take it{more}")

    def _setting(self, parameter: Parameter, given: Any, at: Path) -> Setting:
        if parameter.kind == "choice" or _is_worded(parameter, given):
            return self._choice(parameter, given, at)
        if not parameter.varies and isinstance(given, list | dict):
            found = f"{described(given)}; {parameter.name} takes neither filter nor gradient"
            self._findings.add(at, found, expected=_wanted(parameter))
            return ()
        if isinstance(given, dict):
            return (self._rule(parameter, given, at),)
        if given == []:  # as in mergekit, it says nothing
            return ()
        if isinstance(given, list) and any(isinstance(item, dict) for item in given):
            return tuple(self._rule(parameter, item, (*at, index)) for index, item in enumerate(given))
        return (Rule(None, self._value(parameter, given, at), place=self._findings.place(at)),)

    def _rule(self, parameter: Parameter, given: Any, at: Path) -> Rule:
        if not isinstance(given, dict):
            mend = "A list holds only numbers, or only {filter, value}"
            self._findings.add(at, described(given), expected="{filter, value}", mend=mend)
            return Rule(None, 0.0)
        value = self._value(parameter, given["value"], (*at, "value")) if "value" in given else 0.0
        rule = shaped(RuleShape, given, at, self._findings, ignore_unknown=self._ignore_unknown)
        if rule is None:
            return Rule(None, value)
        return Rule(rule.filter, value, tuple(rule.exclude or ()), self._findings.place(at))

    def _value(self, parameter: Parameter, given: Any, at: Path) -> Value:
        if not parameter.varies or not isinstance(given, list) or not given:
            return self._one(parameter, given, at)
        return tuple(self._one(parameter, item, (*at, index)) for index, item in enumerate(given))

    def _one(self, parameter: Parameter, given: Any, at: Path) -> float | bool:
        return self._flag(parameter, given, at) if parameter.kind == "flag" else self._number(parameter, given, at)

    def _flag(self, parameter: Parameter, given: Any, at: Path) -> bool:
        """A flag: YAML 1.1, which mergekit reads, has more words for it, and takes numbers."""
        found = _FLAGS.get(str(given).lower()) if isinstance(given, bool | int | float | str) else None
        if found is None:
            self._findings.add(at, described(given), expected=_wanted(parameter))
        return found is True

    def _number(self, parameter: Parameter, given: Any, at: Path) -> float:
        """A number, or the text of one: to YAML 1.1 that is what 1e-4 is. A flag is 1 or 0."""
        low, high = parameter.minimum, parameter.maximum
        number = _number_in(given)
        if not isinstance(number, int | float):
            self._findings.add(at, described(given), expected=_wanted(parameter))
        elif not _fits_float32(number):
            self._findings.add(at, described(given), expected="a number that is finite as float32")
        elif (low is not None and number < low) or (high is not None and number > high) or _broken(parameter, number):
            share = high == 1 and low == 0 and 1 < number <= 100
            mend = f"Write {number / 100:g} if it is meant in percent" if share else ""
            self._findings.add(at, described(given), expected=_wanted(parameter), mend=mend)
        else:
            if parameter.percent and 0 < number < 1:
                self._findings.note(f"{parameter.name}: {number:g} is {number:g} %, not {100 * number:g} %")
            return float(number)
        return 0.0

    def _choice(self, parameter: Parameter, given: Any, at: Path) -> Setting:
        names = [key.name for key in parameter.keyed]
        if isinstance(given, str) and given in parameter.choices:
            return given
        if not names or not isinstance(given, dict) or names[0] not in given or not given.keys() <= set(names):
            mend = close(given, parameter.choices) if isinstance(given, str) else ""
            if isinstance(given, list) or (isinstance(given, dict) and "value" in given):
                mend = f"{parameter.name} takes neither filter nor gradient"
            self._findings.add(at, described(given), expected=_wanted(parameter), mend=mend)
            return ()
        found = {key.name: self._keyed(key, given[key.name], at) for key in parameter.keyed if key.name in given}
        return {name: value for name, value in found.items() if value is not None}

    def _keyed(self, key: Key, given: Any, at: Path) -> Chosen | None:
        """The value of one key of a mapping form."""
        number = _number_in(given)
        if isinstance(given, bool) or (isinstance(number, float) and not math.isfinite(number)):
            number = None
        if not key.choices and isinstance(number, int | float):
            return float(number)
        chosen = next((each for each in key.choices if number == each), None)
        if chosen is None:
            words = [each for each in key.choices if isinstance(each, str)]
            mend = close(given, words) if isinstance(given, str) else ""
            self._findings.add((*at, key.name), described(given), expected=_wanted_of(key, "finite "), mend=mend)
        return chosen


def _is_worded(parameter: Parameter, given: Any) -> bool:
    """Whether what is given of a number is to be one of the words that may stand in its place, or their mapping."""
    if parameter.kind != "number" or not parameter.choices:
        return False
    if isinstance(given, str):
        return isinstance(_number_in(given), str)
    return isinstance(given, dict) and any(key.name in given for key in parameter.keyed)


def _share_kept(name: str, given: Any, known: Collection[str]) -> str:
    """The mend for mergekit's `density`, the share that is kept, where a method takes the percentage dropped."""
    if name != "density" or "k" not in known:
        return ""
    usable = isinstance(given, int | float) and 0 <= given <= 1
    k = f"k: {round(100 * (1 - given), 6):g}" if usable else "k"
    return f"Write {k}, the percentage that is dropped"


def _wanted(parameter: Parameter) -> str:
    """What a parameter takes, for a message."""
    low, high = parameter.minimum, parameter.maximum
    if parameter.kind == "flag":
        return "true or false"
    number = "a whole number" if parameter.whole else "a number"
    if low is not None and high is not None:
        number = f"{number} from {low:g} to {high:g}"
    elif low is not None:
        number = f"{number} of at least {low:g}"
    elif high is not None:
        number = f"{number} of at most {high:g}"
    forms = f"{{{', '.join(f'{key.name}: {_wanted_of(key)}' for key in parameter.keyed)}}}"
    words = [*parameter.choices, *([forms] if parameter.keyed else [])]
    return _listed(words if parameter.kind == "choice" else [number, *words])


def _wanted_of(key: Key, number: str = "") -> str:
    """What a key takes; `number` says more of one that may be any."""
    return _listed([str(each) for each in key.choices]) if key.choices else f"a {number}number"


def _listed(words: list[str]) -> str:
    """`a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _broken(parameter: Parameter, number: float) -> bool:
    """Whether a number that is to be whole has a fraction."""
    return parameter.whole and number != int(number)


def _number_in(given: Any) -> Any:
    """The number that a flag or a text is, or what was given."""
    try:
        return float(given) if isinstance(given, bool | str) else given
    except ValueError:
        return given


def _fits_float32(number: float) -> bool:
    # The kernels take float32: what rounds to infinity there is refused here.
    try:
        struct.pack("<f", float(number))
    except OverflowError:
        return False
    return math.isfinite(number)
