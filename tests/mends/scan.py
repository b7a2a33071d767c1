"""Finds every mend that the engine's source can say, as a pattern: constant text, and anything for what is put in."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import sdmw

ENGINE = Path(sdmw.__file__).parent
# Functions that give what was found and the mend as a pair.
PAIRS = {"_occupied", "try_place", "_said", "_held"}
# Tables of which the last entry of a row is a mend.
TABLES = {"_FAULTS", "_INSTEAD"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Text = str  # a pattern of one mend


@cache
def modules() -> dict[str, ast.Module]:
    return {
        str(path.relative_to(ENGINE)): ast.parse(path.read_text())
        for path in sorted(ENGINE.rglob("*.py"))
        if path.name != "errors.py"
    }


def mends() -> dict[Text, str]:
    """The pattern of every mend, with the module that says it."""
    found: dict[Text, str] = {}
    for name, module in modules().items():
        for text in _of_module(module):
            found.setdefault(text, name)
    return found


def _of_module(module: ast.Module) -> Iterator[Text]:
    for function in [module, *(node for node in ast.walk(module) if isinstance(node, FUNCTIONS))]:
        own = list(_own(function))
        for node in own:
            if isinstance(node, ast.Call) and (given := _mend_of(node)) is not None:
                yield from _texts(given, function, module)
            for table in (value for each in TABLES for value in _assigned(node, each)):
                yield from (re.escape(row.elts[-1].value) for row in ast.walk(table) if _is_row(row))
        if getattr(function, "name", "") in PAIRS:
            for node in own:
                if isinstance(node, ast.Yield | ast.Return) and isinstance(node.value, ast.Tuple):
                    pair = next((each for each in node.value.elts if isinstance(each, ast.Tuple)), node.value)
                    yield from _texts(pair.elts[1], function, module)


def _own(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions in it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, FUNCTIONS):
            yield node
            yield from _own(node)


def _is_row(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Tuple) and isinstance(node.elts[-1], ast.Constant) and isinstance(node.elts[-1].value, str)
    )


def _mend_of(node: ast.Call) -> ast.expr | None:
    """What is given as the mend of a problem."""
    called = getattr(node.func, "id", "") or getattr(node.func, "attr", "")
    if called == "Problem" and len(node.args) > 3:
        return node.args[3]
    return next((keyword.value for keyword in node.keywords if keyword.arg == "mend"), None)


def _texts(
    given: ast.expr, function: ast.AST, module: ast.Module, seen: frozenset[str] = frozenset()
) -> Iterator[Text]:
    match given:
        case ast.Constant(value=str(text)):
            if text:
                yield re.escape(text)
        case ast.JoinedStr():
            parts = [re.escape(part.value) if isinstance(part, ast.Constant) else ".*" for part in given.values]
            if set(parts) != {".*"}:
                yield "".join(parts)
        case ast.IfExp():
            yield from _texts(given.body, function, module, seen)
            yield from _texts(given.orelse, function, module, seen)
        case ast.BoolOp():
            for value in given.values:
                yield from _texts(value, function, module, seen)
        case ast.Name(id=name):
            if name not in seen:
                yield from _named(name, function, module, seen | {name})
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)) | ast.Attribute(attr=name):
            if name not in seen:
                yield from _returned(name, seen | {name})


def _named(name: str, function: ast.AST, module: ast.Module, seen: frozenset[str]) -> Iterator[Text]:
    for where in (function, module):
        values = [value for node in _own(where) for value in _assigned(node, name)]
        if values:
            for value in values:
                yield from _texts(value, where, module, seen)
            return
    if name.isupper():
        for other in modules().values():
            for node in other.body:
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name and other is not module:
                    yield from _texts(node.value, other, other, seen)


def _assigned(node: ast.AST, name: str) -> Iterator[ast.expr]:
    """What an assignment gives a name, in a tuple too."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = zip(target.elts, node.value.elts, strict=False)  # one may be starred
        else:
            pairs = iter([(target, node.value)])
        yield from (value for one, value in pairs if getattr(one, "id", "") == name)


@cache
def _functions() -> dict[str, list[tuple[ast.AST, ast.Module]]]:
    """All functions by their names, with their modules."""
    found: dict[str, list[tuple[ast.AST, ast.Module]]] = {}
    for module in modules().values():
        for node in ast.walk(module):
            if isinstance(node, FUNCTIONS):
                found.setdefault(node.name, []).append((node, module))
    return found


def _returned(name: str, seen: frozenset[str]) -> Iterator[Text]:
    for node, module in _functions().get(name, ()):
        for each in _own(node):
            if isinstance(each, ast.Return) and each.value is not None:
                yield from _texts(each.value, node, module, seen)
