"""Mends of what a checkpoint or an output's place is."""

import json
import os
import resource
import shutil
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from checkpoints_on_disk import write_checkpoint
from mends.scene import (
    EMBEDDING,
    HEAD,
    NAMES,
    NORM,
    Q,
    Row,
    add,
    again,
    both,
    config,
    edit,
    fields,
    file,
    made,
    move,
    options,
    patched,
    put,
    unseen,
    without,
)
from reference.linear import linear
from sdmw.checkpoints.formats import read
from vocabularies_on_disk import tokenizer

WEIGHTS, INDEX = "corp/model.safetensors", "corp/model.safetensors.index.json"
AGAIN = "The file is damaged: copy or download it again"
DAMAGED_INDEX = "Index and shards come from different saves: copy or download the whole checkpoint again"
DEQUANTISE = "Give the checkpoint that was quantised, or dequantise it first"
LINKED = "Replace the link by the file, or allow such links (--follow-links, follow_links=True)"
RAISE = "If you trust the file, raise the header limit (--header-limit, header_limit=)"


def sharded(scene):
    """corp in two shards with their index."""
    tensors = scene.tensors["corp"]
    names = list(tensors)
    shutil.rmtree("corp")
    write_checkpoint("corp", tensors, shards=[names[:3], names[3:]])


def mapped(change):
    """Changes the index of corp by a function of its weight_map."""

    def act(scene):
        index = json.loads(Path(INDEX).read_text())
        change(index["weight_map"])
        Path(INDEX).write_text(json.dumps(index))

    return act


def whole(scene):
    """corp in one file, and nothing else."""
    shutil.rmtree("corp")
    write_checkpoint("corp", scene.tensors["corp"])


def header(entries):
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw)) + raw


def link_out(scene):
    os.rename(WEIGHTS, "elsewhere")
    Path(WEIGHTS).symlink_to(Path("elsewhere").absolute())


def copy_in(scene):
    os.unlink(WEIGHTS)
    shutil.copy("elsewhere", WEIGHTS)


def large(scene):
    Path("base/2_Dense").mkdir()
    Path("base/modules.json").write_text('[{"path": "2_Dense"}]')
    with open("base/2_Dense/model.safetensors", "wb") as module:
        module.truncate(64 * 2**20 + 1)


def linked_module(scene):
    Path("base/2_Dense").mkdir()
    Path("base/modules.json").write_text('[{"path": "2_Dense"}]')
    Path("elsewhere").write_text("{}")
    Path("base/2_Dense/config.json").symlink_to(Path("elsewhere").absolute())


def linked_folder(scene):
    Path("base/modules.json").write_text('[{"path": "2_Dense"}]')
    Path("elsewhere").mkdir()
    Path("base/2_Dense").symlink_to(Path("elsewhere").absolute())
    options(follow_links=True)(scene)


def only(name):
    """corp's weights under another name, and in another form for what one can tell."""
    return move(WEIGHTS, f"corp/{name}")


def average_of_renamed(scene):
    corp = {name.replace("inner.l", "model.l"): tensor for name, tensor in scene.tensors["corp"].items()}
    return {name: linear([corp[name], scene.tensors["func"][name]], [1, 1], True) for name in corp}


def seeing(tensors):
    """A model around a language model of fewer tensors than its eyes have."""
    eyes = {f"model.visual.blocks.{n}.norm.weight": np.full(3, n, np.float32) for n in range(12)}
    return {name.replace("model.", "model.language_model."): tensor for name, tensor in tensors.items()} | eyes


def average_within(scene):
    corp, func = seeing(scene.tensors["corp"]), scene.tensors["func"]
    return {name: linear([corp[name], func[name]], [1, 1], True) for name in func}


def words():
    """A tokenizer for each model, of as many words as it has rows."""

    def act(scene):
        for model in NAMES:
            rows = len(scene.tensors[model][EMBEDDING])
            said = tokenizer([f"w{number}" for number in range(rows)])
            Path(model, "tokenizer.json").write_text(json.dumps(said))

    return act


