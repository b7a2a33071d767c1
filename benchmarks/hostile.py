"""How long bombs take to be refused, and how much memory: headers, indexes, recipes, adapter configs; many shards.

python benchmarks/hostile.py

Each is read by a process of its own; seconds are of the call, memory is what its peak is above that of a process that
reads a tiny file of the kind. Prints a table, writes results/hostile.json.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import processes

READ = """
import resource, sys, time
import sdmw, sdmw.checkpoints.formats.safetensors, sdmw.checkpoints.formats.adapter, sdmw.planning.build, sdmw.methods
sdmw.methods.all_methods()
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
path = sys.argv[1]
began = time.perf_counter()
try:
    if path.endswith(".yaml"):
        said = "; ".join(map(str, sdmw.plan(path).problems))
    else:
        found = sdmw.inspect(path, header_limit="100MB" if "raised" in path else "16MiB")
        said = f"read: {len(found.tensors):,} tensors"
except sdmw.SdmwError as error:
    said = str(error)
print(time.perf_counter() - began)
print(said.splitlines()[0][:300])
"""
TINY = b'{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}'
MB = 10**6


def main() -> None:
    print(processes.machine())
    print(f"{'case':44} {'MB':>6} {'s':>6} {'+MB':>6}  said")
    rows = []
    base: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content, kind in bombs():
            path, size = written(Path(folder), name, content, kind)
            measured = processes.run([sys.executable, "-c", READ, path])
            if measured.returncode:
                raise RuntimeError(f"{name}: {measured.output[-1000:]}")
            seconds, said = measured.output.splitlines()[:2]
            more = measured.peak_rss - base.setdefault(kind, measured.peak_rss)
            said = said.replace(folder, "")
            print(f"{name:44} {size / MB:6.1f} {float(seconds):6.2f} {more / MB:6.0f}  {said[:60]}", flush=True)
            rows.append({"case": name, "size": size, "seconds": float(seconds), "more_memory": more, "said": said})
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
    processes.write_json("hostile", {"machine": processes.machine(), "rows": rows})


def bombs() -> Iterator[tuple[str, bytes, str]]:
    """Name, content and kind; the first of each kind is harmless."""
    yield "header: tiny", entries(1), "header"
    for size in (16, 90):
        more = " (limit raised)" if size > 16 else ""
        yield f"header: nested{more}", b"[" * (size * MB), "header"
        yield (
            f"header: tiny entries{more}",
            b"{" + b",".join(b'"%x":0' % n for n in range(size * MB // 10)) + b"}",
            "header",
        )
        yield (
            f"header: entries of the same name{more}",
            b"{" + b",".join([b'"a":' + TINY % (0, 1)] * (size * MB // 56)) + b"}",
            "header",
        )
        yield (
            f"header: one name of all bytes{more}",
            b'{"' + b"a" * (size * MB - 80) + b'":' + TINY % (0, 1) + b"}",
            "header",
        )
        yield (
            f"header: wide characters{more}",
            b'{"' + "😀".encode() * (size * MB // 4 - 80) + b'":' + TINY % (0, 1) + b"}",
            "header",
        )
        yield (
            f"header: bad dtypes{more}",
            b"{"
            + b",".join(b'"%x":{"dtype":"Q","shape":[],"data_offsets":[0,0]}' % n for n in range(size * MB // 60))
            + b"}",
            "header",
        )
    yield "header: 131,072 good tensors", entries(131_072), "header"
    yield "index: tiny", b'{"metadata":{},"weight_map":{"a":"model-1.safetensors"}}', "index"
    yield "index: nested", b"[" * (16 * MB), "index"
    yield (
        "index: many entries",
        b'{"weight_map":{' + b",".join(b'"%x":"a.safetensors"' % n for n in range(16 * MB // 26)) + b"}}",
        "index",
    )
    yield "index: one key of all bytes", b'{"weight_map":{"' + b"a" * (16 * MB - 60) + b'":"a.safetensors"}}', "index"
    yield "recipe: tiny", recipe(b""), "recipe"
    yield "recipe: nested", recipe(b"x: " + b"[" * 200_000), "recipe"
    yield (
        "recipe: aliases",
        recipe(
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 110))
        ),
        "recipe",
    )
    yield "recipe: many values", recipe(b"x:\n" + b"- a\n" * 60_000), "recipe"
    yield "recipe: one text of all bytes", recipe(b"x: '" + b"a" * 260_000 + b"'"), "recipe"
    yield "recipe: larger than a recipe may be", recipe(b"#" * (20 * MB)), "recipe"
    yield "adapter: tiny", b'{"peft_type":"LORA","r":1}', "adapter"
    yield "adapter: nested", b"[" * MB, "adapter"
    yield (
        "adapter: repeated groups",
        b'{"peft_type":"LORA","r":1,"rank_pattern":{' + b",".join(b'"(a+)+%d":1' % n for n in range(9_000)) + b"}}",
        "adapter",
    )
    yield "1,000 shards, 100,000 tensors, 256 descriptors", b"", "shards"


def entries(count: int) -> bytes:
    return b"{" + b",".join(b'"model.layers.%d.w":' % n + TINY % (n, n + 1) for n in range(count)) + b"}"


def recipe(more: bytes) -> bytes:
    return b"merge_method: linear\nmodels: [{model: /nowhere/a}, {model: /nowhere/b}]\n" + more


def written(folder: Path, name: str, content: bytes, kind: str) -> tuple[str, int]:
    """The path that is to be read, and how many bytes of text it has."""
    if kind == "recipe":
        (folder / "r.yaml").write_bytes(content)
        return str(folder / "r.yaml"), len(content)
    path = folder / ("raised" if "raised" in name else "model")
    path.mkdir()
    (path / "config.json").write_text("{}")
    if kind == "adapter":
        (path / "adapter_config.json").write_bytes(content)
        (path / "adapter_model.safetensors").write_bytes(len(entries(1)).to_bytes(8, "little") + entries(1) + b"1")
    elif kind == "index":
        (path / "model.safetensors.index.json").write_bytes(content)
    elif kind == "shards":
        return str(path), many_shards(path)
    else:
        with (path / "model.safetensors").open("wb") as file:
            file.write(len(content).to_bytes(8, "little") + content)
            file.truncate(8 + len(content) + content.count(b"data_offsets"))
    return str(path), len(content)


def many_shards(path: Path) -> int:
    """1,000 files of 100 tensors each; the bytes of their headers."""
    weight_map, size = {}, 0
    for shard in range(1000):
        file = f"model-{shard + 1:05}-of-01000.safetensors"
        names = [f"model.layers.{shard}.t{n}.weight" for n in range(100)]
        header = b"{" + b",".join(json.dumps(n).encode() + b":" + TINY % (i, i + 1) for i, n in enumerate(names)) + b"}"
        (path / file).write_bytes(len(header).to_bytes(8, "little") + header + bytes(100))
        weight_map |= dict.fromkeys(names, file)
        size += len(header)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return size


if __name__ == "__main__":
    main()
