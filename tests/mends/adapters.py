"""Mends of adapters: on a base, combined, extracted."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from adapters_on_disk import PREFIX, factors
from checkpoints_on_disk import CONFIG, write_checkpoint
from mends.scene import (
    EMBEDDING,
    HEAD,
    NORM,
    Q,
    Row,
    adapted,
    adapter,
    both,
    call,
    config,
    edit,
    fields,
    file,
    made,
    move,
    put,
    unseen,
)
from reference import lora, low_rank

MERGED_BY_PEFT = "Merge it into its base with peft's merge_and_unload, and give that model"
LORA = {"merge_method": "lora", "base_model": "base", "parameters": {"combination_type": "linear", "weight": 1}}
MODULE = Q.removesuffix(".weight")


def given(**config):
    """The scene's adapter is the one model of the recipe."""
    return both(adapter("lora", **config), fields(models=["./lora"]))


def merged_by_peft(scene):
    """What peft's merge_and_unload gives of the scene's adapter, as a model."""
    write_checkpoint("whole", adapted(scene))
    fields(models=["./whole"])(scene)


def changed(change, **config):
    """The scene's adapter after a function changed its mapping of tensors."""

    def act(scene):
        scene.kept = dict(scene.adapter)
        change(scene)
        given(**config)(scene)

    return act


def as_it_was(**config):
    def act(scene):
        scene.adapter = scene.kept
        given(**config)(scene)

    return act


def more(name, array):
    return changed(lambda scene: scene.adapter.update({f"{PREFIX}{name}": array}))


def put_on(model):
    """The recipe names the model that the adapter belongs to."""
    return fields(models=[f"{model}+./lora"])


def of_other(**config):
    """An adapter of a model that is not the base: its fine-tune `corp`, by path."""

    def act(scene):
        save_file(scene.tensors["corp"], "corp/model.safetensors", metadata={"of": "corp"})  # another header
        given(base_model_name_or_path=str(Path("corp").absolute()), **config)(scene)

    return act


def on(model):
    def expected(scene):
        base, scene.tensors["base"] = scene.tensors["base"], scene.tensors[model]
        try:
            return adapted(scene)
        finally:
            scene.tensors["base"] = base

    return expected


def renamed_modules(old, new):
    def change(scene):
        scene.adapter = {name.replace(old, new): array for name, array in scene.adapter.items()}

    return change


def doubled(scene):
    """A base that has every weight twice, so that the end of a name means two."""
    tensors = scene.tensors["base"]
    shutil.rmtree("base")
    scene.tensors["base"] = {f"{side}.{name}": array for side in ("a", "b") for name, array in tensors.items()}
    write_checkpoint("base", scene.tensors["base"])


def whole_names(scene):
    """Of the first side."""
    scene.adapter = {name.replace(PREFIX, f"{PREFIX}a."): array for name, array in scene.adapter.items()}
    given()(scene)


def on_first_side(scene):
    found = dict(scene.tensors["base"])
    for name in found:
        a, b = (scene.adapter.get(f"{PREFIX}{name.removesuffix('weight')}lora_{side}.weight") for side in "AB")
        if a is not None:
            found[name] = found[name] + low_rank.delta(a, b, 8)
    return found


def integers(scene):
    """The base's weight below the adapter is quantised."""
    scene.tensors["quantised"] = {**scene.tensors["base"], Q: (scene.tensors["base"][Q] * 100).astype(np.int8)}
    shutil.rmtree("base")
    write_checkpoint("base", scene.tensors["quantised"])
    given()(scene)


def dequantised(scene):
    shutil.rmtree("base")
    write_checkpoint("base", scene.tensors["base"])


def classifier(scene):
    """An adapter with the head of a classifier, whose base is stored without."""
    scene.tensors["classifier"] = {**scene.tensors["base"], "score.weight": np.ones((3, 16), np.float32)}
    scene.adapter["base_model.model.score.modules_to_save.weight"] = np.full((3, 16), 2, np.float32)
    given(modules_to_save=["score"])(scene)


def saved_by_its_class(scene):
    shutil.rmtree("base")
    write_checkpoint("base", scene.tensors["classifier"])


def classified(scene):
    return adapted(scene) | {"score.weight": np.full((3, 16), 2, np.float32)}


def vocabulary(scene):
    scene.kept = np.ones((42, 16), np.float32)
    scene.adapter |= {f"{PREFIX}model.embed_tokens.weight": scene.kept, f"{PREFIX}lm_head.weight": scene.kept}
    given()(scene)


