"""Mends of what a recipe says."""

import numpy as np

from mends.checkpoints import words
from mends.scene import (
    EMBEDDING,
    HEAD,
    Row,
    adapted,
    adapter,
    both,
    fields,
    file,
    move,
    options,
    patched,
    text,
)
from reference.linear import linear
from reference.nearswap import nearswap
from reference.sdm_w import sdm_w
from reference.task_arithmetic import task_arithmetic
from reference.ties import ties

FINE = "merge_method: linear\nbase_model: base\nmodels: [./corp, ./func]\n"
FINE_TUNED = "merge_method: sdm_w\nbase_model: base\nmodels: [./corp, ./func]\n"


def yaml(name, mend, wrong, right=FINE, expected=None, then=""):
    """A row whose recipe is written anew."""
    more = {} if expected is None else {"expected": expected}
    return Row(name, mend, text(wrong), text(right), then=then, **more)


def by_sdm_w(**options):
    def expected(scene):
        base, *models = (scene.tensors[name] for name in ("base", "corp", "func"))
        return sdm_w(base, models, {name: [name] for name in base}, **options)[0]

    return expected


def by_task_arithmetic(*weights):
    def expected(scene):
        base, *models = (scene.tensors[name] for name in ("base", "corp", "func"))
        return {n: task_arithmetic(base[n], [m[n] for m in models], weights, False, 1) for n in base}

    return expected


def by_nearswap(scene):
    return {name: nearswap(array, scene.tensors["corp"][name], 0.5) for name, array in scene.tensors["base"].items()}


TIES = "merge_method: ties\nbase_model: base\nmodels: [./corp, ./func]\nparameters: {{weight: 1, density: {}}}\n"


def by_ties(scene):
    corp, func = scene.tensors["corp"], scene.tensors["func"]
    return {n: ties(array, [corp[n], func[n]], [1, 1], [0.5, 0.5]) for n, array in scene.tensors["base"].items()}


def weighted(one, two):
    def expected(scene):
        corp, func = scene.tensors["corp"], scene.tensors["func"]
        return {name: linear([corp[name], func[name]], [one, two], True) for name in corp}

    return expected


def with_row(scene):
    """One row more, which is the fourth of the first model."""
    found = weighted(1, 1)(scene)
    more = {name: scene.tensors["corp"][name][3:4] for name in (EMBEDDING, HEAD)}
    return {**found, **{name: np.concatenate([found[name], row]) for name, row in more.items()}}


MANY = "x: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"x{n}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for n, (old, new) in enumerate(zip("abcd", "bcde", strict=True))
)

BASE_LAYERS = "  - {model: base, layer_range: [0, 2]}\n"
SLICED = (
    f"merge_method: sdm_w\nbase_model: base\nslices:\n- sources:\n{BASE_LAYERS}"
    "  - {model: ./corp, layer_range: [0, 2]}\n  - {model: ./func, layer_range: [0, 2]}\n"
)
TOKEN = "tokenizer: {source: base, tokens: {w40: {source: M}}}\n"
MODULES = "merge_method: linear\nmodules:\n  all: {models: [./corp, ./func]}\n"
ONE = "merge_method: nearswap\nbase_model: base\nmodels: [./corp]\n"

