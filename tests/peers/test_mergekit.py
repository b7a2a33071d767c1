"""Against mergekit 0.1.5: the same file of YAML, the same checkpoints, the same bits of every tensor.

mergekit runs as its users run it, as the command `mergekit-yaml`, one process for all recipes (importing torch takes
seconds, a merge a tenth of one). It works with transformers 5.24 as it is, but for its model card: that asks the Hub
whether each path is a repository, which fails offline, so no card is asked for.

Up to four models: from five on torch sums in four parts, weights too, so that a normalised `linear` may differ as well.
"""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

EXTRA = "pip install 'sdmw[parity]'"
torch = pytest.importorskip("torch", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)
pytest.importorskip("mergekit", reason=EXTRA)

from safetensors.torch import load_file  # noqa: E402

import sdmw  # noqa: E402
from checkpoints_on_disk import fine_tuned, write_checkpoint  # noqa: E402
from faults.worlds import ALL  # noqa: E402
from reference.rounding import STORED  # noqa: E402

if platform.machine() != "x86_64":
    pytest.skip("elsewhere than on x86 torch fuses multiplication and addition", allow_module_level=True)

RUNNER = os.path.join(os.path.dirname(__file__), "run_mergekit.py")

# base, a, b, c, d have four layers and are F32; those of half precision have the same shapes; lone_* have one layer.
DTYPES = {"base": "F32", "a": "F32", "b": "F32", "c": "F32", "d": "F32", "base16": "BF16", "a16": "BF16", "b16": "BF16",
          "half": "F16"}  # fmt: skip
FLOAT32 = "dtype: float32\nout_dtype: float32\n"

LINEAR = {
    "equal weights": "models: [{model: a}, {model: b}]\nparameters: {weight: 1}",
    "one model": "models: [{model: a, parameters: {weight: 0.7}}]",
    "own weights": """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b, parameters: {weight: 0.55}}
""",
    "not normalised": """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b, parameters: {weight: -0.2}}
  - {model: c, parameters: {weight: 0.71}}
parameters: {normalize: false}
""",
    "four models": """
models:
  - {model: a, parameters: {weight: 0.1}}
  - {model: b, parameters: {weight: 0.7}}
  - {model: c, parameters: {weight: 1.3}}
  - {model: d, parameters: {weight: -0.4}}
parameters: {normalize: true}
""",
    "numbers as YAML 1.1 reads them": """
models:
  - {model: a, parameters: {weight: 3e-1}}
  - {model: b, parameters: {weight: 1}}
""",
    "the model goes before the top": """
models:
  - {model: a, parameters: {weight: 0.9}}
  - {model: b}
parameters: {weight: 0.4}
""",
    "gradients": """
models:
  - {model: a, parameters: {weight: [0, 1]}}
  - {model: b, parameters: {weight: [0.9, 0.35, 0.1]}}
  - {model: c, parameters: {weight: [0.5, 0.1, 0.9, 0.3, 0.7]}}
  - {model: d, parameters: {weight: [0.3]}}
""",
    "a gradient at the top": """
models: [{model: a}, {model: b, parameters: {weight: 0.2}}]
parameters: {weight: [0.1, 0.7], normalize: false}
""",
    "a gradient of one layer": """
models:
  - {model: lone_a, parameters: {weight: [0.2, 0.9]}}
  - {model: lone_b, parameters: {weight: [0.8, 0.4, 0.3]}}
""",
    "filters": """
models:
  - model: a
    parameters:
      weight:
        - {filter: mlp.up, value: 0.15}
        - {filter: mlp, value: [0.2, 0.8]}
        - {filter: "*", value: 0.65}
        - {filter: norm, value: 99}
  - model: b
    parameters:
      weight:
        - {filter: layers.2., value: 0.45}
        - {value: 0.85}
""",
    "where no filter matches the top decides": """
models:
  - model: a
    parameters: {weight: [{filter: self_attn, value: 0.15}, {filter: embed, value: [0.6, 0.1]}]}
  - model: b
    parameters: {weight: {filter: q_proj, value: 0.25}}
parameters:
  weight: [{filter: lm_head, value: 0.35}, {filter: q_proj, value: 0.75}, {value: [0.5, 1.5]}]
""",
    "normalised by filter": """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b, parameters: {weight: 0.4}}
parameters: {normalize: [{filter: mlp, value: false}, {filter: layers, value: true}]}
""",
    "base among the models": """
base_model: base
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: base, parameters: {weight: 0.4}}
""",
    "half precision": """
models:
  - {model: a16, parameters: {weight: 0.3}}
  - {model: b16, parameters: {weight: 0.55}}
  - {model: half, parameters: {weight: 0.2}}
""",
    "dtypes mixed": """
models:
  - {model: a16, parameters: {weight: 0.3}}
  - {model: a, parameters: {weight: 0.55}}
""",
}

