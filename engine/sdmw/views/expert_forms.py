"""The forms in which checkpoints store experts: each by itself, or all of a layer in one tensor.

    apart   X.experts.{e}.gate_proj.weight (I, H), .up_proj.weight (I, H), .down_proj.weight (H, I); or w1, w3, w2
    fused   X.experts.gate_up_proj (E, 2I, H), .down_proj (E, H, I)

A fused tensor may be transposed (Llama 4, Qwen3-VL-MoE) and may alternate gate and up (gpt-oss). Both forms may have
biases, and there are experts without a gate. Orders of axes are written as letters, the outermost first: e the expert,
g gate or up, i the inner size, h the hidden one.

Source: transformers 5.24, `conversion_mapping.py` and the `forward` of the models; tests/peers/test_experts.py holds
this against its classes.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.tensors.tensor import Tensor

Sizes = Mapping[str, int]  # by the letter of the axis

_APART = re.compile(r"(?P<at>(?:.+\.)?experts)\.(?P<expert>[0-9]{1,6})\.(?P<leaf>\w+)\.(?P<kind>weight|bias)")
_FUSED = re.compile(
    r"(?P<at>(?:.+\.)?experts)\.(?P<leaf>gate_up_proj|up_proj|w13_weight|down_proj|w2_weight)(?P<bias>_bias)?"
)
_SPELLINGS = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"), ("fc1", "fc3", "fc2"))
_ROLES = {leaf: (names, role) for names in _SPELLINGS for role, leaf in enumerate(names)}
_ALTERNATE = frozenset(("gpt_oss",))  # model types whose fused tensors alternate gate and up
_DOWN = {"gate_up_proj": "down_proj", "up_proj": "down_proj", "w13_weight": "w2_weight"}


@dataclass(frozen=True, slots=True)
class Form:
    """How the experts of a layer are stored.

    Attributes:
        names: last parts of the tensors' names: gate, up and down where they are apart, else gate with up, and down.
        gate_up: order of the axes of the fused gate and up; empty where they are apart.
        down: likewise, of the other one.
    """

    names: tuple[str, ...]
    gate_up: str = ""
    down: str = ""

    @property
    def apart(self) -> bool:
        """Each expert has tensors of its own."""
        return not self.gate_up

    def order(self, which: str, kind: str) -> str:
        """The order of the axes of a fused tensor: of `gate_up` or `down`, its `weight` or its `bias`."""
        weight = self.gate_up if which == "gate_up" else self.down
        return weight if kind == "weight" else weight.replace("h" if which == "gate_up" else "i", "")


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of one layer.

    Attributes:
        at: what their names begin with.
        form: how they are stored.
        sizes: of the axes.
        tensors: by expert (0 where they are fused), number of the name in the form, and `weight` or `bias`.
    """

    at: str
    form: Form
    sizes: Sizes
    tensors: Mapping[tuple[int, int, str], Tensor]

    @property
    def kinds(self) -> tuple[str, ...]:
        """`weight`, and `bias` where they have one."""
        return tuple(dict.fromkeys(kind for _, _, kind in self.tensors))


def shape_of(order: str, sizes: Sizes) -> tuple[int, ...]:
    """The shape of a fused tensor, of which gate and up share an axis."""
    shared = {**sizes, "j": sizes["g"] * sizes["i"]}
    return tuple(shared[axis] for axis in order.replace("gi", "j").replace("ig", "j"))


