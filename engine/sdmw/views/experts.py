"""A model with its experts in the form in which the base stores them (`expert_forms`)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.sizes import counted
from sdmw.tensors.joined import Joined
from sdmw.tensors.part import Part
from sdmw.tensors.strides import is_run, joined
from sdmw.tensors.tensor import Tensor
from sdmw.views.expert_forms import Experts, Form, Sizes, experts_of, shape_of
from sdmw.views.renamed import keys_of

_FUSED = ("gate_up", "down")


@dataclass(frozen=True, slots=True)
class Unlike:
    """Experts that cannot be read in the base's form.

    Attributes:
        base, model: those of one layer.
        others: how many more layers there are of the kind.
    """

    base: Experts
    model: Experts
    others: int


@dataclass(frozen=True, slots=True)
class Reformed:
    """A model with its experts in the base's form, under names of the model's own.

    Attributes:
        model: the model.
        stored: of each tensor that was made, the names of those that it is made of.
        changes: layers by how they are stored and how they are read, in words.
        unlike: experts of other numbers or sizes than the base's; None where there are none.
    """

    model: Checkpoint
    stored: Mapping[str, tuple[str, ...]]
    changes: Mapping[str, int]
    unlike: Unlike | None = None


def reformed(base: Checkpoint, model: Checkpoint) -> Reformed:
    """A model with its experts in the form of the base's."""
    same = Reformed(model, {}, {})
    if _alike(base, model) or not (theirs := experts_of(model)) or not (ours := experts_of(base)):
        return same
    changed = list(_to_change(base, ours, model, theirs))
    unlike = [(here, each) for each, here, _ in changed if here and here.sizes != each.sizes]
    if unlike:
        return replace(same, unlike=Unlike(*unlike[0], len(unlike) - 1))
    tensors, stored = dict(model.tensors), dict[str, tuple[str, ...]]()
    changes: Counter[str] = Counter()
    for each, _, form in changed:
        for tensor in each.tensors.values():
            del tensors[tensor.name]
        for tensor, names in _made(each, form):
            tensors[tensor.name] = tensor
            stored[tensor.name] = names
        changes[_change(each.form, form)] += 1
    return Reformed(replace(model, tensors=tensors), stored, changes) if changed else same


def told(changes: Mapping[str, int]) -> str:
    """What was changed, for people."""
    return "; ".join(f"experts of {counted(count, 'layer')} are {change}" for change, count in changes.items())


def _alike(base: Checkpoint, model: Checkpoint) -> bool:
    return model.tensors.keys() == base.tensors.keys() and all(
        tensor.shape == base.tensors[name].shape for name, tensor in model.tensors.items() if "experts." in name
    )


def _to_change(
    base: Checkpoint, ours: Mapping[str, Experts], model: Checkpoint, theirs: Mapping[str, Experts]
) -> Iterator[tuple[Experts, Experts | None, Form]]:
    """The model's experts that have another form than the base's, with these if they are known, and their form."""
    key_here, key_there = keys_of(base), keys_of(model)
    by_key = {key_here(f"{at}.weight"): each for at, each in ours.items()}
    forms = {each.form for each in ours.values()}
    for at, each in theirs.items():
        here = by_key.get(key_there(f"{at}.weight"))
        wanted = here.form if here else next(iter(forms)) if len(forms) == 1 else each.form
        if wanted != each.form:
            yield each, here, wanted


def _made(experts: Experts, form: Form) -> Iterator[tuple[Tensor, tuple[str, ...]]]:
    """The tensors of experts in another form, each with the names of those that it is made of."""
    if experts.form.apart and form.apart:
        for (expert, role, kind), tensor in experts.tensors.items():
            yield replace(tensor, name=f"{experts.at}.{expert}.{form.names[role]}.{kind}"), (tensor.name,)
        return
    for which in _FUSED:
        for kind in experts.kinds:
            whole, order = _whole(experts, which, kind)
            names = tuple(leaf.name for leaf in (whole.parts if isinstance(whole, Joined) else (whole,)))
            for tensor in _cut(experts, form, which, kind, whole, order):
                yield tensor, names


def _whole(experts: Experts, which: str, kind: str) -> tuple[Tensor, str]:
    """All of gate and up, or of down, as one tensor; and the order of its axes."""
    if not experts.form.apart:
        return experts.tensors[0, _FUSED.index(which), kind], experts.form.order(which, kind)
    plain = Form((), "egih", "ehi")
    roles = range(3 - 1 - experts.sizes["g"], 2) if which == "gate_up" else (2,)
    parts = [experts.tensors[e, role, kind] for e in range(experts.sizes["e"]) for role in roles]
    order = plain.order(which, kind)
    return Joined.of(experts.at, shape_of(order, experts.sizes), parts), order


def _cut(experts: Experts, form: Form, which: str, kind: str, whole: Tensor, order: str) -> Iterator[Tensor]:
    """The whole in another form."""
    sizes = experts.sizes
    if not form.apart:
        name = f"{experts.at}.{form.names[_FUSED.index(which)]}{'_bias' if kind == 'bias' else ''}"
        wanted = form.order(which, kind)
        yield _in_order(whole, order, wanted, sizes, {}, name, shape_of(wanted, sizes))
        return
    gates = range(sizes["g"]) if which == "gate_up" else (0,)
    inside = {"gate_up": "ih", "down": "hi"}[which][: 2 if kind == "weight" else 1]
    for expert in range(sizes["e"]):
        for gate in gates:
            leaf = form.names[gate + 2 - sizes["g"] if which == "gate_up" else 2]
            name = f"{experts.at}.{expert}.{leaf}.{kind}"
            shape = tuple(sizes[axis] for axis in inside)
            yield _in_order(whole, order, inside, sizes, {"e": expert, "g": gate}, name, shape)


def _in_order(
    whole: Tensor, order: str, wanted: str, sizes: Sizes, at: Mapping[str, int], name: str, shape: tuple[int, ...]
) -> Tensor:
    """Elements of a tensor in another order of its axes.

    Args:
        whole: the tensor.
        order: of its axes.
        wanted: the order of the axes that are kept.
        sizes: of all axes.
        at: places on the axes that are not kept.
        name: of the result.
        shape: of the result.
    """
    steps, step = {}, 1
    for axis in reversed(order):
        steps[axis] = step
        step *= sizes[axis]
    axes = joined([(sizes[axis], steps[axis]) for axis in wanted])
    first = sum(place * steps[axis] for axis, place in at.items() if axis in steps)
    if is_run(axes) and not at:
        return replace(whole, name=name, shape=shape)
    return Part(name, whole.dtype, shape, whole, first, axes)


def _change(stored: Form, read: Form) -> str:
    """In words."""
    if stored.apart and read.apart:
        return f"called {_listed(stored.names)}, and are read as {_listed(read.names)}"
    if stored.apart:
        return "stored apart, and are read as fused"
    return "stored fused, and are read apart" if read.apart else "stored fused in another order of their elements"


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"