TASK_ARITHMETIC = {
    "one model": "models: [{model: a, parameters: {weight: 0.7}}]",
    "weight 1": "models: [{model: a}, {model: b}]\nparameters: {weight: 1.0}",
    "own weights": """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b, parameters: {weight: 0.55}}
  - {model: c, parameters: {weight: -0.4}}
""",
    "four models": """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b, parameters: {weight: 0.55}}
  - {model: c, parameters: {weight: 0}}
  - {model: d, parameters: {weight: 1.1}}
""",
    "normalised": """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b, parameters: {weight: 0.55}}
  - {model: c, parameters: {weight: 0.1}}
  - {model: d, parameters: {weight: 1.7}}
parameters: {normalize: true}
""",
    "normalised by next to nothing": """
models:
  - {model: a, parameters: {weight: 0.5}}
  - {model: b, parameters: {weight: -0.5}}
parameters: {normalize: true, lambda: 0.9}
""",
    "lambda": """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b, parameters: {weight: 0.55}}
parameters: {lambda: 0.7}
""",
    "lambda and normalised": """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b, parameters: {weight: 0.55}}
parameters: {normalize: true, lambda: -1.3, int8_mask: true}
""",
    "gradients and filters": """
models:
  - model: a
    parameters:
      weight: [{filter: self_attn, value: [0.1, 0.9, 0.4]}, {filter: norm, value: 0.2}]
  - {model: b, parameters: {weight: [1, 0.5, 0.25, 0.125]}}
parameters:
  weight: {value: 0.6}
  lambda: [{filter: mlp, value: [0.5, 1.5]}, {filter: embed, value: 0.8}]
  normalize: [{filter: down_proj, value: true}]
""",
    "base among the models": """
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: base, parameters: {weight: 0.9}}
  - {model: b, parameters: {weight: 0.55}}
parameters: {normalize: true}
""",
    "half precision": """
base_model: base16
models:
  - {model: a16, parameters: {weight: 0.3}}
  - {model: b16, parameters: {weight: 0.55}}
  - {model: half, parameters: {weight: 0.2}}
parameters: {lambda: 1.1}
""",
    "dtypes mixed": """
base_model: base16
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: b16, parameters: {weight: 0.55}}
parameters: {normalize: true}
""",
}

OTHERS = {
    "linear: to bfloat16": """
merge_method: linear
dtype: float32
out_dtype: bfloat16
models: [{model: a, parameters: {weight: 0.3}}, {model: b, parameters: {weight: 0.4}}]
""",
    "linear: to float16": """
merge_method: linear
dtype: float32
out_dtype: float16
models: [{model: a16, parameters: {weight: 0.3}}, {model: b16, parameters: {weight: 0.4}}]
""",
    "task_arithmetic: to bfloat16": """
merge_method: task_arithmetic
base_model: base16
dtype: float32
out_dtype: bfloat16
models: [{model: a16, parameters: {weight: 0.3}}, {model: b16, parameters: {weight: 0.4}}]
""",
    "task_arithmetic: dtype alone": """
merge_method: task_arithmetic
base_model: base16
dtype: float32
models: [{model: a16, parameters: {weight: 0.3}}, {model: b16, parameters: {weight: 0.4}}]
""",
}


