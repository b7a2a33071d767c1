"""Recipes in the shapes that people publish: each is planned, merged and verified on tiny models.

What a tensor or two of each result must be is worked out by hand from the recipe, with the plain references.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import sdmw
from adapters_on_disk import PREFIX, adapter_of, write_adapter
from checkpoints_on_disk import CONFIG, fine_tuned, write_checkpoint
from reference import (
    arcee_fusion,
    breadcrumbs,
    breadcrumbs_ties,
    dare_linear,
    dare_ties,
    della,
    della_linear,
    karcher,
    linear,
    low_rank,
    model_stock,
    multislerp,
    nearswap,
    nuslerp,
    ram,
    ramplus_tl,
    sce,
    slerp,
    task_arithmetic,
    ties,
)
from reference.rounding import bits, rounded
from sdmw.errors import PlanError, RecipeError
from vocabularies_on_disk import tokenizer

FOLDER = Path(__file__).parent / "data" / "recipes"
LAYERS = 8
EMBEDDING, FINAL, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
REVISIONS = {"main": "0123456789abcdef0123456789abcdef01234567", "v2": "89abcdef0123456789abcdef0123456789abcdef"}


WORDS = tokenizer([f"w{number}" for number in range(18)], ["<|im_start|>", "<|im_end|>"])


def q(layer):
    return f"model.layers.{layer}.self_attn.q_proj.weight"


def k(layer):
    return f"model.layers.{layer}.self_attn.k_proj.weight"


def o(layer):
    return f"model.layers.{layer}.self_attn.o_proj.weight"


def down(layer):
    return f"model.layers.{layer}.mlp.down_proj.weight"


def norm(layer):
    return f"model.layers.{layer}.input_layernorm.weight"


def tiny(rng):
    shapes = {EMBEDDING: (20, 8), HEAD: (20, 8), FINAL: (8,)}
    for layer in range(LAYERS):
        shapes |= {name(layer): (8, 8) for name in (q, k, o)} | {down(layer): (8, 12), norm(layer): (8,)}
    return {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}


class World(dict):
    """Tensors of every model by its name."""

    def of(self, tensor, *models):
        return [self[model][tensor] for model in models]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(1)
    world = World(base=tiny(rng))
    world |= {name: fine_tuned(rng, world["base"]) for name in ("chat", "code", "math", "story", "main", "v2")}
    config = {**CONFIG, "num_hidden_layers": LAYERS}
    repository = folder / "hub" / "models--acme--tiny-writer"
    (repository / "refs").mkdir(parents=True)
    for name, tensors in world.items():
        place = repository / "snapshots" / REVISIONS[name] if name in REVISIONS else folder / name
        write_checkpoint(place, tensors, config=config)
        if name in REVISIONS:
            (repository / "refs" / name).write_text(REVISIONS[name])
        else:
            (place / "tokenizer.json").write_text(json.dumps(WORDS))
            (place / "chat_template.jinja").write_text("{{ messages }}" if name in ("chat", "code") else "{{ base }}")
    adapter = adapter_of(rng, world["base"], modules=("q_proj", "down_proj"))
    write_adapter(folder / "poet-lora", adapter)
    for name in ("base", "chat", "code"):
        world[f"{name}+poet-lora"] = {key: with_adapter(adapter, key, value) for key, value in world[name].items()}
    return folder, world


def with_adapter(adapter, name, below):
    a, b = (adapter.get(f"{PREFIX}{name.removesuffix('.weight')}.lora_{side}.weight") for side in "AB")
    return below if a is None else below + low_rank.delta(a, b, 8)


@pytest.fixture
def world(written, monkeypatch):
    folder, world = written
    monkeypatch.chdir(folder)
    return world


def at(layer, *values):
    """A gradient's value in a layer of all."""
    return np.interp(layer / (LAYERS - 1), np.linspace(0, 1, len(values)), values)


def slerped(w, base, model, **t):
    """t by tensor."""
    return {name: slerp.slerp(*w.of(name, base, model), share) for name, share in t.items()}