def grown(scene):
    tensors = dict(scene.tensors["base"])
    for name in (EMBEDDING, HEAD):
        tensors[name] = np.concatenate([tensors[name], tensors[name][:2]])
    scene.tensors["base"] = tensors
    shutil.rmtree("base")
    write_checkpoint("base", tensors)


def with_vocabulary(scene):
    return adapted(scene) | {EMBEDDING: scene.kept, HEAD: scene.kept}


def tied_head(scene):
    """A base without a head, and an adapter that changes the head alone."""
    edit("base", lambda tensors: {name: array for name, array in tensors.items() if name != HEAD})(scene)
    config("base", tie_word_embeddings=True)(scene)
    rng = np.random.default_rng(9)
    scene.adapter |= factors(rng, "lm_head", (40, 16))
    given()(scene)


def untied(scene):
    edit("base", lambda tensors: {**tensors, HEAD: tensors[EMBEDDING]})(scene)
    config("base", tie_word_embeddings=False)(scene)


def scaled(scene):
    """T5's config says by the tie too whether the decoder's output is scaled."""
    base = {"shared.weight": scene.tensors["base"][EMBEDDING], Q: scene.tensors["base"][Q]}
    shutil.rmtree("base")
    write_checkpoint("base", base, config={**CONFIG, "model_type": "t5", "vocab_size": 40, "tie_word_embeddings": True,
                                           "architectures": ["T5ForConditionalGeneration"]})  # fmt: skip
    scene.tensors["base"] = base
    scene.adapter = {f"{PREFIX}shared.weight": np.ones((40, 16), np.float32)}
    given()(scene)


def shared_copy(scene):
    """BART's encoder and decoder have modules of their own, which peft does not put the copy in."""
    scaled(scene)
    config("base", model_type="bart", architectures=["BartForConditionalGeneration"])(scene)
    scene.factors = factors(np.random.default_rng(7), MODULE, (16, 16))
    scene.adapter = scene.factors | {f"{PREFIX}shared.weight": np.ones((40, 16), np.float32)}
    given()(scene)


def given_without_copy(scene):
    scene.adapter = scene.factors
    given()(scene)


def scaled_by_peft(scene):
    scene.tensors["whole"] = scene.tensors["base"] | {"shared.weight": np.ones((40, 16), np.float32)}
    write_checkpoint("whole", scene.tensors["whole"], config=json.loads(Path("base/config.json").read_text()))
    fields(models=["./whole"])(scene)


def two(one=None, other=None):
    """Two adapters for `merge_method: lora`."""

    def act(scene):
        scene.others = factors(np.random.default_rng(7), MODULE, (16, 16), **(other or {}).pop("shape", {}))
        scene.adapter = factors(np.random.default_rng(8), MODULE, (16, 16))
        adapter("one", **(one or {}))(scene)
        adapter("two", lambda scene: scene.others, **(other or {}))(scene)
        scene.recipe = {**LORA, "models": ["./one", "./two"]}

    return act


def combined(kind, rank):
    def expected(scene):
        parts = [tuple(each[f"{PREFIX}{MODULE}.lora_{side}.weight"] for side in "AB")
                 for each in (scene.adapter, scene.others)]  # fmt: skip
        scaled_parts = [(a, b, 2.0) for a, b in parts]
        a, b = lora.combined(kind, scaled_parts, [1, 1], rank)
        rounded = [each.astype(np.float32) for each in (a, b)]
        return scene.tensors["base"] | {Q: scene.tensors["base"][Q] + low_rank.product(rounded[1], rounded[0])}

    return expected


def of_two_ranks(scene):
    two()(scene)
    scene.others = factors(np.random.default_rng(7), MODULE, (16, 16), rank=2)
    adapter("two", lambda scene: scene.others, r=2, lora_alpha=4)(scene)


def embedded(scene):
    """Adapters of the embedding, of which one saved a copy."""
    matrices = {
        f"{PREFIX}model.embed_tokens.lora_embedding_A": np.ones((4, 40), np.float32),
        f"{PREFIX}model.embed_tokens.lora_embedding_B": np.ones((16, 4), np.float32),
    }
    scene.kept = matrices
    copy = {f"{PREFIX}model.embed_tokens.base_layer.weight": scene.tensors["base"][EMBEDDING]}
    adapter("one", lambda _: matrices)(scene)
    adapter("two", lambda _: {**matrices, **copy})(scene)
    scene.recipe = {**LORA, "models": ["./one", "./two"]}