# Decided by norms and dot products, which torch adds up in float32: equal to a few of its last digits.
CLOSE = {
    "slerp: filters and gradients": """
merge_method: slerp
base_model: base
models: [{model: base}, {model: a}]
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5
""",
    "slerp: far apart": "merge_method: slerp\nbase_model: a\nmodels: [{model: other}]\nparameters: {t: 0.3}",
    "nuslerp": """
merge_method: nuslerp
models: [{model: a, parameters: {weight: 0.3}}, {model: other, parameters: {weight: 0.6}}]
""",
    "nuslerp: of deltas": """
merge_method: nuslerp
base_model: base
models: [{model: a, parameters: {weight: 0.3}}, {model: b, parameters: {weight: 0.6}}]
""",
    "nuslerp: by row": """
merge_method: nuslerp
models: [{model: a, parameters: {weight: 0.3}}, {model: other, parameters: {weight: 0.6}}]
parameters: {nuslerp_flatten: false}
""",
    "nuslerp: by column, of deltas": """
merge_method: nuslerp
base_model: base
models: [{model: a, parameters: {weight: 0.3}}, {model: b, parameters: {weight: 0.6}}]
parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
""",
    "multislerp": """
merge_method: multislerp
models:
  - {model: a, parameters: {weight: 0.3}}
  - {model: other, parameters: {weight: 0.6}}
  - {model: b, parameters: {weight: 0.9}}
""",
    "multislerp: of deltas": """
merge_method: multislerp
base_model: base
models: [{model: a, parameters: {weight: 0.3}}, {model: b, parameters: {weight: 0.6}}]
parameters: {normalize_weights: false}
""",
    "karcher": "merge_method: karcher\nmodels: [{model: a}, {model: other}, {model: b}]",
    "karcher: of its own parameters": """
merge_method: karcher
models: [{model: a}, {model: other}]
parameters: {max_iter: 100, tol: 1.0e-7}
""",
    "model_stock": "merge_method: model_stock\nbase_model: base\nmodels: [{model: a}, {model: b}, {model: c}]",
    "model_stock: by row": """
merge_method: model_stock
base_model: base
models: [{model: a}, {model: b}, {model: c}]
parameters: {filter_wise: true}
""",
    "ties": """
merge_method: ties
base_model: base
models:
  - {model: base}
  - {model: a, parameters: {weight: 0.5, density: 0.5}}
  - {model: b, parameters: {weight: [0.3, 0.9], density: [0.3, 0.6, 1]}}
parameters: {normalize: true, int8_mask: true}
""",
    "ties: not normalised, rescaled": """
merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: 0.5, density: 0.7}}
  - {model: b, parameters: {weight: -0.4, density: 0.2}}
  - {model: c, parameters: {weight: 0.9, density: 0.001}}
parameters: {normalize: false, rescale: true, lambda: 0.8}
""",
    "breadcrumbs": """
merge_method: breadcrumbs
base_model: base
models:
  - {model: a, parameters: {weight: 0.5, density: 0.7, gamma: 0.05}}
  - {model: b, parameters: {weight: 0.4, density: 0.95, gamma: 0.3}}
""",
    "breadcrumbs_ties": """
merge_method: breadcrumbs_ties
base_model: base
models:
  - {model: a, parameters: {weight: 0.5, density: 0.9}}
  - {model: b, parameters: {weight: 0.4, density: 0.9}}
  - {model: c, parameters: {weight: 0.7, density: 0.5, gamma: 0.02}}
parameters: {normalize: true}
""",
    "sce": "merge_method: sce\nbase_model: base\nmodels: [{model: a}, {model: b}, {model: c}]",
    "sce: selected": """
merge_method: sce
base_model: base
models: [{model: a}, {model: other}, {model: c}]
parameters: {select_topk: [{filter: mlp, value: [0.1, 0.6]}, {value: 0.3}]}
""",
    "nearswap": "merge_method: nearswap\nbase_model: base\nmodels: [{model: a}]\nparameters: {t: 0.0005}",
    "ram": "merge_method: ram\nbase_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {epsilon: 0.001}",
    "ramplus_tl": """
merge_method: ramplus_tl
base_model: base
models: [{model: a}, {model: b}, {model: c}]
parameters: {epsilon: 0.001, r: 0.4, alpha: 0.5}
""",
    "passthrough": """
merge_method: passthrough
models: [{model: a, parameters: {scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: 0.5}, {value: 1}]}}]
""",
}


