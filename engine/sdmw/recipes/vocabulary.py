"""What a recipe says of the output's tokens, in `tokenizer_source` or `tokenizer`.

Source: METHODS.md, section 8.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sdmw.errors import quoted
from sdmw.recipes.findings import Findings, Path, close, described
from sdmw.recipes.model_ref import ModelRef
from sdmw.recipes.recipe import TokenRow, Vocabulary
from sdmw.recipes.schema import ModelTokenShape, ZeroShape, shaped

FIELDS = ("tokenizer", "tokenizer_source")
WORDS = ("base", "union")
_KINDS = ("model_token", "zero")


def tokenizer_models(data: dict[str, Any]) -> dict[Path, tuple[dict[str, Any], str]]:
    """Where the fields name models: by path, the mapping and the key that hold the name."""
    found: dict[Path, tuple[dict[str, Any], str]] = {}
    tokenizer = data.get("tokenizer")
    if data.get("tokenizer_source") not in WORDS:
        found["tokenizer_source",] = (data, "tokenizer_source")
    if not isinstance(tokenizer, dict):
        return found
    if tokenizer.get("source") not in WORDS:
        found["tokenizer", "source"] = (tokenizer, "source")
    for path, token in _tokens(tokenizer):
        source = token.get("source")
        if isinstance(source, dict) and "kind" in source:
            found[*path, "source", "model"] = (source, "model")
        else:
            found[*path, "source"] = (token, "source")
    return found


def read_vocabulary(
    data: Mapping[str, Any], references: Mapping[Path, ModelRef], models: Sequence[ModelRef], findings: Findings
) -> Vocabulary | None:
    """What the recipe asks for; None where it asks for nothing.

    Args:
        data: the plain tree.
        references: what each name of a model in it refers to.
        models: all that the recipe lists.
        findings: takes faults.
    """
    given, source = data.get("tokenizer"), data.get("tokenizer_source")
    if given is not None and source is not None:
        findings.add(
            ("tokenizer_source",), "tokenizer_source beside tokenizer", expected="one of the two",
            mend="Write it as source under tokenizer", key=True,
        )  # fmt: skip
    base = references.get(("base_model",))
    known = _Known(base, models)
    if source is not None:
        return Vocabulary(known.source(source, references.get(("tokenizer_source",))))
    if not isinstance(given, dict):
        return None
    padding = given.get("pad_to_multiple_of")
    return Vocabulary(
        known.source(given.get("source", "union"), references.get(("tokenizer", "source"))),
        tuple(_token(path, token, references, known, findings) for path, token in _tokens(given)),
        padding if type(padding) is int else 1,
    )


class _Known:
    """The models of a recipe, each by one name."""

    def __init__(self, base: ModelRef | None, models: Sequence[ModelRef]) -> None:
        self._base = base
        self.names = {each.identity(): str(each) for each in models}
        if base is not None:
            self.names.setdefault(base.identity(), str(base))

    def source(self, given: Any, reference: ModelRef | None) -> str:
        """Whose tokens the output has: a word, or a model, which may be none of the others."""
        if reference is None:
            return str(given) if given in WORDS else "base"  # anything else has been reported already
        if self._base is not None and reference.identity() == self._base.identity():
            return "base"
        return self.names.get(reference.identity(), str(reference))


def _tokens(tokenizer: Mapping[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """Place and content of each token that has the shape of one."""
    tokens = tokenizer.get("tokens")
    found = tokens.items() if isinstance(tokens, dict) else ()
    return [(("tokenizer", "tokens", name), each) for name, each in found if isinstance(each, dict)]


def _token(
    path: Path, given: dict[str, Any], references: Mapping[Path, ModelRef], known: _Known, findings: Findings
) -> TokenRow:
    name, force, source = str(path[-1]), given.get("force") is True, given.get("source")
    at = (*path, "source")
    if not name:
        findings.add(path, "an empty token", expected="a token")
    if source is None:
        return TokenRow(name, force=force)
    if not isinstance(source, dict) or "kind" not in source:
        return TokenRow(name, "model", _model(at, source, references, known, findings), force=force)
    kind = source["kind"]
    if kind not in _KINDS:
        mend = close(kind, _KINDS) if isinstance(kind, str) else ""
        findings.add((*at, "kind"), described(kind), expected=" or ".join(_KINDS), mend=mend)
    elif kind == "zero":
        shaped(ZeroShape, source, at, findings, ignore_unknown=False)
        return TokenRow(name, "zero", force=force)
    elif (found := shaped(ModelTokenShape, source, at, findings, ignore_unknown=False)) is not None:
        if (found.token is None) == (found.token_id is None):
            findings.add(at, "neither" if found.token is None else "both", expected="either token or token_id")
        model = _model((*at, "model"), found.model, references, known, findings)
        return TokenRow(name, "model", model, found.token if found.token_id is None else found.token_id, force)
    return TokenRow(name, force=force)


def _model(path: Path, given: Any, references: Mapping[Path, ModelRef], known: _Known, findings: Findings) -> str:
    """One of the recipe's models by its name."""
    reference = references.get(path)
    if reference is None:
        findings.add(path, described(given), expected="one of models, or a mapping with kind")
    elif reference.identity() not in known.names:
        names = list(known.names.values())
        findings.add(
            path, quoted(str(reference)), expected="base_model or one of models", mend=close(str(given), names)
        )
    else:
        return known.names[reference.identity()]
    return ""
