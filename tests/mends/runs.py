"""Mends of what only the data, the time or an earlier run tells; of archives, reports and trees of heads."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import zarr

import sdmw
from checkpoints_on_disk import CONFIG, write_checkpoint
from mends.scene import (
    EMBEDDING,
    NORM,
    Q,
    Row,
    adapter,
    add,
    both,
    call,
    config,
    edit,
    fields,
    file,
    made,
    merge,
    options,
    put,
    unseen,
    write,
)
from reference.linear import linear
from reference.sdm_w import sdm_w
from sdmw.errors import PlanError
from sdmw.running.events import Progress

PACK = call("pack", "base", "corp", "archive", progress=False)
APPLY = call("apply", "base", "archive", "out", progress=False)
REVERT = call("revert", "corp", "archive", "out", progress=False)
AGAIN = "Copy or make the archive again"
REPAIR = "Repair the checkpoint, or let it through with the recipe field `nonfinite: pass`"
CHANGED = "The report was changed after the merge"


def packed(k=0.0):
    return lambda scene: sdmw.pack("base", "corp", "archive", k=k, progress=False, overwrite=True)


def measured(scene):
    sdmw.measure(scene.recipe, "store", progress=False, overwrite=True)


def then(act):
    """The next call is this one."""
    return lambda scene: setattr(scene, "call", act)


def verify(scene):
    """Raises what a verification finds."""
    found = sdmw.verify("out", sample=1, progress=False)
    if found.problems:
        raise PlanError(found.problems)


def merged(scene):
    scene.recipe = {**scene.recipe, "models": [os.path.abspath("corp"), os.path.abspath("func")],
                    "base_model": os.path.abspath("base")}  # fmt: skip
    sdmw.merge(scene.recipe, "out", progress=False)
    shutil.copytree("out", "kept")


def back(scene):
    shutil.rmtree("out")
    shutil.copytree("kept", "out")


def flipped(path, place=-1):
    def act(scene):
        data = bytearray(Path(path).read_bytes())
        data[place] ^= 1
        Path(path).write_bytes(data)

    return act


def edited_report(scene):
    path = Path("out/sdmw_report.json")
    report = json.loads(path.read_text())
    report["models"][0]["facts"]["weight"] = 7
    path.write_text(json.dumps(report))


def touched(scene):
    """Somebody writes to an input while it is merged, once."""

    def tell(event):
        if isinstance(event, Progress) and scene.kept is None:
            scene.kept = True
            os.utime("corp/model.safetensors")

    scene.options["progress"] = tell


def cut_while_read(scene):
    """Somebody cuts an input short while it is merged, once."""

    def tell(event):
        if scene.kept is None:
            scene.kept = True
            os.truncate("corp/model.safetensors", 2000)

    scene.options["progress"] = tell


def whole_again(scene):
    write(("corp", scene.tensors["corp"]))


class StopError(Exception):
    """Of the row's own."""


def begun(scene):
    """A merge that was stopped at its second piece; then its recipe changed."""
    count = 0

    def tell(event):
        nonlocal count
        count += isinstance(event, Progress) and event.stage == "apply"
        if count == 2:
            raise StopError

    scene.recipe = {**scene.recipe, "merge_method": "sdm_w"}
    with suppress(StopError):
        sdmw.merge(scene.recipe, "out", progress=tell, threads=1)
    fields(parameters={"k": 20})(scene)


def by_sdm_w(k):
    def expected(scene):
        base, *models = (scene.tensors[name] for name in ("base", "corp", "func"))
        return sdm_w(base, models, {name: [name] for name in base}, k=k)[0]

    return expected


def shared_embedding(scene):
    """An encoder-decoder whose decoder stores another embedding than the one that loaders take."""
    for name in ("base", "corp", "func"):
        shutil.rmtree(name)
        table = scene.tensors[name][EMBEDDING]
        tensors = {"shared.weight": table, Q: scene.tensors[name][Q]}
        if name == "func":
            tensors["decoder.embed_tokens.weight"] = table + 1
        scene.tensors[name] = tensors
        write_checkpoint(name, tensors, config={**CONFIG, "model_type": "t5", "vocab_size": 40})


def unshared(scene):
    write(("func", {n: t for n, t in scene.tensors["func"].items() if n != "decoder.embed_tokens.weight"}))