def _recipes():
    for name, text in LINEAR.items():
        yield f"linear: {name}", f"merge_method: linear\n{FLOAT32}{text}"
    for name, text in TASK_ARITHMETIC.items():
        base = "" if "base_model" in text else "base_model: base\n"
        yield f"task_arithmetic: {name}", f"merge_method: task_arithmetic\n{base}{FLOAT32}{text}"
    yield from OTHERS.items()


def _close():
    return [f"{text.strip()}\n{FLOAT32}" for text in CLOSE.values()]


RECIPES = dict(_recipes())

# What mergekit does where the two are known to differ, under the names of the tests below.
UNLISTED_BASE = """
merge_method: linear
base_model: base
dtype: float32
parameters: {weight: 0.4}
models: [{model: a}, {model: b}]
"""
NEGATIVE_ZEROS = """
merge_method: task_arithmetic
base_model: zeros
dtype: float32
models: [{model: zeros_too, parameters: {weight: -1}}]
"""
DIFFERENT = {"unlisted base": UNLISTED_BASE, "negative zeros": NEGATIVE_ZEROS}


def _llama(layers):
    return transformers.LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=36, num_hidden_layers=layers, num_attention_heads=3,
        num_key_value_heads=1, tie_word_embeddings=False, architectures=["LlamaForCausalLM"],
    )  # fmt: skip


def _shapes(config):
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints, recipes, and what mergekit made of each recipe."""
    folder = tmp_path_factory.mktemp("mergekit")
    rng = np.random.default_rng(7)
    for layers, prefix, dtypes in ((4, "", DTYPES), (1, "lone_", {"a": "F32", "b": "F32"})):
        config = _llama(layers)
        start = {name: rng.normal(0, 0.02, shape).astype(np.float32) for name, shape in _shapes(config).items()}
        for name, dtype in dtypes.items():
            tensors = fine_tuned(rng, start, dtype) if name[:4] != "base" else {
                n: array.astype(STORED[dtype]) for n, array in start.items()
            }  # fmt: skip
            write_checkpoint(folder / f"{prefix}{name}", tensors, config=config.to_dict())
    other = {n: rng.normal(0, 0.03, shape).astype(np.float32) for n, shape in _shapes(_llama(4)).items()}
    write_checkpoint(folder / "other", other, config=_llama(4).to_dict())
    for name in ("zeros", "zeros_too"):
        config = _llama(1)
        zeros = {name: np.full(shape, -0.0, np.float32) for name, shape in _shapes(config).items()}
        write_checkpoint(folder / name, zeros, config=config.to_dict())
    arguments = []
    for number, text in enumerate([*RECIPES.values(), *_close(), *DIFFERENT.values()]):
        (folder / f"recipe{number}.yaml").write_text(text)
        arguments += [f"recipe{number}.yaml", f"mergekit{number}"]
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, RUNNER, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def ours_and_theirs(folder, monkeypatch):
    """Both results of one recipe, by its name: the same file is read by both, in the same working directory."""
    monkeypatch.chdir(folder)

    def merged(name):
        number = [*RECIPES, *CLOSE, *DIFFERENT].index(name)
        out = f"sdmw{number}"
        sdmw.merge(f"recipe{number}.yaml", out, progress=False, overwrite=True)
        return load_file(f"{out}/model.safetensors"), load_file(f"mergekit{number}/model.safetensors")

    return merged


def bits(tensor):
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def differing(ours, theirs):
    """Names of tensors that are not the same bit for bit."""
    assert ours.keys() == theirs.keys()
    assert {n: (t.dtype, t.shape) for n, t in ours.items()} == {n: (t.dtype, t.shape) for n, t in theirs.items()}
    return [name for name in ours if not torch.equal(bits(ours[name]), bits(theirs[name]))]


@pytest.mark.parametrize("name", RECIPES)
def test_the_same_bits(ours_and_theirs, name):
    ours, theirs = ours_and_theirs(name)
    assert differing(ours, theirs) == []


@pytest.mark.parametrize("name", CLOSE)
def test_the_same_numbers(ours_and_theirs, name):
    ours, theirs = ours_and_theirs(name)
    assert ours.keys() == theirs.keys()
    for tensor, found in ours.items():
        # Of what is near zero the last digits of the larger summands are left.
        np.testing.assert_allclose(found, theirs[tensor], rtol=2e-6, atol=2e-8, err_msg=tensor)


def test_recipes_make_a_difference(ours_and_theirs):
    """What is compared above would tell one recipe from another."""
    for method, default, other in (
        ("linear", "own weights", "where no filter matches the top decides"),
        ("task_arithmetic", "own weights", "gradients and filters"),
    ):
        one, _ = ours_and_theirs(f"{method}: {default}")
        another, _ = ours_and_theirs(f"{method}: {other}")
        assert differing(one, another) == list(one)


def test_a_base_that_is_not_listed_is_averaged_in_where_the_top_level_weighs_it(ours_and_theirs):
    ours, theirs = ours_and_theirs("unlisted base")
    assert differing(ours, theirs) == []


def test_a_base_of_negative_zeros_moved_by_negative_zeros(ours_and_theirs):
    """The one corner in which METHOD.md's sum is not torch's, whose sums start from +0.0.

    −0.0 + (−1)·0.0 = −0.0; torch makes 0.0 + (−0.0) = 0.0 of the sum first, and −0.0 + 0.0 = 0.0.
    """
    ours, theirs = ours_and_theirs("negative zeros")
    assert all(torch.signbit(tensor).all() for tensor in ours.values())
    assert not any(torch.signbit(tensor).any() for tensor in theirs.values())


def test_arcee_fusion_takes_the_same(folder, monkeypatch):
    """Against mergekit's own arithmetic in float64; at float32 a part of its decisions is noise."""
    from mergekit.merge_methods.arcee_fusion import DynamicThresholdFusion, _compute_importance

    monkeypatch.chdir(folder)
    recipe = {"merge_method": "arcee_fusion", "base_model": "base", "models": [{"model": "a"}]}
    sdmw.merge(recipe, "fused", progress=False)
    below, above, found = (load_file(f"{name}/model.safetensors") for name in ("base", "a", "fused"))
    taken = 0
    for name, base in below.items():
        scores = _compute_importance(above[name].double(), base.double())
        mask, cut = DynamicThresholdFusion().compute_fusion_mask(scores)
        expected = torch.where(mask.bool(), base + (above[name] - base), base)
        near = abs(scores - cut) < 1e-6 * abs(cut)
        assert torch.equal(found[name][~near], expected[~near]), name
        assert near.sum() <= 1
        taken += mask.sum()
    assert 0 < taken < 0.5 * sum(each.numel() for each in below.values())