def with_values(scene):
    two()(scene)
    adapter("two", lambda scene: {**scene.others, f"{PREFIX}model.norm.weight": np.ones(16, np.float32)})(scene)


def by_values(scene):
    """The fine-tunes' sum, and the norm that one of them has."""
    found = dict(scene.tensors["base"])
    base = found[Q]
    deltas = [low_rank.delta(*(each[f"{PREFIX}{MODULE}.lora_{side}.weight"] for side in "AB"), 8)
              for each in (scene.adapter, scene.others)]  # fmt: skip
    found[Q] = base + (deltas[0] + deltas[1])
    found[NORM] = found[NORM] + (np.ones(16, np.float32) - found[NORM])
    return found


def not_finite(scene):
    two()(scene)
    scene.kept = scene.others
    a = f"{PREFIX}{MODULE}.lora_A.weight"
    bad = scene.others[a].copy()
    bad[0, 0] = np.nan
    scene.others = {**scene.others, a: bad}
    adapter("two", lambda scene: scene.others)(scene)
    scene.recipe["parameters"] = {"combination_type": "svd", "weight": 1, "svd_rank": 8}


def finite(scene):
    scene.others = scene.kept
    adapter("two", lambda scene: scene.others)(scene)


def by_svd(scene):
    """To rounding: the reference decomposes in another way."""
    a, b = ([each[f"{PREFIX}{MODULE}.lora_{side}.weight"] for each in (scene.adapter, scene.others)] for side in "AB")
    found = load_file("out/model.safetensors")
    expected = scene.tensors["base"][Q] + 2 * (b[0] @ a[0] + b[1] @ a[1])
    np.testing.assert_allclose(found[Q], expected, atol=1e-5)


def other_names(scene):
    """corp has a module of its own, which its adapter changes."""
    edit("corp", lambda tensors: tensors.update({"x.q_proj.weight": tensors[Q]}))(scene)
    changed(renamed_modules("model.layers.1.self_attn", "x"),
            base_model_name_or_path=str(Path("corp").absolute()))(scene)  # fmt: skip


def with_x(scene):
    """That other model."""
    scene.tensors["base"] = {**scene.tensors["base"], "x.q_proj.weight": scene.tensors["base"][Q]}
    write_checkpoint("other", scene.tensors["base"])
    fields(base_model="other")(scene)


EXTRACT = call("extract", "base", "corp", "out", rank=2, progress=False)