def shared_average(scene):
    corp, func = scene.tensors["corp"], scene.tensors["func"]
    return {name: linear([corp[name], func[name]], [1, 1], True) for name in corp}


def passed(scene):
    corp, func = scene.tensors["corp"], scene.tensors["func"]
    return {name: linear([corp[name], func[name]], [1, 1], True) for name in corp}


def passed_on(scene):
    floats = {name for name in scene.tensors["corp"] if name != "x"}
    corp, func = ({name: scene.tensors[model][name] for name in floats} for model in ("corp", "func"))
    found = {name: linear([corp[name], func[name]], [1, 1], True) for name in floats}
    return found | {"x": np.array([1.0, np.inf])}


def large(dtype, value):
    def act(scene):
        for name in ("corp", "func"):
            put(name, Q, 9, value)(scene)
        fields(out_dtype=dtype)(scene)

    return act


def rounded(dtype):
    return lambda scene: {name: array.astype(dtype) for name, array in passed(scene).items()}


def smaller(scene):
    """Weights of which nothing overflows."""
    models = [{"model": f"./{name}", "parameters": {"weight": 0.5}} for name in ("corp", "func")]
    fields(models=models, parameters={"normalize": False})(scene)


def halves(scene):
    corp, func = scene.tensors["corp"], scene.tensors["func"]
    return {name: linear([corp[name], func[name]], [0.5, 0.5], False) for name in corp}


def flipped_array(scene):
    array = zarr.open_array("archive/xor32", mode="r+")
    array[array.shape[0] - 1] ^= 1


def counted(scene):
    array = zarr.open_array("archive/counts", mode="r+")
    array[0] = 2**20


def in_a_removed_folder(scene):
    home = os.getcwd()
    Path("gone").mkdir()
    os.chdir("gone")
    Path(home, "gone").rmdir()
    try:
        sdmw.merge(scene.recipe, f"{home}/out", progress=False)
    finally:
        os.chdir(home)