ROWS = [
    yaml("a parameter without a default",
         "Write t under parameters; a rule without a filter applies to tensors that no filter matches",
         ONE, ONE + "parameters: {t: 0.5}\n", by_nearswap),
    yaml("a field that is misspelt", "Did you mean parameters?", FINE + "paramters: {weight: [0, 1]}\n",
         FINE + "parameters: {normalize: true}\n"),
    yaml("a field like no other", "Known: merge_method, name, models, slices, modules, base_model, parameters, dtype, "
         "out_dtype, nonfinite, missing, extra, integers, rename, tokenizer_source, tokenizer, "
         "chat_template, generation_config, random_seed",
         FINE + "zzzz: 1\n"),
    yaml("weights given beside those of layers", "Leave out scope, or weight everywhere",
         FINE_TUNED + "parameters: {weight: 0.5, normalization: {power: 2, norm: 2, scope: layer}}\n",
         FINE_TUNED + "parameters: {normalization: {power: 2, norm: 2, scope: layer}}\n",
         by_sdm_w(power=2, norm=2, by_layer=True)),
    yaml("a number beside a word", "Leave it out here, or write numbers everywhere",
         SLICED + "  parameters: {lambda: 1}\nparameters: {lambda: preserve_norm}\n",
         SLICED + "parameters: {lambda: preserve_norm}\n", by_sdm_w(preserve="model")),
    yaml("a density in percent", "Write 0.5 if it is meant in percent",
         TIES.format("50"), TIES.format("0.5"), by_ties),
    yaml("a source that is none of a list", "Write it in the list under sources",
         "merge_method: passthrough\nslices:\n- {model: ./corp, layer_range: [0, 2]}\n",
         "merge_method: passthrough\nslices:\n- sources: [{model: ./corp, layer_range: [0, 2]}]\n",
         lambda scene: scene.tensors["corp"]),
    yaml("a base that is none of the models", "base_model 'bse' is not one of them. Did you mean base?",
         "merge_method: nearswap\nbase_model: bse\nmodels: [base, ./corp]\nparameters: {t: 0.5}\n",
         "merge_method: nearswap\nbase_model: base\nmodels: [base, ./corp]\nparameters: {t: 0.5}\n", by_nearswap),
    yaml("rules for the base", "Rename the tensors of the other models",
         FINE + "rename: [{model: base, from: a, to: b}]\n", FINE + "rename: [{model: ./corp, from: a, to: b}]\n"),
    yaml("a tokenizer beside its source", "Write it as source under tokenizer",
         FINE + "tokenizer_source: base\ntokenizer: {pad_to_multiple_of: 1}\n",
         FINE + "tokenizer: {source: base, pad_to_multiple_of: 1}\n"),
    yaml("templates that nobody has", "Name a format, as chat_template: chatml", FINE + "chat_template: auto\n",
         FINE + "chat_template: chatml\n"),
    Row("a token that the model lacks",
        "Name a model that has the token, or another token of it: {kind: model_token, model: M, token: T}",
        both(words(), text(FINE + TOKEN.replace("M", "./corp"))),
        text(FINE + TOKEN.replace("M", "{kind: model_token, model: ./corp, token: w3}")), expected=with_row),
    yaml("a template that nobody has", "Write chat_template: base", FINE + "chat_template: ./corp\n",
         FINE + "chat_template: base\n"),
    yaml("settings that nobody has", "Write generation_config: base", FINE + "generation_config: ./corp\n",
         FINE + "generation_config: base\n"),
    Row("settings that are no object", "Correct the file, or write `generation_config: base` in the recipe",
        both(file("corp/generation_config.json", "[]"), text(FINE + "generation_config: ./corp\n")),
        text(FINE + "generation_config: base\n")),
    yaml("a parameter as a field", "Write it under parameters", FINE + "normalize: true\n",
         FINE + "parameters: {normalize: true}\n"),
    yaml("no models", "Write for instance models: [{model: ./corp}, {model: ./func}]", "merge_method: linear\n",
         "merge_method: linear\nmodels: [{model: ./corp}, {model: ./func}]\n"),
    yaml("no method", "Write merge_method", "base_model: base\nmodels: [./corp, ./func]\n"),
    yaml("a dtype that is not built", "Write float32, float16 or bfloat16", FINE + "out_dtype: float64\n",
         FINE + "out_dtype: float32\n"),
    yaml("a word that is misspelt", "Did you mean pass?", FINE + "nonfinite: pas\n", FINE + "nonfinite: pass\n"),
    Row("a number for a name", "Put it in quotes",
        both(move("base", "3"), text(FINE.replace("base_model: base", "base_model: 3"))),
        text(FINE.replace("base_model: base", "base_model: '3'"))),
    yaml("a number for a key", "Put it in quotes", FINE + "1: x\n", FINE + "'1': x\n", then="unknown field"),
    yaml("a method that is misspelt", "Did you mean linear?", FINE.replace("linear", "linaer")),
    yaml("a model twice", "It is also models.0", FINE.replace("./func]", "./corp]")),
    Row("two models of one name", "Rename one",
        both(move("func", "corp+x"), adapter("x"),
             fields(models=[{"model": {"model": {"path": "./corp"}, "lora": {"path": "./x"}}},
                            {"model": {"model": {"path": "./corp+./x"}}}])),
        both(move("corp+x", "func"), fields(models=["./corp", "./func"]))),
    yaml("no base", "Write base_model: task_arithmetic merges the changes to it",
         "merge_method: task_arithmetic\nmodels: [./corp, ./func]\n",
         "merge_method: task_arithmetic\nbase_model: base\nmodels: [./corp, ./func]\n", by_task_arithmetic(1, 1)),
    yaml("a parameter of all under a model", "Move it to the top level's parameters",
         FINE_TUNED.replace("./corp,", "{model: ./corp, parameters: {granularity: tensor}},"),
         FINE_TUNED + "parameters: {granularity: tensor}\n", by_sdm_w()),
    yaml("a choice under a slice", "Move it to the top level's parameters",
         SLICED + "  parameters: {granularity: tensor}\n", SLICED + "parameters: {granularity: tensor}\n", by_sdm_w()),
    yaml("a slice without the base",
         "Add it to the sources, with its layer_range: sdm_w takes the base's layers from there",
         SLICED.replace(BASE_LAYERS, ""), SLICED, by_sdm_w()),
    yaml("a source without its layers", "Write for instance layer_range: [0, 16], which are layers 0 to 15",
         SLICED.replace("base, layer_range: [0, 2]", "base"), SLICED, by_sdm_w()),
    yaml("layers from high to low", "Write [0, 2]",
         SLICED.replace("base, layer_range: [0, 2]", "base, layer_range: [2, 0]"),
         SLICED, by_sdm_w()),
    yaml("slices of unlike models",
         "Give every slice the same models, or choose a method that decides each tensor by itself",
         SLICED.replace("[0, 2]", "[0, 1]") + "- sources:\n" + BASE_LAYERS.replace("[0, 2]", "[1, 2]")
         + "  - {model: ./corp, layer_range: [1, 2]}\n",
         SLICED.replace("[0, 2]", "[0, 1]") + SLICED[SLICED.index("- sources"):].replace("[0, 2]", "[1, 2]"),
         by_sdm_w()),
    yaml("two documents without a name",
         "Give each of the others a name: its result can be used as a model by that name", FINE + "---\n" + FINE,
         f"name: x\n{FINE}---\nmerge_method: passthrough\nmodels: [x]\n"),
    yaml("two modules", "Merge them one after the other, or write one module, which is then the whole model",
         MODULES + "  more: {models: [./func]}\n", MODULES),
    yaml("numbers and rules", "A list holds only numbers, or only {filter, value}",
         FINE_TUNED + "parameters: {k: [2, {value: 2}]}\n", FINE_TUNED + "parameters: {k: [{value: 2}]}\n",
         by_sdm_w(k=2)),
    yaml("a word that varies", "granularity takes neither filter nor gradient",
         FINE_TUNED + "parameters: {granularity: [tensor, tensor]}\n",
         FINE_TUNED + "parameters: {granularity: tensor}\n", by_sdm_w()),
    yaml("the share that is kept", "Write k: 90, the percentage that is dropped",
         FINE_TUNED + "parameters: {density: 0.1}\n", FINE_TUNED + "parameters: {k: 90}\n", by_sdm_w(k=90)),
    yaml("a bomb", "Is this a recipe?", FINE + MANY),
    yaml("Latin-1", "Save the file as UTF-8", FINE.encode() + b"# \xe9\n", FINE + "# é\n"),
    yaml("a key twice", "It is also in line 3", FINE + "models: [./func]\n"),
    yaml("two merge keys", "Merge a list: <<: [*a, *b]",
         "models:\n- &a {model: ./corp}\n- &b {parameters: {weight: 1}, model: ./func}\n- {<<: *a, <<: *b}\n",
         "models:\n- &a {model: ./corp}\n- &b {parameters: {weight: 1}, model: ./func}\n- {<<: [*a, *b]}\n",
         then="merge_method: missing"),
    yaml("no colon", "Write name: value", "merge_method linear\nbase_model: base\nmodels: [./corp, ./func]\n"),
    yaml("no blank after a colon", "Write name: value",
         "merge_method:linear\nbase_model: base\nmodels: [./corp, ./func]\n"),
    yaml("no blank after a dash", "Write - name: value",
         "merge_method: linear\nmodels:\n  -model: ./corp\n  - model: ./func\n",
         "merge_method: linear\nmodels:\n  - model: ./corp\n  - model: ./func\n"),
    yaml("a method in the words of its paper", "Did you mean sdm_w?", FINE_TUNED.replace("sdm_w", "SDM-W"),
         FINE_TUNED, by_sdm_w()),
    yaml("a line too far in", "Indent the line like the rest of its block, or put text with a colon in quotes",
         FINE.replace("base_model", " base_model")),
    yaml("a tab", "Indent with spaces", FINE + "parameters:\n\tnormalize: true\n",
         FINE + "parameters:\n  normalize: true\n"),
    yaml("an odd beginning", "Put the text in quotes", FINE.replace("base_model: base", "base_model: `base`"),
         FINE.replace("base_model: base", "base_model: '`base`'"), then="'`base`': no such directory"),
    yaml("a line too far out", "Indent them alike",
         "merge_method: linear\nmodels:\n  - model: ./corp\n - model: ./func\n",
         "merge_method: linear\nmodels:\n  - model: ./corp\n  - model: ./func\n"),
    yaml("an open bracket", "Close it, or separate the items with a comma", FINE.replace("func]", "func")),
    yaml("an open quote", "Close it", FINE.replace("base_model: base", "base_model: 'base")),
    Row("no size", "Write for instance 5GB or 512MiB", options(max_shard_size="5Q"), options(max_shard_size="5GB")),
    Row("a little budget", "Set the budget to NMB or more", options(budget="1MB"),
        lambda scene: options(budget=scene.said.split("budget to ")[1].split(" ")[0])(scene)),
    Row("a rule for some tensors", "Add a rule without a filter, or leave weight out everywhere",
        both(text(FINE_TUNED + "parameters: {weight: [{filter: mlp, value: 1}], k: 0}\n")),
        text(FINE_TUNED + "parameters: {weight: [{filter: mlp, value: 1}, {value: 1}], k: 0}\n"),
        expected=by_task_arithmetic(1, 1)),
    Row("a filter within a layer", "Let filters and gradients follow the layers, or choose a finer granularity",
        text(FINE_TUNED + "parameters: {granularity: block, k: [{filter: mlp, value: 90}, {value: 90}, {filter: x, "
             "value: 1}]}\n".replace("{value: 90}", "{value: 10}")),
        text(FINE_TUNED + "parameters: {granularity: tensor, k: [{filter: mlp, value: 10}, {value: 10}]}\n"),
        expected=by_sdm_w(k=10)),
    # Where the models are.
    Row("a revision of a directory", "Write './corp'", fields(models=["./corp@main", "./func"]),
        fields(models=["./corp", "./func"])),
    *(Row(f"a page of the Hub, {page[:9]}", f"Write {name!r}, the id of that page", fields(models=[page, "./func"]),
          fields(models=[name, "./func"]), then="missing or incomplete in the Hub cache")
      for page, name in (("https://huggingface.co/org/corp", "org/corp"),
                         ("hf.co/org/corp/tree/v1.0", "org/corp@v1.0"))),
    *(Row(f"an address with a secret, {address[:8]}",
          "Leave them out: credentials come from the environment, such as AWS_ACCESS_KEY_ID",
          fields(models=[address, "./func"]), fields(models=["./corp", "./func"]))
      for address in ("https://me:secret@host/corp", "s3://bucket/corp?signature=secret")),
    Row("an address that leads upwards", "Write it as in s3://bucket/folder",
        fields(models=["s3://bucket/../corp", "./func"]), fields(models=["./corp", "./func"])),
    Row("a variable", "$ is not expanded in a recipe: write the path itself", fields(models=["$X/corp", "./func"]),
        fields(models=["./corp", "./func"])),
    Row("a GGUF file", "GGUF is not read: name the directory of its safetensors files",
        both(file("corp/m.gguf", "GGUF"), fields(models=["corp/m.gguf", "./func"])),
        fields(models=["./corp", "./func"])),
    Row("a file of a model", "Name the directory: ./corp", fields(models=["./corp/model.safetensors", "./func"]),
        fields(models=["./corp", "./func"])),
    Row("a model without its colon", "Write `model: ./corp`, with a colon and a space",
        text(FINE.replace("[./corp, ./func]", "[model ./corp, ./func]")),
        text(FINE.replace("[./corp, ./func]", "[model: ./corp, ./func]"))),
    Row("a directory that is misspelt", "Did you mean './corp'?", fields(models=["./cropp", "./func"]),
        fields(models=["./corp", "./func"])),
    Row("not in the Hub cache", "Give a directory, or allow the network with --download",
        both(patched("huggingface_hub.constants.HF_HUB_CACHE", "hub"), fields(models=["acme/none", "./func"])),
        fields(models=["./corp", "./func"])),
    Row("no home for the Hub cache", "Give a directory, or set HF_HOME to one for the cache",
        both(patched("huggingface_hub.constants.HF_HUB_CACHE", "~/hub"), fields(models=["acme/none", "./func"])),
        fields(models=["./corp", "./func"])),
    Row("an adapter where the base belongs", "Write its model as base_model: the adapter was trained on 'base'",
        both(adapter("lora", base_model_name_or_path="base"), fields(base_model="./lora")), fields(base_model="base")),
    Row("an adapter first, and no base", "Write base_model: the adapter was trained on 'base'",
        both(adapter("lora", base_model_name_or_path="base"),
             fields(base_model=None, models=["./lora"])),
        fields(base_model="base"), expected=adapted),
    Row("an adapter first, of nothing", "Write base_model",
        both(adapter("lora", base_model_name_or_path=None), fields(base_model=None, models=["./lora"])),
        fields(base_model="base"), expected=adapted),
    Row("an adapter of nothing where the base belongs", "Write its model as base_model",
        both(adapter("lora", base_model_name_or_path=None), fields(base_model="./lora")), fields(base_model="base")),
]  # fmt: skip