ROWS = [
    # An adapter's own files.
    Row("not LoRA", MERGED_BY_PEFT, given(peft_type="LOHA"), merged_by_peft, expected=adapted),
    *(Row(f"an adapter of prompts, {kind}", "Leave it out: it adds to the prompt and changes no weights",
          both(adapter("lora", peft_type=kind), fields(models=["./corp", "./func", "./lora"])),
          fields(models=["./corp", "./func"]))
      for kind in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")),
    Row("an adapter's name in its tensors' names",
        "Remove the adapter's name from its tensors' names (`.lora_A.default.weight`), as peft's save_pretrained does",
        changed(lambda scene: setattr(scene, "adapter", {
            name.replace(".weight", ".default.weight"): array for name, array in scene.adapter.items()})),
        as_it_was(), expected=adapted),
    Row("a pointer for an adapter's config", "Fetch it: git lfs pull, or download the model again",
        both(given(), file("lora/adapter_config.json", "version https://git-lfs.github.com/spec/v1\n")),
        given(), expected=adapted),
    Row("DoRA", MERGED_BY_PEFT, given(use_dora=True), merged_by_peft, expected=adapted),
    Row("PiSSA", "Save the adapter with peft's path_initial_model_for_weight_conversion, which makes it plain LoRA",
        given(init_lora_weights="pissa"), given(), expected=adapted),
    Row("a wild pattern", "Write out the modules' names", given(rank_pattern={"(.*)*x": 4}),
        given(rank_pattern={"model.layers.0.self_attn.q_proj": 4}), expected=adapted),
    Row("a pickled adapter", "Convert it: load it with peft, then save_pretrained",
        both(given(), move("lora/adapter_model.safetensors", "lora/adapter_model.bin")),
        both(file("lora/adapter_model.bin", None), given()), expected=adapted),
    Row("half an adapter", "Copy the whole adapter",
        both(given(), move("lora/adapter_model.safetensors", "weights")),
        move("weights", "lora/adapter_model.safetensors"), expected=adapted),
    # An adapter and the model below it.
    Row("the adapter of another model", "Write it with its own model, as model+adapter, or give the right "
        "base_model", of_other(), put_on("./corp"), expected=on("corp")),
    Row("the adapter of another model, with names of its own", "It was trained on 'HERE/corp': put it on that",
        other_names,
        put_on("./corp"), then="tensor 'x.q_proj.weight' is not in the base"),
    Row("the adapter of who knows what", "It was trained on 'acme/other': if that is another model, put it on that",
        changed(renamed_modules("model.layers.1.self_attn", "x"), base_model_name_or_path="acme/other"),
        with_x, expected=adapted),
    Row("a classifier's adapter", "Load the base with the class that the adapter was trained with (a classifier, say), "
        "save it, and put the adapter on that", classifier, saved_by_its_class, expected=classified),
    Row("ends of names", "Write full tensor names into the adapter", both(doubled, given()), whole_names,
        expected=on_first_side),
    Row("a quantised model below", "Dequantise the model", integers, dequantised, expected=adapted),
    Row("a larger vocabulary in the adapter",
        "If these are vocabularies, resize that of the base to 42 (`resize_token_embeddings`), and put the adapter "
        "on that", vocabulary, grown, expected=with_vocabulary),
    Row("a head that is the embedding",
        "The model ties its head to its embedding: untie it first (store the head, and say so in config)", tied_head,
        untied, expected=adapted),
    Row("a model that cannot untie",
        "Merge it with peft's merge_and_unload: such a model's head has no name here, or no config that unties it",
        scaled, scaled_by_peft, expected=made("whole")),
    Row("a copy of what encoder and decoder share", "Remove 'shared.weight' from it", shared_copy, given_without_copy,
        expected=adapted),
    # Adapters combined.
    Row("two ranks", "Choose combination_type cat or svd", of_two_ranks,
        fields(parameters={"combination_type": "cat", "weight": 1}), expected=combined("cat", 6)),
    Row("values in a combination", "Merge with task_arithmetic or linear, which take values", with_values,
        fields(merge_method="task_arithmetic", parameters={"weight": 1}), expected=by_values),
    Row("a copy in a combination", "Save the adapter again with save_embedding_layers=False", embedded,
        lambda scene: adapter("two", lambda scene: scene.kept)(scene), expected=unseen),
    Row("adapters that lie in two ways", "Set fan_in_fan_out in both configs to the orientation of the weight",
        both(config("base", model_type=None), two(other={"fan_in_fan_out": True})), two(),
        expected=combined("linear", 4)),
    Row("an adapter that is not finite", "Repair the adapter: values that are not finite cannot be decomposed",
        not_finite, finite, expected=by_svd),
    # An adapter extracted.
    Row("an adapter to extract from", "Give the model that it was merged into",
        both(given(), lambda scene: setattr(scene, "call", call("extract", "base", "lora", "out", progress=False))),
        lambda scene: setattr(scene, "call", EXTRACT), expected=unseen),
    Row("modules of other names", "Keep what the fine-tune changed with `sdmw pack`",
        config("base", model_type="exaone"),
        lambda scene: setattr(scene, "call", call("pack", "base", "corp", "out", progress=False)),
        call=EXTRACT, expected=unseen),
    Row("no fine-tune of this base", "Give a fine-tune of this base",
        edit("corp", lambda tensors: {n: t for n, t in tensors.items() if n != Q}),
        lambda scene: setattr(scene, "call", call("extract", "base", "func", "out", progress=False)),
        call=EXTRACT, expected=unseen),
    Row("a fine-tune of another vocabulary", "Give a fine-tune of this base, with its vocabulary",
        edit("corp", lambda tensors: {**tensors, EMBEDDING: tensors[EMBEDDING][:8]}),
        lambda scene: setattr(scene, "call", call("extract", "base", "func", "out", progress=False)),
        call=EXTRACT, expected=unseen),
    Row("a delta that is not finite", "Repair the checkpoint", put("corp", Q, 3, np.inf), put("corp", Q, 3, 1.0),
        call=EXTRACT, expected=unseen),
    Row("a change that is not finite", "Repair the checkpoint", put("corp", NORM, 3, np.inf), put("corp", NORM, 3, 1.0),
        call=EXTRACT, expected=unseen),
]  # fmt: skip