def averaged(w, tensor, normalize=True, **weights):
    return linear.linear(w.of(tensor, *weights), list(weights.values()), normalize)


def added(w, tensor, normalize=False, scale=1.0, **weights):
    return task_arithmetic.task_arithmetic(
        w["base"][tensor], w.of(tensor, *weights), list(weights.values()), normalize, scale
    )


def voted(w, tensor, weights, densities, **more):
    return ties.ties(w["base"][tensor], w.of(tensor, *weights), list(weights.values()), densities, **more)


def drawn(merge, w, tensor, weights, densities, **more):
    return merge(tensor, w["base"][tensor], w.of(tensor, *weights), list(weights.values()), densities, **more)


def crumbs(merge, w, tensor, weights, densities, gammas):
    return merge(w["base"][tensor], w.of(tensor, *weights), list(weights.values()), densities, gammas)


def on_base(merge, w, tensor, *models, **more):
    return merge(w["base"][tensor], w.of(tensor, *models), **more)


TWO, TALK = {"chat": 0.5, "code": 0.25}, {"chat": 0.7, "story": 0.3}
# By file: what tensors of the result are, before they are rounded to the output's dtype.
SHAPES = {
    "adapter-baked-in": lambda w: {name: w["base+poet-lora"][name] for name in (q(2), down(7), k(0), HEAD)},
    "adapters-in-task-arithmetic": lambda w: {
        q(4): task_arithmetic.task_arithmetic(
            w["base"][q(4)], w.of(q(4), "chat+poet-lora", "code+poet-lora"), [0.7, 0.3], False, 1.0
        ),
        o(4): added(w, o(4), chat=0.7, code=0.3),
    },
    "anchors": lambda w: {down(1): voted(w, down(1), {"chat": 0.4, "code": 0.4, "story": 0.2}, [0.6] * 3)},
    "arcee-fusion": lambda w: {name: arcee_fusion.arcee_fusion(*w.of(name, "chat", "code")) for name in (q(5), FINAL)},
    "base-gives-the-config": lambda w: {k(2): averaged(w, k(2), chat=2, code=1)},
    "base-not-listed": lambda w: {
        o(3): drawn(dare_ties.dare_ties, w, o(3), {"story": 1.0, "math": 0.5}, [1, 0.6], normalize=True)
    },
    "breadcrumbs": lambda w: {down(3): crumbs(breadcrumbs.breadcrumbs, w, down(3), TALK, [0.9, 0.7], [0.01, 0.05])},
    "breadcrumbs-ties": lambda w: {
        name: crumbs(
            breadcrumbs_ties.breadcrumbs_ties, w, name, {"code": 0.5, "math": 0.5, "story": story}, [0.9] * 3,
            [0.01] * 3,
        )
        for name, story in ((down(7), 0.6), (o(6), 0), (HEAD, 0.25))
    },
    "dare-linear": lambda w: {
        q(6): drawn(
            dare_linear.dare_linear, w, q(6), {"code": 0.5, "math": 0.5}, [0.8] * 2, normalize=True, rescale=False
        )
    },
    "chat-template-auto": lambda w: slerped(w, "chat", "code", **{q(2): 0.5, EMBEDDING: 0.5}),
    "dare-ties-base-listed": lambda w: {
        name: drawn(dare_ties.dare_ties, w, name, {"chat": 0.4, "code": 0.3, "math": 0.3}, [0.53] * 3)
        for name in (down(2), EMBEDDING)
    },
    "dare-ties-by-layer": lambda w: {
        name: drawn(
            dare_ties.dare_ties, w, name, {"story": story, "chat": chat}, [density, 0.6], seed=420, normalize=True
        )
        for name, story, chat, density in (
            (q(7), 0.2, 0.6, 0.3), (down(2), 0.4, 0.2, at(2, 1, 0.7, 0.5, 0.3)),
            (norm(4), 0.5, 0.1, at(4, 1, 0.7, 0.5, 0.3)),
        )
    },
    "della": lambda w: {
        down(5): drawn(della.della, w, down(5), {"chat": 1, "story": 0.6}, [0.5] * 2, epsilon=0.4, scale=1.05)
    },
    "della-linear": lambda w: {
        name: drawn(
            della_linear.della_linear, w, name, {"code": code, "math": math}, [first, second], epsilon=0.1
        )
        for name, code, math, first, second in ((q(0), 0.4, 0.2, 0.55, 0.45), (down(7), 0.2, 0.4, 0.45, 0.55))
    },
    "documents-chained": lambda w: {
        name: slerp.slerp(added(w, name, chat=0.6, story=0.4), added(w, name, math=0.8, code=0.5), t)
        for name, t in ((q(3), 0.5), (down(7), 0.8))
    },
    "documents-stack-first": lambda w: {
        new: rounded(averaged(w, old, chat=0.5, math=0.5), "BF16").astype(np.float32)
        for new, old in ((q(5), q(5)), (q(6), q(3)), (down(10), down(7)), (HEAD, HEAD))
    },
    "karcher": lambda w: {
        name: karcher.karcher(w.of(name, "chat", "code", "story"), 1000, 1e-10) for name in (q(1), FINAL)
    },
    "karcher-slices": lambda w: {down(1): karcher.karcher(w.of(down(1), "chat", "math"), 10, 1e-9)},
    "linear-base-takes-part": lambda w: {q(1): averaged(w, q(1), chat=1, code=1, base=1)},
    "linear-by-projection": lambda w: {
        q(0): w["story"][q(0)],
        q(3): averaged(w, q(3), story=0.5, math=0.5),
        down(2): averaged(w, down(2), story=0.25, math=0.75),
        norm(6): averaged(w, norm(6), story=0.75, math=0.25),
        HEAD: w["story"][HEAD],
    },
    "linear-not-normalized": lambda w: {q(1): averaged(w, q(1), normalize=False, chat=0.6, math=0.6)},
    "linear-of-three": lambda w: {HEAD: averaged(w, HEAD, chat=1, code=0.3, story=0.5)},
    "linear-with-riders": lambda w: {
        EMBEDDING: w["chat"][EMBEDDING], q(4): w["chat"][q(4)], q(5): w["story"][q(3)], down(9): w["story"][down(7)],
        HEAD: w["story"][HEAD], FINAL: w["story"][FINAL],
    },
    "long-form-of-models": lambda w: {
        name: drawn(
            dare_ties.dare_ties, w, name, {"chat": chat, "code+poet-lora": code}, densities, normalize=True,
            rescale=False,
        )
        for name, chat, code, densities in (
            (q(3), 0.6, 0.4, [0.8125, 1]), (EMBEDDING, 0.6, 0.4, [0.8125, 1]), (down(4), 0.25, 0.3, [0.5, 0.875]),
            (HEAD, 0.5, 0.3, [0.5, 0.875]),
        )
    },
    "model-by-revision": lambda w: {down(0): averaged(w, down(0), main=0.75, v2=0.25)},
    "model-stock": lambda w: {
        name: on_base(model_stock.model_stock, w, name, "chat", "code", "math", "story") for name in (q(1), FINAL)
    },
    "model-stock-rows": lambda w: {
        down(4): on_base(model_stock.model_stock, w, down(4), "chat", "story", filter_wise=True)
    },
    "modules-of-models": lambda w: slerped(w, "chat", "code", **{q(2): 0.25, HEAD: 0.25}),
    "modules-of-slices": lambda w: {
        name: drawn(
            della_linear.della_linear, w, name, {"code": 0.125, "story": story}, [0.5, 0.6], epsilon=[0.4, 0.3]
        )
        for name, story in ((q(3), 0.0), (down(7), 0.5), (EMBEDDING, 0.5))
    },
    "multislerp": lambda w: {
        q(7): multislerp.multislerp(w.of(q(7), "chat", "code", "math"), [1, 0.25, 0.25]),
        EMBEDDING: multislerp.multislerp(w.of(EMBEDDING, "chat", "code", "math"), [0.5, 0.25, 0.25]),
    },
    "multislerp-on-base": lambda w: {
        q(3): multislerp.multislerp(w.of(q(3), "chat", "story"), [0.5, 0.5], base=w["base"][q(3)])
    },
    "named-and-residual": lambda w: {q(3): w["story"][q(3)], q(4): w["story"][q(2)], FINAL: w["story"][FINAL]},
    "nearswap": lambda w: {k(1): nearswap.nearswap(*w.of(k(1), "base", "story"), 1e-4)},
    "numbers-in-quotes": lambda w: {q(0): voted(w, q(0), {"chat": 0.5, "math": 0.5}, [0.75, 0.75])},
    "nuslerp": lambda w: {
        q(0): nuslerp.nuslerp(w.of(q(0), "chat", "math"), [0.6, 0.2]),
        q(7): nuslerp.nuslerp(w.of(q(7), "chat", "math"), [0.6, 0.2]),
        o(3): nuslerp.nuslerp(w.of(o(3), "chat", "math"), [0.6, at(3, 0.2, 0.6, 0.2)]),
    },
    "nuslerp-rows": lambda w: {
        name: nuslerp.nuslerp(
            w.of(name, "chat", "story"), shares, w["base"][name], nuslerp_flatten=False, nuslerp_row_wise=True
        )
        for name, shares in ((down(7), [0.9, 0.1]), (HEAD, [0.1, 0.9]))
    },
    "parameters-of-other-methods": lambda w: {q(5): averaged(w, q(5), chat=0.5, story=0.5)},
    "ram": lambda w: {down(6): on_base(ram.ram, w, down(6), "chat", "code", "math")},
    "ramplus": lambda w: {
        down(6): on_base(ramplus_tl.ramplus_tl, w, down(6), "chat", "code", epsilon=0.0002, r=0.2, alpha=0.5)
    },
    "remarks-and-blanks": lambda w: {q(1): averaged(w, q(1), chat=0.2, story=0.8)},
    "sce": lambda w: {o(2): on_base(sce.sce, w, o(2), "chat", "code", "math", select_topk=0.15)},
    "slerp-attention-and-mlp": lambda w: {
        q(7): w["code"][q(7)], down(7): w["chat"][down(7)], k(0): w["chat"][k(0)],
        **slerped(w, "chat", "code", **{norm(3): 0.5, HEAD: 0.5, o(2): at(2, 0, 0.5, 0.3, 0.7, 1)}),
    },
    "slerp-every-part": lambda w: slerped(
        w, "story", "chat", **{HEAD: 0.75, EMBEDDING: 0.25, q(7): 0.25, down(7): 0.75, norm(1): 0.5, FINAL: 1}
    ),
    "slerp-int8": lambda w: slerped(w, "math", "code", **{q(7): 0.9, down(0): 0.9, norm(2): 0.5}),
    "slerp-models": lambda w: {
        EMBEDDING: w["chat"][EMBEDDING], down(7): w["chat"][down(7)],
        **slerped(w, "chat", "math", **{q(3): at(3, 0, 0.5, 1, 0.5, 0)}),
    },
    "slerp-models-with-ranges": lambda w: slerped(w, "code", "story", **{q(7): 0.8, down(7): 0.4}),
    "slerp-one-number": lambda w: slerped(w, "chat", "story", **{q(7): 0.35, HEAD: 0.35}),
    "stack-overlapping": lambda w: {
        down(new): w["chat"][down(old)] for new, old in ((3, 3), (4, 2), (7, 5), (8, 4), (11, 7))
    },
    "stack-pruned": lambda w: {q(4): w["math"][q(4)], q(5): w["math"][q(7)], HEAD: w["math"][HEAD]},
    "stack-silent-copies": lambda w: {
        o(4): w["base"][o(4)], o(5): 0 * w["base"][o(3)], down(6): 0 * w["base"][down(4)], q(6): w["base"][q(4)],
        o(8): w["base"][o(6)], o(9): 0 * w["base"][o(5)], down(11): w["base"][down(7)],
    },
    "stack-softer-copies": lambda w: {
        q(2): w["chat"][q(1)] * np.float32(0.5**0.5), k(5): w["chat"][k(4)] * np.float32(0.5**0.5),
        o(5): w["chat"][o(4)], q(1): w["chat"][q(1)], q(6): w["chat"][q(4)],
    },
    "stack-two-in-turn": lambda w: {
        q(2): w["story"][q(2)], q(3): w["chat"][q(2)], q(8): w["story"][q(5)], q(11): w["chat"][q(7)],
        EMBEDDING: w["story"][EMBEDDING], FINAL: w["chat"][FINAL],
    },
    "task-arithmetic": lambda w: {q(2): added(w, q(2), chat=1, code=0.4, math=0.35)},
    "task-arithmetic-subtracts": lambda w: {q(2): added(w, q(2), scale=0.9, story=1, chat=-0.6)},
    "ties-all-kept": lambda w: {q(2): voted(w, q(2), {"chat": 1, "story": 1}, [1, 1])},
    "ties-classic": lambda w: {q(2): voted(w, q(2), {"chat": 0.5, "math": 0.3}, [0.5, 0.5])},
    "ties-gradients": lambda w: {
        name: voted(w, name, {"story": 1, "chat": chat, "code": code}, [density, 0.5, 0.33])
        for name, chat, code, density in (
            (q(0), 0, 0, 1), (down(7), 1, 0.5, 0.1), (norm(3), at(3, 0, 0.3, 0.7, 1), 0, at(3, 1, 0.7, 0.1)),
            (HEAD, 0, 0, 1),
        )
    },
    "ties-layers-apart": lambda w: {
        q(3): voted(w, q(3), {"chat": 0.8, "code": 0.2}, [0.6, 0.6], scale=1.1),
        q(4): voted(w, q(4), {"chat": 0.3, "code": 0.7}, [0.4, 0.8], scale=1.1),
        EMBEDDING: voted(w, EMBEDDING, {"chat": 0.8, "code": 0.2}, [0.6, 0.6], scale=1.1),
        HEAD: voted(w, HEAD, {"chat": 0.3, "code": 0.7}, [0.4, 0.8], scale=1.1),
    },
    "tokenizer-in-full": lambda w: {EMBEDDING: on_base(model_stock.model_stock, w, EMBEDDING, "chat", "code")},
    "tokenizer-of-the-base": lambda w: {
        EMBEDDING: voted(w, EMBEDDING, {"chat": 0.5, "code": 0.5}, [0.75, 0.75], normalize=False)
    },
    "tokenizer-tokens": lambda w: {
        EMBEDDING: np.concatenate([
            averaged(w, EMBEDDING, chat=0.5, code=0.5)[:18], w["chat"][EMBEDDING][18:19],
            averaged(w, EMBEDDING, chat=0.5, code=0.5)[19:],
        ])
    },
    "tokenizer-union": lambda w: {
        name: drawn(dare_ties.dare_ties, w, name, {"chat": 0.5, "code": 0.5}, [0.5] * 2) for name in (q(2), HEAD)
    },
    "yes-and-no": lambda w: {q(0): added(w, q(0), normalize=True, **TWO)},
}  # fmt: skip
HALVES = ("base-not-listed", "linear-by-projection", "linear-of-three", "linear-with-riders", "numbers-in-quotes",
          "slerp-one-number", "stack-two-in-turn", "ties-classic", "ties-gradients")  # fmt: skip