def cut(scene):
    """What is expected: of the rows of the larger vocabulary the first."""
    scene.tensors["corp"].update({name: scene.tensors["corp"][name][:40] for name in (EMBEDDING, HEAD)})


def united(scene):
    """The rows that one model alone has are its own."""
    corp, func = scene.tensors["corp"], scene.tensors["func"]
    more = {name: np.concatenate([func[name], corp[name][40:]]) for name in (EMBEDDING, HEAD)}
    return {name: linear([corp[name], {**func, **more}[name]], [1, 1], True) for name in corp}


def cast(model, name, dtype):
    return edit(model, lambda tensors: tensors.update({name: tensors[name].astype(dtype)}))


def put_rows(model, name, rows):
    return edit(model, lambda tensors: tensors.update({name: rows}))


def grown(scene):
    for name in (EMBEDDING, HEAD):
        rows = scene.tensors["corp"][name]
        put_rows("corp", name, np.concatenate([rows, rows[:2]]))(scene)


def other_shape(scene):
    scene.kept = scene.tensors["corp"][NORM]
    put_rows("corp", NORM, scene.kept[:8])(scene)


def same_shape(scene):
    put_rows("corp", NORM, scene.kept)(scene)


def with_base(name):
    """The average, with the base's values where corp has none."""

    def expected(scene):
        base, func = scene.tensors["base"], scene.tensors["func"]
        corp = {name: base[name], **scene.tensors["corp"]}
        return {n: linear([corp[n], func[n]], [1, 1], True) for n in base}

    return expected


def deeper(scene):
    """Another layer at the end of func."""
    more = {f"model.layers.2.{part}.weight": np.ones((4, 4), np.float32) for part in ("a", "b")}
    edit("func", lambda tensors: {**tensors, **more})(scene)


def shallower(scene):
    """Corp without its last layer."""
    edit("corp", lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("model.layers.1.")})(scene)


def experts(seed, count):
    """Experts of one layer, each by itself."""
    rng = np.random.default_rng(seed)
    shapes = {"gate_proj": (3, 4), "up_proj": (3, 4), "down_proj": (4, 3)}
    return {f"model.layers.1.mlp.experts.{e}.{leaf}.weight": rng.normal(size=shape).astype(np.float32)
            for e in range(count) for leaf, shape in shapes.items()}  # fmt: skip


def fused(seed, count):
    """The same in two tensors."""
    each, at = experts(seed, count), "model.layers.1.mlp.experts"
    both = [
        np.concatenate([each[f"{at}.{e}.{leaf}.weight"] for leaf in ("gate_proj", "up_proj")]) for e in range(count)
    ]
    down = [each[f"{at}.{e}.down_proj.weight"] for e in range(count)]
    return {f"{at}.gate_up_proj": np.stack(both), f"{at}.down_proj": np.stack(down)}


def give_corp_experts(count):
    return edit("corp", lambda tensors: tensors.update(fused(1, count)))


def with_experts(scene):
    """Two experts of the base and of func, three fused ones of corp."""
    for seed, name in ((0, "base"), (2, "func")):
        edit(name, lambda tensors, seed=seed: tensors.update(experts(seed, 2)))(scene)
    give_corp_experts(3)(scene)


def average_with_experts(scene):
    corp = {name: tensor for name, tensor in scene.tensors["corp"].items() if "experts." not in name} | experts(1, 2)
    return {name: linear([corp[name], scene.tensors["func"][name]], [1, 1], True) for name in scene.tensors["base"]}


def with_base_s_layer(scene):
    base, func = scene.tensors["base"], scene.tensors["func"]
    corp = {**base, **scene.tensors["corp"]}
    return {name: linear([corp[name], func[name]], [1, 1], True) for name in base}


def without_extra(scene):
    return {name: array for name, array in average_of(scene).items() if name != "more"}


def with_extra(scene):
    return average_of(scene) | {"more": scene.tensors["func"]["more"]}


def average_of(scene, *without):
    corp, func = scene.tensors["corp"], scene.tensors["func"]
    names = (name for name in scene.tensors["base"] if name not in without)
    return {name: linear([corp[name], func[name]], [1, 1], True) for name in names}