ROWS = [
    Row("a current directory that was removed", "Change to an existing directory (cd)", then(in_a_removed_folder),
        then(merge)),
    # While the data are read.
    Row("NaN, repaired", REPAIR, put("corp", Q, 5, np.nan), put("corp", Q, 5, 0.25)),
    Row("NaN, let through", REPAIR, put("corp", Q, 5, np.nan), fields(nonfinite="pass"), expected=passed),
    Row("a delta that overflows", REPAIR,
        both(fields(merge_method="task_arithmetic"), put("base", Q, 9, 3.3e38), put("corp", Q, 9, -3.3e38)),
        both(put("corp", Q, 9, 0.0), put("base", Q, 9, 0.0)), expected=unseen),
    Row("a float64 that is not finite", REPAIR, add("x", np.array([1.0, np.inf])), fields(nonfinite="pass"),
        expected=passed_on),
    Row("an overflow of float16", "Choose a wider out_dtype or smaller weights, or let it through with "
        "`nonfinite: pass`", large("float16", 70000), fields(out_dtype="float32")),
    Row("an overflow of float32", "Choose smaller weights, or let it through with `nonfinite: pass`",
        large("float32", 3e38), smaller, expected=halves),
    Row("another embedding than the shared one", "Remove 'decoder.embed_tokens.weight' from this model",
        shared_embedding, unshared, expected=shared_average),
    Row("an input that is written to", "Run again when nothing writes to it", touched, lambda scene: None),
    Row("an input that is cut while it is read", "Leave the inputs alone and run it again", cut_while_read,
        whole_again),
    Row("an earlier run of another recipe, restored", "Restore it, or start over (--restart, resume=False)", begun,
        fields(parameters=None), expected=by_sdm_w(10)),
    Row("an earlier run of another recipe, begun anew", "Restore it, or start over (--restart, resume=False)", begun,
        options(resume=False), expected=by_sdm_w(20)),
    # A merge that is verified.
    Row("a page in place", "Choose another name, or overwrite it (--overwrite)",
        both(merge, file("page.html", "mine"), then(call("report", "out", "page.html"))), options(overwrite=True)),
    Row("a page named as a directory", "Name a file in it",
        both(merge, then(call("report", "out", "out", overwrite=True))), then(call("report", "out", "out/page.html"))),
    Row("weights that were added", "Remove it, since loaders may read it",
        both(merged, file("out/extra.safetensors", "x")), file("out/extra.safetensors", None), call=verify),
    Row("a report that was changed", CHANGED, both(merged, edited_report), back, call=verify),
    Row("a shard that was changed", "The file was changed, or the disk returned wrong data",
        both(merged, flipped("out/model.safetensors")), back, call=verify),
    Row("a config that was changed", "The file was changed after the merge", both(merged, config("out", x=1)), back,
        call=verify),
    Row("inputs that are others", "Put the inputs back",
        both(merged, lambda _: shutil.copytree("corp", "real"), put("corp", Q, 3, 9.0)),
        both(lambda _: shutil.rmtree("corp"), lambda _: shutil.copytree("real", "corp")), call=verify,
        expected=unseen),
    # Archives.
    Row("an archive that is damaged", AGAIN, both(packed(), file("archive/counts/c/0", b"")), packed(), call=APPLY,
        expected=made("corp")),
    Row("an archive whose bits are others", AGAIN, both(packed(), flipped_array), packed(), call=APPLY,
        expected=made("corp")),
    Row("an archive that is cut", AGAIN, both(packed(), file("archive/zarr.json", "{")), packed(), call=APPLY,
        expected=made("corp")),
    Row("counts that are too high", AGAIN, both(packed(), counted), packed(), call=APPLY,
        expected=made("corp")),
    # Stores.
    Row("a store that is damaged", "Measure the models again (sdmw measure)",
        both(fields(merge_method="sdm_w"), measured, file("store/zarr.json", "{")), measured,
        call=call("sweep", "store"), expected=unseen),
    Row("a method that no store is measured for", "Choose a method that merges deltas from a base, such as sdm_w, ties "
        "or task_arithmetic", fields(merge_method="linear"), fields(merge_method="task_arithmetic",
        parameters={"weight": 1}), call=measured, expected=unseen),
    Row("applied to the model", "This is its model: use `sdmw revert`", packed(), then(REVERT),
        call=call("apply", "corp", "archive", "out", progress=False), expected=made("base")),
    Row("reverted from the base", "This is its base: use `sdmw apply`", packed(), then(APPLY),
        call=call("revert", "base", "archive", "out", progress=False), expected=made("corp")),
    Row("reverted from the fine-tune", "The archive was packed with k = 50: give what `sdmw apply` made, not the "
        "fine-tune", packed(50), then(lambda scene: (
            sdmw.apply("base", "archive", "there", progress=False),
            sdmw.revert("there", "archive", "out", progress=False))), call=REVERT, expected=made("base")),
    Row("applied to another model", "Give the base that archive was packed with", packed(), then(APPLY),
        call=call("apply", "func", "archive", "out", progress=False), expected=made("corp")),
    Row("an archive as a model", "Restore the fine-tune from it first: sdmw apply BASE ARCHIVE OUT",
        both(packed(), fields(models=["./archive", "./func"])),
        lambda scene: (sdmw.apply("base", "archive", "again", progress=False),
                       fields(models=["./again", "./func"])(scene))),
    Row("a model packed with itself", "Give two different models", lambda scene: None,
        then(lambda scene: (PACK(scene), APPLY(scene))), call=call("pack", "base", "base", "archive", progress=False),
        expected=made("corp")),
    Row("an adapter packed", "Merge it into a model first, with a recipe of `merge_method: task_arithmetic`",
        adapter("lora"), then(lambda scene: (
            sdmw.merge({"merge_method": "task_arithmetic", "base_model": "base", "models": ["./lora"]}, "whole",
                       progress=False), sdmw.pack("base", "whole", "archive", progress=False))),
        call=call("pack", "base", "lora", "archive", progress=False), expected=unseen),
    Row("packed with another vocabulary",
        "Give two models of one architecture, with the same vocabulary and dtype",
        edit("corp", lambda tensors: {**tensors, NORM: tensors[NORM][:8]}),
        then(lambda scene: (sdmw.pack("base", "func", "archive", progress=False), APPLY(scene))), call=PACK,
        expected=made("func")),
    Row("a model with an adapter looked at", "Write 'corp', or merge the adapter first", adapter("lora"),
        then(call("inspect", "corp")), call=call("inspect", "corp+lora"), expected=unseen),
    # Comparisons.
    Row("a filter misspelt", "Did you mean self_attn?", lambda scene: None,
        then(call("compare", "base", "corp", filter="self_attn", progress=False)),
        call=call("compare", "base", "corp", filter="self_atn", progress=False), expected=unseen),
]  # fmt: skip