DEPTHS = {
    "documents-stack-first": 11, "linear-with-riders": 10, "named-and-residual": 10, "stack-overlapping": 12,
    "stack-pruned": 6, "stack-silent-copies": 12, "stack-softer-copies": 10, "stack-two-in-turn": 12,
}  # fmt: skip
WARNED = {
    "long-form-of-models": ["an adapter of 'base', put on 'code'"],
    "adapters-in-task-arithmetic": ["an adapter of 'base', put on 'chat'", "an adapter of 'base', put on 'code'"],
    "slerp-every-part": ["parameters.t.5: 'modelnorm' has no effect: no tensor's name contains it"],
}  # fmt: skip


REFUSED = {
    "della-too-dense": [r"density 0\.9 with epsilon 0\.15 keeps deltas with .* choose an epsilon below 0\.1"],
    "density-in-percent": [
        r":5:38: models\.0\.parameters\.density: expected a number from 0 to 1, found 50",
        r":7:38: models\.1\.parameters\.density: expected a number from 0 to 1, found 50",
    ],
    "evolutionary": [r":1:1: genome: expected a merge, found a search for a recipe, which sdmw does not do"],
    "layers-of-a-larger-model": [
        r"layer_range of model 'chat' in slices\.0: expected at most 8 layers .*, found \[0, 24\]",
        r"layer_range of model 'chat' in slices\.1: expected at most 8 layers .*, found \[8, 32\]",
    ],
    "mixture-of-experts": [r":4:1: experts: expected a merge, found a mixture of experts, which sdmw does not build"],
    "parameters-in-the-wrong-place": [
        *(
            rf"models\.{n}\.{name}: unknown field\. Write it under parameters"
            for n in (0, 1) for name in ("weight", "density")
        ),
        r":10:1: normalize: unknown field\. Write it under parameters",
    ],
    "slerp-of-three": [r":3:9: models: expected exactly 1 model besides base_model for slerp, found 2"],
    "weights-for-some": [r":3:3: models: expected weights for all fine-tunes or none, found none for 'code'"],
}  # fmt: skip