def as_in_base(name):
    """Integers are the base's where they differ."""
    return lambda scene: average_of(scene, name) | {name: scene.tensors["base"][name]}


def limited(scene):
    """No file of more than 4 KB may be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    scene.kept = (soft, hard)


def merged_in_small_shards(scene):
    scene.options |= {"max_shard_size": "4KB", "without": ["page"]}  # whose charts take 780 KB
    scene.call(scene)
    resource.setrlimit(resource.RLIMIT_FSIZE, scene.kept)
    shutil.rmtree("out")


def f8(scene):
    scene.kept = scene.tensors["corp"][NORM]
    put_rows("corp", NORM, scene.kept.astype(ml_dtypes.float8_e4m3fn))(scene)


def to_bf16(scene):
    put_rows("corp", NORM, scene.kept.astype(ml_dtypes.bfloat16))(scene)


def widened(scene):
    corp, func = dict(scene.tensors["corp"]), scene.tensors["func"]
    corp[NORM] = corp[NORM].astype(np.float32)
    return {name: linear([corp[name], func[name]], [1, 1], True) for name in corp}


ROWS = [
    # Files of a checkpoint.
    Row("a file for a checkpoint", "Give the directory that holds it, with its config.json",
        lambda scene: None, lambda scene: setattr(scene, "call", lambda _: read("corp")),
        call=lambda _: read("corp/config.json"), expected=unseen),
    Row("a shard that is gone", "Copy or download the checkpoint again",
        both(sharded, file("corp/model-00001-of-00002.safetensors", None)), sharded),
    Row("a link out of the folder, copied",
        "Copy the file into the directory, or allow such links (--follow-links, follow_links=True)", link_out,
        copy_in),
    Row("a link out of the folder, followed",
        "Copy the file into the directory, or allow such links (--follow-links, follow_links=True)", link_out,
        options(follow_links=True)),
    Row("a pointer for a tokenizer", "Fetch it: git lfs pull, or download the model again",
        file("base/tokenizer.json", "version https://git-lfs.github.com/spec/v1\n"), file("base/tokenizer.json", "{}")),
    Row("a module that is too large", "Merge a copy of the folder without it, and put it into the output afterwards",
        large, file("base/2_Dense/model.safetensors", None)),
    Row("a file of a module that is a link, put in its place", LINKED, linked_module,
        both(file("base/2_Dense/config.json", None), file("base/2_Dense/config.json", "{}"))),
    Row("a file of a module that is a link, followed", LINKED, linked_module, options(follow_links=True)),
    Row("a module that is a link", "Replace the link by the folder", linked_folder,
        both(file("base/2_Dense", None), file("base/2_Dense/config.json", "{}"))),
    Row("a pointer for a config", "Fetch it: git lfs pull, or download the model again",
        both(move("corp/config.json", "kept.json"),
             file("corp/config.json", "version https://git-lfs.github.com/spec/v1\n")),
        both(file("corp/config.json", None), move("kept.json", "corp/config.json"))),
    Row("a pointer for an index", "Fetch it: git lfs pull, or download the model again",
        both(sharded, file(INDEX, "version https://git-lfs.github.com/spec/v1\n")), sharded),
    Row("no config", "Copy it from the model's repository", move("corp/config.json", "config.json"),
        move("config.json", "corp/config.json")),
    Row("a config of quantised weights", DEQUANTISE, config("corp", quantization_config={"quant_method": "gptq"}),
        config("corp", quantization_config=None)),
    Row("an old GPTQ folder", DEQUANTISE, file("corp/quantize_config.json", "{}"),
        file("corp/quantize_config.json", None)),
    Row("MLX codes", DEQUANTISE,
        both(lambda scene: setattr(scene, "kept", scene.tensors["corp"]),
             edit("corp", lambda tensors: tensors.update({Q: np.zeros((16, 2), np.uint32), Q.replace(
                 "weight", "scales"): np.ones((16, 1), np.float16)}))),
        lambda scene: (scene.tensors.update(corp=scene.kept), again("corp")(scene))),
    Row("pickled weights", "Convert them to safetensors: load with transformers, then save_pretrained",
        only("pytorch_model.bin"), whole),
    Row("only GGUF", "Give the safetensors they were made from", only("m.gguf"), whole),
    Row("only another format", "Give the safetensors they were made from", only("m.onnx"), whole),
    Row("no weights", "Give the directory that holds config.json and the weights", file(WEIGHTS, None), whole),
    Row("weights in a folder below", "Give the directory in it that has them: 'final'",
        both(move("corp", "y"), move("y", "corp/final")),
        fields(models=["./corp/final", "./func"])),
    Row("one file and shards that differ", "Remove the set that you do not want",
        both(sharded, lambda _: save_file({"x": np.zeros(1, np.float32)}, WEIGHTS)), file(WEIGHTS, None)),
    Row("Mistral's own form", "Get the model in the format of transformers, with its config.json",
        only("consolidated.safetensors"), whole),
    Row("weights under another name", "Rename the file to model.safetensors", only("weights.safetensors"),
        move("corp/weights.safetensors", WEIGHTS)),
    Row("weights under other names", "Write the model.safetensors.index.json that belongs to them",
        both(sharded, move(INDEX, "kept.json"), move("corp/model-00001-of-00002.safetensors", "corp/a.safetensors"),
             move("corp/model-00002-of-00002.safetensors", "corp/b.safetensors")),
        lambda scene: file(INDEX, Path("kept.json").read_text().replace("model-00001-of-00002", "a").replace(
            "model-00002-of-00002", "b"))(scene)),
    Row("shards without their index", "Copy or download model.safetensors.index.json too, and every shard",
        both(sharded, move(INDEX, "kept.json")), move("kept.json", INDEX)),
    Row("a pointer for weights", "Run `git lfs pull` in the repository",
        file(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), again("corp")),
    Row("weights cut off", AGAIN, lambda _: os.truncate(WEIGHTS, 5000), again("corp")),
    Row("a header of too much", AGAIN, file(WEIGHTS, header(b'{"x": [' + b"0," * 200_000 + b"0]}")), again("corp")),
    Row("a large header", RAISE, options(header_limit=100), options(header_limit=10_000)),
    Row("a header of many values", RAISE,
        both(options(header_limit=20_000), lambda scene: save_file(
            scene.tensors["corp"], WEIGHTS, metadata={str(n): "" for n in range(1300)})),
        options(header_limit="1MB")),
    Row("too many tensors in a file", "Save it in more shards",
        both(fields(models=["./corp"]), lambda scene: save_base_apart(scene),
             patched("sdmw.checkpoints.formats.safetensors.header.MOST_TENSORS", 6)),
        sharded, expected=made("corp")),
    Row("an index that names too much", DAMAGED_INDEX,
        both(sharded, mapped(lambda names: names.update(more="model-00001-of-00002.safetensors"))), sharded),
    Row("an index that names too little", DAMAGED_INDEX, both(sharded, mapped(lambda names: names.pop(Q))), sharded),
    Row("a tensor in two shards", DAMAGED_INDEX,
        both(sharded, lambda scene: shutil.copy("corp/model-00001-of-00002.safetensors", "corp/c.safetensors"),
             mapped(lambda names: names.update({next(iter(names)): "c.safetensors"}))), sharded),
    # Tensors that do not fit together.
    Row("a dtype that is not merged", "Convert the checkpoint to BF16 first", f8, to_bf16, expected=widened),
    Row("a dtype that is merged and one that is not",
        "F32, F16 and BF16 merge with each other; other dtypes are copied, and must be the same in all models",
        lambda scene: (setattr(scene, "kept", scene.tensors["corp"][NORM]),
                       put_rows("corp", NORM, scene.kept.astype(np.int64))(scene)),
        lambda scene: put_rows("corp", NORM, scene.kept)(scene)),
    Row("float64 in one model", "Convert it to F32 first: F64 is copied, not merged",
        lambda scene: (setattr(scene, "kept", scene.tensors["corp"][NORM]),
                       put_rows("corp", NORM, scene.kept.astype(np.float64))(scene)),
        lambda scene: put_rows("corp", NORM, scene.kept)(scene)),
    Row("float64 that differs, converted",
        "F64 tensors are copied, not merged: make them equal in all inputs, or convert them to F32 in all",
        both(*(cast(model, NORM, np.float64) for model in ("base", "corp", "func"))),
        both(*(cast(model, NORM, np.float32) for model in ("base", "corp", "func")))),
    Row("float64 that differs, made equal",
        "F64 tensors are copied, not merged: make them equal in all inputs, or convert them to F32 in all",
        both(add("scale", np.array([0.5, 0.1])), put("func", "scale", 1, 9), fields(integers="base")),
        put("func", "scale", 1, 0.1), expected=as_in_base("scale")),
    Row("integers of other shapes", "Such tensors are copied, not merged. Write "
        "`integers: base` in the recipe to take the base's",
        both(add("steps", np.arange(3)), add("steps", np.arange(5), "func")),
        fields(integers="base"), expected=as_in_base("steps")),
    Row("integers of other dtypes", "Such tensors are copied, not merged. Write "
        "`integers: base` in the recipe to take the base's",
        both(add("mask", np.ones((3, 3), np.uint8)), add("mask", np.ones((3, 3), bool), "corp")),
        fields(integers="base"), expected=as_in_base("mask")),
    Row("a layer more",
        "Merge models of the same depth, or slices of them, or write `extra: drop` to leave out the additional tensors",
        deeper, fields(extra="drop"), expected=average_of),
    Row("a layer less",
        "Merge models of the same depth, or slices of them, or write `missing: base` to take the base's values",
        shallower, fields(missing="base"), expected=with_base_s_layer),
    Row("a tensor that is missing", "Write `missing: base` in the recipe to take the base's values", without("corp", Q),
        fields(missing="base"), expected=with_base(Q)),
    Row("a tensor that the base lacks, taken",
        "Write `extra: take` in the recipe to copy it into the output, or `extra: drop` to leave it out",
        add("more", np.arange(3, dtype=np.float32), "func"), fields(extra="take"), expected=with_extra),
    Row("a tensor that the base lacks, dropped",
        "Write `extra: take` in the recipe to copy it into the output, or `extra: drop` to leave it out",
        add("more", np.arange(3, dtype=np.float32), "func"), fields(extra="drop"), expected=without_extra),
    Row("experts more, in another form", "Merge models with the same experts", with_experts, give_corp_experts(2),
        expected=average_with_experts),
    Row("tensors that the base lacks",
        "Write `extra: take` in the recipe to copy them into the output, or `extra: drop` to leave them out",
        both(*(add(f"more.{n}", np.arange(3, dtype=np.float32), "func") for n in range(2))), fields(extra="drop"),
        expected=average_of),
    Row("another prefix",
        r"Write `rename: [{model: './corp', from: 'inner\.(.+)', to: 'model.\1'}]` in the recipe",
        edit("corp", lambda tensors: {n.replace("model.l", "inner.l"): t for n, t in tensors.items()}),
        fields(rename=[{"model": "./corp", "from": r"inner\.(.+)", "to": r"model.\1"}]),
        expected=average_of_renamed),
    Row("a part that the base does not have", "Write into: model",
        fields(models=[{"model": "./corp", "into": "language"}, "./func"]),
        fields(models=[{"model": "./corp", "into": "model"}, "./func"])),
    Row("a part that a model does not have", "Write part: model",
        fields(models=[{"model": "./corp", "part": "language"}, "./func"]),
        fields(models=[{"model": "./corp", "part": "model"}, "./func"])),
    Row("a part that the base does not have, of a model that is not whole", "Its layers are below 'model'",
        both(without("corp", Q), fields(models=[{"model": "./corp", "into": "language"}, "./func"], missing="base")),
        fields(models=[{"model": "./corp", "into": "model"}, "./func"]), expected=with_base(Q)),
    Row("a language model alone", "Write into: model.language_model",
        both(*(edit(model, seeing) for model in ("base", "func"))),
        fields(models=[{"model": "./corp", "into": "model.language_model"}, "./func"]), expected=average_within),
    Row("a PEFT model as a whole",
        "Load it into the PEFT model that it was saved from, call merge_and_unload, then save_pretrained",
        edit("corp", lambda tensors: {
            **{n.replace("q_proj", "q_proj.base_layer"): t for n, t in tensors.items()},
            Q.replace("weight", "lora_A.default.weight"): np.ones((4, 16), np.float32),
            Q.replace("weight", "lora_B.default.weight"): np.ones((16, 4), np.float32)}),
        edit("corp", lambda tensors: {n.replace(".base_layer", ""): t + 4 if n == Q.replace(
            "weight", "base_layer.weight") else t for n, t in tensors.items() if "lora" not in n})),
    Row("another model", "Merge fine-tunes of one base",
        edit("corp", lambda tensors: {name.replace(".", "_"): tensor for name, tensor in tensors.items()}),
        both(lambda scene: scene.tensors.update(corp=scene.tensors["func"]), again("corp"))),
    Row("another shape", "Merge fine-tunes of one base", other_shape, same_shape),
    Row("a larger vocabulary",
        "If this is a vocabulary, write tokenizer_source: union for the tokens of all models, or tokenizer_source: "
        "base for the base's alone", both(grown, words()), both(fields(tokenizer_source="base"), cut)),
    Row("a larger vocabulary, united",
        "If this is a vocabulary, write tokenizer_source: union for the tokens of all models, or tokenizer_source: "
        "base for the base's alone", both(grown, words()), fields(tokenizer_source="union"), expected=united),
    Row("tokens that no file lists",
        "Write one with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        both(words(), fields(tokenizer_source="union"), file("corp/tokenizer.model", "x"),
             file("corp/tokenizer.json", None)), words()),
    Row("integers that differ, made equal",
        "I64 tensors are copied, not merged: make them equal in all inputs, or take the base's with the recipe field "
        "`integers: base`",
        both(add("steps", np.arange(3)), put("func", "steps", 1, 9)), put("func", "steps", 1, 1),
        expected=as_in_base("steps")),
    Row("integers that differ, the base's",
        "I64 tensors are copied, not merged: make them equal in all inputs, or take the base's with the recipe field "
        "`integers: base`",
        both(add("steps", np.arange(3)), put("func", "steps", 1, 9)), fields(integers="base"),
        expected=as_in_base("steps")),
    Row("integers that differ, without a base",
        "I64 tensors are copied, not merged: make them equal in all inputs, or take the base's with the recipe field "
        "`integers: base`",
        both(fields(base_model=None), add("steps", np.arange(3)), put("func", "steps", 1, 9)), fields(integers="base"),
        expected=as_in_base("steps")),
    # The place of the output.
    Row("a file above it", "Choose another name", both(file("file"), patched("mends.scene.OUT", "file/out")),
        patched("mends.scene.OUT", "out")),
    Row("a link in place", "Name the directory itself",
        both(lambda _: os.mkdir("real"), lambda _: Path("out").symlink_to("real")),
        both(patched("mends.scene.OUT", "real"), options(overwrite=True)), expected=unseen),
    Row("a file in place", "Choose another name, or remove it", file("out"), file("out", None)),
    Row("a directory in place", "Choose another name, or overwrite it (--overwrite)",
        lambda _: os.mkdir("out"), options(overwrite=True)),
    Row("notes in place", "Choose another name, or remove it yourself",
        both(file("out/notes.txt"), options(overwrite=True)), lambda _: shutil.rmtree("out")),
    Row("something in place of the work directory", "Remove it", file(".out.sdmw"), file(".out.sdmw", None)),
    Row("a shard's header that is too long", "A smaller max_shard_size puts fewer tensors in a shard",
        both(*(add(f"more.{n}", np.full(100, n, np.float32)) for n in range(50)),
             patched("sdmw.writing.layout.LONGEST_HEADER", 5000)), options(max_shard_size="4KB")),
    Row("a limit of file sizes", "Choose a smaller max_shard_size, or raise the limit", limited,
        merged_in_small_shards),
]  # fmt: skip


def save_base_apart(scene):
    """All but corp in shards of few tensors."""
    names = list(scene.tensors["base"])
    shutil.rmtree("base")
    write_checkpoint("base", scene.tensors["base"], shards=[names[:3], names[3:6], names[6:]])
