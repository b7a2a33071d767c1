"""A model with its experts in the form in which the base stores them (`expert_forms`)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from sdmw.checkpoints.checkpoint import Checkpoint
from sdmw.sizes import counted
from sdmw.tensors.joined import Joined
from sdmw.tensors.part import Part
from sdmw.tensors.strides import Axes, is_run, joined
from sdmw.tensors.tensor import Tensor
from sdmw.views.expert_forms import Experts, Form, Sizes, alternates, experts_of, shape_of
from sdmw.views.renamed import keys_of

_FUSED = ("gate_up", "down")
_ROWS = Form((), "egih", "ehi")  # what experts that are apart make when they follow each other


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
    if _alike(base, model):
        return same
    alternate = alternates(base.config) or alternates(model.config)  # models that are merged are of one kind
    theirs, ours = (experts_of(each, alternate=alternate) for each in (model, base))
    if not theirs or not ours:
        return same
    changed = list(_to_change(base, ours, model, theirs))
    unlike = [(here, each) for each, here, _ in changed if here and here.sizes != each.sizes]
    if unlike:
        return replace(same, unlike=Unlike(*unlike[0], len(unlike) - 1))
    return in_forms(model, ((each, form) for each, _, form in changed)) if changed else same


def in_forms(model: Checkpoint, changed: Iterable[tuple[Experts, Form]]) -> Reformed:
    """A model with the experts of some layers in other forms."""
    tensors, stored = dict(model.tensors), dict[str, tuple[str, ...]]()
    changes: Counter[str] = Counter()
    for each, form in changed:
        for tensor in each.tensors.values():
            del tensors[tensor.name]
        for tensor, names in _made(each, form):
            tensors[tensor.name] = tensor
            stored[tensor.name] = names
        changes[_change(each.form, form)] += 1
    return Reformed(replace(model, tensors=tensors), stored, changes)


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
            whole = _whole(experts, which, kind)
            names = tuple(part.name for part in whole.made_of)
            made = (
                _apart(experts, form, which, kind, whole) if form.apart else [_fused(experts, form, which, kind, whole)]
            )
            yield from ((tensor, names) for tensor in made)


@dataclass(frozen=True, slots=True)
class _Whole:
    """All of gate and up, or of down, as one tensor.

    Attributes:
        tensor: the tensor.
        order: of its axes.
        sizes: of these.
    """

    tensor: Tensor
    order: str
    sizes: Sizes

    @property
    def made_of(self) -> tuple[Tensor, ...]:
        """Experts that are stored apart, or the tensor itself."""
        return self.tensor.parts if isinstance(self.tensor, Joined) else (self.tensor,)

    @property
    def steps(self) -> dict[str, int]:
        """By axis how many elements lie from one place to the next."""
        found, step = {}, 1
        for axis in reversed(self.order):
            found[axis] = step
            step *= self.sizes[axis]
        return found

    def axes(self, wanted: str) -> Axes:
        """Some of its axes in another order."""
        steps = self.steps
        return joined([(self.sizes[axis], steps[axis]) for axis in wanted])


def _whole(experts: Experts, which: str, kind: str) -> _Whole:
    sizes = experts.sizes
    if not experts.form.apart:
        return _Whole(experts.tensors[0, _FUSED.index(which), kind], experts.form.order(which, kind), sizes)
    order = _ROWS.order(which, kind)
    roles = range(2 - sizes["g"], 2) if which == "gate_up" else (2,)
    parts = [experts.tensors[e, role, kind] for e in range(sizes["e"]) for role in roles]
    return _Whole(Joined.of(experts.at, shape_of(order, sizes), parts), order, sizes)


def _fused(experts: Experts, form: Form, which: str, kind: str, whole: _Whole) -> Tensor:
    name = f"{experts.at}.{form.names[_FUSED.index(which)]}{'_bias' if kind == 'bias' else ''}"
    wanted = form.order(which, kind)
    axes, shape = whole.axes(wanted), shape_of(wanted, experts.sizes)
    if is_run(axes):
        return replace(whole.tensor, name=name, shape=shape)
    return Part(name, whole.tensor.dtype, shape, whole.tensor, 0, axes)


def _apart(experts: Experts, form: Form, which: str, kind: str, whole: _Whole) -> Iterator[Tensor]:
    wanted = {"gate_up": "ih", "down": "hi"}[which][: 2 if kind == "weight" else 1]
    axes, shape = whole.axes(wanted), tuple(experts.sizes[axis] for axis in wanted)
    roles = range(2 - experts.sizes["g"], 2) if which == "gate_up" else (2,)
    step, gate = whole.steps["e"], whole.steps.get("g", 0)
    for expert in range(experts.sizes["e"]):
        for number, role in enumerate(roles):
            name = f"{experts.at}.{expert}.{form.names[role]}.{kind}"
            yield Part(name, whole.tensor.dtype, shape, whole.tensor, expert * step + number * gate, axes)


def _change(stored: Form, read: Form) -> str:
    """In words."""
    if stored.apart and read.apart:
        return f"called {_listed(stored.names)} and read as {_listed(read.names)}"
    if stored.apart:
        return "stored apart and read as fused"
    return "stored fused and read apart" if read.apart else "stored fused in another order of their elements"


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"