def test_there_are_many_and_each_is_tried():
    assert {path.stem for path in FOLDER.glob("*.yml")} == SHAPES.keys()
    assert {path.stem for path in (FOLDER / "refused").glob("*.yml")} == REFUSED.keys()
    assert len(SHAPES) >= 45


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_what_the_recipe_says(world, monkeypatch, name):
    if name == "model-by-revision":
        constants = pytest.importorskip("huggingface_hub.constants")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path("hub").resolve()))
    recipe = FOLDER / f"{name}.yml"
    plan = sdmw.plan(recipe)
    assert plan.problems == ()
    assert all(expected in said for expected, said in zip(WARNED.get(name, ()), plan.warnings, strict=True))
    sdmw.merge(recipe, "out", progress=False, overwrite=True)
    assert sdmw.verify("out", progress=False).problems == ()
    assert Path("out/sdmw_recipe.yaml").read_text() == recipe.read_text()
    out, layers = load_file("out/model.safetensors"), DEPTHS.get(name, LAYERS)
    assert json.loads(Path("out/config.json").read_text())["num_hidden_layers"] == layers
    assert out.keys() == {EMBEDDING, FINAL, HEAD, *(each(n) for n in range(layers) for each in (q, k, o, down, norm))}
    dtype = "F16" if name in HALVES else "BF16"
    for tensor, expected in SHAPES[name](world).items():
        np.testing.assert_array_equal(bits(out[tensor]), bits(rounded(expected, dtype)), err_msg=tensor)
    assert all(np.isfinite(tensor.astype(np.float32)).all() for tensor in out.values())


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_these_words(world, name):
    recipe = FOLDER / "refused" / f"{name}.yml"
    with pytest.raises((PlanError, RecipeError)) as caught:
        sdmw.merge(recipe, "refused", progress=False)
    problems = [str(problem) for problem in caught.value.problems]
    assert len(problems) == len(REFUSED[name]), problems
    for problem, pattern in zip(problems, REFUSED[name], strict=True):
        assert re.search(pattern, problem), problem
    assert not Path("refused").exists()
