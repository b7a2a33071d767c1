"""A base, two fine-tunes and a recipe in a folder: a row of the table of mends spoils them, and mends them."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

import sdmw
from adapters_on_disk import PREFIX, adapter_of, write_adapter
from checkpoints_on_disk import fine_tuned, llama_like, write_checkpoint
from reference import low_rank
from reference.linear import linear

OUT = "out"
NAMES = ("base", "corp", "func")
Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Scene:
    """The working directory of a row.

    Attributes:
        tensors: of each model, by the model's name.
        recipe: a mapping, or YAML.
        options: arguments of the call that is made.
        patch: pytest's, undone after the row.
        call: what is done; by default a merge into `out`.
        kept: for what a row wants to remember.
    """

    def __init__(self, patch):
        rng = np.random.default_rng(4)
        base = llama_like(rng, "F32")
        self.tensors = {"base": base, "corp": fine_tuned(rng, base), "func": fine_tuned(rng, base)}
        for name, tensors in self.tensors.items():
            write_checkpoint(name, tensors)
        self.adapter = adapter_of(rng, base)
        self.recipe: Any = {"merge_method": "linear", "base_model": "base", "models": ["./corp", "./func"]}
        self.options: dict[str, Any] = {}
        self.patch = patch
        self.call: Callable[[Scene], Any] = merge
        self.expected: Callable[[Scene], dict[str, np.ndarray]] = average
        self.kept: Any = None

    def run(self):
        return self.call(self)

    def check(self):
        """The result is the plain reference's."""
        if (expected := self.expected(self)) is None:
            return
        found = {}
        for shard in Path("out").glob("*.safetensors"):
            found |= load_file(shard)
        assert sorted(found) == sorted(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def merge(scene):
    recipe = scene.recipe
    if isinstance(recipe, str | bytes):
        Path("recipe.yaml").write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
        recipe = "recipe.yaml"
    sdmw.merge(recipe, OUT, **{"progress": False, **scene.options})


def call(function, *arguments, **options):
    """Another call than a merge."""
    return lambda scene: getattr(sdmw, function)(*arguments, **{**options, **scene.options})


def average(scene):
    """What `linear` gives of the fine-tunes, whole."""
    corp, func = scene.tensors["corp"], scene.tensors["func"]
    return {name: linear([corp[name], func[name]], [1, 1], True) for name in corp}


def adapted(scene):
    """The base with the scene's adapter on it."""
    found = dict(scene.tensors["base"])
    for name in found:
        a, b = (scene.adapter.get(f"{PREFIX}{name.removesuffix('weight')}lora_{side}.weight") for side in "AB")
        if a is not None:
            found[name] = found[name] + low_rank.delta(a, b, 8)
    return found


def unseen(scene):
    """Something else than a model is made; the row looks at it itself, or at nothing."""
    return


def made(name):
    """The result is one of the models."""
    return lambda scene: scene.tensors[name]


@dataclass(frozen=True)
class Row:
    """A fault whose message has a mend.

    Attributes:
        name: of the test.
        mend: the whole mend, as text.
        fault: spoils the scene.
        follow: does what the mend says.
        call: what is done.
        expected: what the result holds.
        then: where the mend is not all there is to do, what the next message says.
    """

    name: str
    mend: str
    fault: Callable[[Scene], Any]
    follow: Callable[[Scene], Any]
    call: Callable[[Scene], Any] = merge
    expected: Callable[[Scene], dict[str, np.ndarray]] = average
    then: str = ""


def both(*actions):
    return lambda scene: [action(scene) for action in actions]


def fields(**given):
    """Sets fields of the recipe; None takes one away."""

    def act(scene):
        scene.recipe = {name: value for name, value in {**scene.recipe, **given}.items() if value is not None}

    return act


def text(content):
    """The recipe as YAML."""

    def act(scene):
        scene.recipe = content

    return act


def options(**given):
    def act(scene):
        scene.options = {name: value for name, value in {**scene.options, **given}.items() if value is not None}

    return act


def write(model):
    """The model's tensors anew, as the scene has them now."""
    save_file(model[1], Path(model[0], "model.safetensors"), metadata={"format": "pt"})


def edit(model, change):
    """Changes a model's tensors by a function of their mapping."""

    def act(scene):
        tensors = dict(scene.tensors[model])
        scene.tensors[model] = change(tensors) or tensors
        write((model, scene.tensors[model]))

    return act


def put(model, name, element, value):
    def change(tensors):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[element] = value

    return edit(model, change)


def add(name, array, *models):
    return both(*(edit(model, lambda tensors: tensors.update({name: array})) for model in models or NAMES))


def without(model, name):
    def act(scene):
        scene.kept = scene.tensors[model][name]
        edit(model, lambda tensors: {n: t for n, t in tensors.items() if n != name})(scene)

    return act


def config(model, **given):
    """Sets fields of a model's config.json; None takes one away."""

    def act(scene):
        path = Path(model, "config.json")
        data = {**json.loads(path.read_text()), **given}
        path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))

    return act


def file(path, content=""):
    """Writes a file, or takes it away (None)."""

    def act(scene):
        target = Path(path)
        if content is None:
            target.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    return act


def move(old, new):
    def act(scene):
        Path(new).parent.mkdir(parents=True, exist_ok=True)
        os.rename(old, new)

    return act


def again(model):
    """The model's weights as they were."""
    return lambda scene: write((model, scene.tensors[model]))


def patched(where, value):
    return lambda scene: scene.patch.setattr(where, value)


def undone(scene):
    scene.patch.undo()


def adapter(name, tensors=None, **given):
    """An adapter, in place of one that is there; `tensors` is a function of the scene."""

    def act(scene):
        for each in ("adapter_config.json", "adapter_model.safetensors"):
            Path(name, each).unlink(missing_ok=True)
        if Path(name).is_dir():
            Path(name).rmdir()
        write_adapter(name, scene.adapter if tensors is None else tensors(scene), **given)

    return act


def plain(text):
    """A message without what differs from machine to machine."""
    return re.sub(r"\d+MB", "NMB", text.replace(os.getcwd(), "HERE"))