def spellings_of(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What the three weights of an expert are called, by what the names begin with, where experts are apart."""
    matches = (match for name in names if "experts." in name and (match := _APART.fullmatch(name)))
    return {match["at"]: _ROLES[match["leaf"]][0] for match in matches if match["leaf"] in _ROLES}


def experts_of(checkpoint: Checkpoint, *, alternate: bool) -> dict[str, Experts]:
    """The experts of every layer whose form is known, by what their names begin with.

    Args:
        checkpoint: whose they are.
        alternate: its kind of model alternates gate and up in fused tensors, which neither names nor shapes tell.
    """
    apart: dict[str, _Apart] = {}
    fused: dict[str, dict[tuple[str, str], Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        if "experts." not in name:
            continue
        if match := _APART.fullmatch(name):
            apart.setdefault(match["at"], _Apart()).add(match, tensor)
        elif match := _FUSED.fullmatch(name):
            fused.setdefault(match["at"], {})[match["leaf"], "bias" if match["bias"] else "weight"] = tensor
    found = {at: _of_apart(at, each) for at, each in apart.items() if at not in fused}
    found |= {at: _of_fused(at, each, alternate=alternate) for at, each in fused.items() if at not in apart}
    return {at: each for at, each in found.items() if each and _move(each.tensors.values())}


@dataclass(slots=True)
class _Apart:
    """Experts that have tensors of their own, as they are found."""

    spelling: tuple[str, ...] | None = None
    tensors: dict[tuple[int, int, str], Tensor] = field(default_factory=dict)
    odd: bool = False  # a tensor of another spelling, or none that is known

    def add(self, match: re.Match[str], tensor: Tensor) -> None:
        spelling, role = _ROLES.get(match["leaf"], (None, 0))
        self.spelling = self.spelling or spelling
        self.odd |= spelling is None or spelling is not self.spelling
        self.tensors[int(match["expert"]), role, match["kind"]] = tensor


def _of_apart(at: str, found: _Apart) -> Experts | None:
    up = found.tensors.get((0, 1, "weight"))
    if found.odd or found.spelling is None or up is None or len(up.shape) != 2:
        return None
    gated, kinds = (0, 0, "weight") in found.tensors, dict.fromkeys(kind for _, _, kind in found.tensors)
    sizes = {"e": 1 + max(e for e, _, _ in found.tensors), "g": 1 + gated, "i": up.shape[0], "h": up.shape[1]}
    wanted = {
        (e, role, kind): _apart_shape(role, kind, sizes)
        for e in range(sizes["e"] if len(found.tensors) >= sizes["e"] else 0)
        for role in ((0, 1, 2) if gated else (1, 2))
        for kind in kinds
    }
    whole = {key: tensor.shape for key, tensor in found.tensors.items()} == wanted
    return Experts(at, Form(found.spelling), sizes, found.tensors) if whole else None


def _apart_shape(role: int, kind: str, sizes: Sizes) -> tuple[int, ...]:
    shape = (sizes["h"], sizes["i"]) if role == 2 else (sizes["i"], sizes["h"])
    return shape if kind == "weight" else shape[:1]


def _of_fused(at: str, found: Mapping[tuple[str, str], Tensor], *, alternate: bool) -> Experts | None:
    leaf = next((leaf for leaf, kind in found if leaf in _DOWN and kind == "weight"), None)
    down = found.get((_DOWN[leaf], "weight")) if leaf else None
    if leaf is None or down is None or len(down.shape) != 3:
        return None
    names, gates = (leaf, _DOWN[leaf]), 1 if leaf == "up_proj" else 2
    for form, sizes in _known(names, gates, down.shape, alternate=alternate or leaf == "w13_weight"):
        wanted = {
            (0, number, kind): shape_of(form.order(which, kind), sizes)
            for number, which in enumerate(("gate_up", "down"))
            for kind in dict.fromkeys(kind for _, kind in found)
        }
        tensors = {(0, names.index(leaf), kind): t for (leaf, kind), t in found.items() if leaf in names}
        if len(tensors) == len(found) and {key: t.shape for key, t in tensors.items()} == wanted:
            return Experts(at, form, sizes, tensors)
    return None


def _known(
    names: tuple[str, ...], gates: int, down: tuple[int, ...], *, alternate: bool
) -> Iterator[tuple[Form, Sizes]]:
    """The forms that a fused `down` of a shape may have; the shape of the other tensor tells which."""
    e, one, other = down
    yield Form(names, "eigh" if alternate else "egih", "ehi"), {"e": e, "g": gates, "i": other, "h": one}
    if gates == 2:  # without a gate both tensors would have the same shapes in both
        yield Form(names, "ehig" if alternate else "ehgi", "eih"), {"e": e, "g": gates, "i": one, "h": other}


def alternates(config: Mapping[str, Any] | None) -> bool:
    """Whether this kind of model alternates gate and up in fused tensors."""
    config = config or {}
    text = config.get("text_config")
    return any(str(each.get("model_type")) in _ALTERNATE for each in (config, text) if isinstance(each, Mapping))


def _move(tensors: Collection[Tensor]) -> bool:
    """Whether elements can be read in another order, all as one dtype; those of a delta belong to the base's."""
    dtypes = {tensor.dtype for tensor in tensors}
    one = all(dtype.merges for dtype in dtypes) or (len(dtypes) == 1 and all(dtype.copies for dtype in dtypes))
    return one and all(tensor.gives == "values" for tensor in tensors)