# By chance: compared in distribution


def shares_kept(of_one_seed, seeds=400):
    """How often each element of one row is kept, and the sum of magnitudes that is left, over seeds."""
    found = np.array([of_one_seed(seed) for seed in range(seeds)])
    return (found != 0).mean(axis=0), np.abs(found).sum(axis=1).mean()


@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.3), (0.3, 0.15)] if ALL else [(0.5, 0.3)])
def test_della_keeps_as_often(tmp_path, monkeypatch, density, epsilon):
    from mergekit.sparsify import RescaleNorm, della_magprune

    monkeypatch.chdir(tmp_path)
    delta = np.random.default_rng(3).permutation(np.linspace(1, 2, 40, dtype=np.float32))[None]
    write_checkpoint("below", {"w": np.zeros_like(delta)})
    write_checkpoint("above", {"w": delta})

    def ours(seed):
        recipe = {
            "merge_method": "della_linear", "base_model": "below", "random_seed": seed,
            "models": [{"model": "above"}], "parameters": {"weight": 1, "density": density, "epsilon": epsilon},
        }  # fmt: skip
        return np.asarray(sdmw.open(recipe, progress=False).get_tensor("w"))[0]

    def theirs(seed):
        torch.manual_seed(seed)
        return della_magprune(torch.tensor(delta), density, epsilon, RescaleNorm.l1)[0].numpy()

    (mine, my_sum), (other, other_sum) = shares_kept(ours, 200), shares_kept(theirs, 2000)
    expected = density - epsilon + 2 * epsilon * delta[0].argsort().argsort() / 39
    assert np.abs(other - expected).max() < 4.5 * 0.5 / 2000**0.5
    assert np.abs(mine - expected).max() < 4.5 * 0.5 / 200**0.5
    np.testing.assert_allclose([my_sum, other_sum], np.abs(delta).sum(), rtol=1e-5)
