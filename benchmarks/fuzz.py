"""Coverage-guided fuzzing (atheris) of all that reads what strangers wrote: no exception but our own, nothing too lax.

python benchmarks/fuzz.py TARGET [--seconds N]

    header   a safetensors header: accepted only where the safetensors library accepts it too, with the same tensors
    index    model.safetensors.index.json: an accepted weight_map is what Python's json makes of it
    recipe   YAML: an accepted recipe, loaded again, is the same
    adapter  adapter_config.json: an accepted one has a rank and a scaling that are numbers, as Python's json reads it
    journal  never an exception; what is believed is a prefix that reads the same alone

Half of the mutations are libFuzzer's, half put, drop and swap whole tokens. Starts from corpus/TARGET/ and leaves the
smallest of the inputs that reached new code there. Prints counts and findings, adds them up in results/fuzz.json.
Needs `pip install atheris`.
"""

import argparse
import json
import mmap
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from token_mutator import mutated  # noqa: E402

RESULTS = HERE / "results" / "fuzz.json"
KEPT, LONGEST_KEPT = 32, 1024  # files of a corpus, bytes of one
LONGEST = 4096  # bytes of an input
SLOW = 1.0  # seconds for one input are a finding
COUNTERS = struct.Struct("QQQ")  # inputs, accepted, findings

JSON_TOKENS = rb"""-0 -1 0 1 1.0 1e999 true null NaN 18446744073709551616 9223372036854775807 "" "\ud800" "\ud83d\ude00"
    "F32" "F4" "F8_E4M3" "BF16" "I64" "C64" "__metadata__" "dtype" "shape" "data_offsets" "a" {"a":"b"} [] {} , : { }
    [ ] 2 3 4 8 16 01 "\u0061" "\\" "weight_map" "metadata" "total_size" "a.safetensors" "../a.safetensors" "r"
    "lora_alpha" "rank_pattern" "(a+)+" "alpha_pattern" "use_dora" "use_rslora" "peft_type" "LORA" ".*a" """.split()
YAML_TOKENS = rb"""merge_method models model base_model parameters weight k lambda normalization power granularity
    filter value dtype out_dtype nonfinite missing extra linear sdm_w task_arithmetic float32 tensor square - : ? [ ] {
    } &a *a << ! !!int !!str | > ' " # % --- ... ~ .nan .inf 1e-5 0x10 1_0 true path revision lora @ + int8_mask
    slices""".split()
BLANKS = [b" ", b"\n", b"\n  ", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc2\x85", b": ", b"- ", b", "]


def f32(start: int, **more: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [start, start + 4], **more}


def line(record: Any) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


SEEDS: dict[str, list[bytes]] = {
    "header": [
        b"\0" + json.dumps(header).encode()
        for header in (
            {"a": f32(0), "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16]}},
            {"__metadata__": {"format": "pt"}, "e": {"dtype": "F16", "shape": [0, 3], "data_offsets": [0, 0]}},
            {"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}, "u": f32(2, x=[1])},
        )
    ],
    "index": [
        json.dumps(
            {"metadata": {"total_size": 8}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
        ).encode()
    ],
    "recipe": [
        b"merge_method: sdm_w\nbase_model: ./base\nmodels:\n  - model: ./a\n    parameters: {k: [0, 20]}\n"
        b"  - model: b@c\nparameters:\n  k: [{filter: mlp, value: 20}, {value: 10}]\n"
        b"  normalization: {power: 5.5}\ndtype: float16\n",
        b"merge_method: linear\nmodels:\n- {model: a, parameters: &p {weight: 1}}\n"
        b"- {model: b, parameters: {<<: *p}}\n",
    ],
    "adapter": [
        json.dumps(
            {
                "peft_type": "LORA",
                "r": 8,
                "lora_alpha": 16,
                "use_rslora": False,
                "use_dora": False,
                "bias": "none",
                "base_model_name_or_path": "base",
                "rank_pattern": {"layers.0.q_proj": 4},
                "alpha_pattern": {".*v_proj": 3.5},
                "init_lora_weights": True,
                "modules_to_save": None,
            }
        ).encode()
    ],
    "journal": [b"\0" + line({"format": 1, "plan": "ab"}) + line([0, 1, 2**40]) + line({"done": [1.5, None, "é"]})],
}


class InFile:
    """Puts input after input into one file on a memory file system."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT)

    def write(self, content: bytes) -> None:
        """In place of what was there."""
        os.pwrite(self._fd, content, 0)
        os.ftruncate(self._fd, len(content))


def header_target(folder: Path) -> Callable[[bytes], bool]:
    from safetensors import safe_open

    from sdmw.checkpoints.formats.safetensors.header import read_header
    from sdmw.storage.access import Access

    file = InFile(folder, "m.safetensors")
    ends = re.compile(rb",\s*([0-9]{1,4})\s*\]")

    def target(data: bytes) -> bool:
        # The first byte spoils the lengths, where it is not even a letter or zero; the data are as long as announced.
        odd, raw = (data[0], data[1:]) if data else (0, b"")
        size = max(map(int, ends.findall(raw)), default=0) + {1: 1, 2: -1}.get(odd, 0)
        length = max(0, len(raw) + {3: 1, 4: -1}.get(odd, 0))
        file.write(length.to_bytes(8, "little") + raw + bytes(max(0, size)))
        ours = read_header(str(folder), "m.safetensors", Access(header_limit=2**20))
        with safe_open(file.path, "numpy") as theirs:  # raises where it refuses, and that is a finding
            names = list(theirs.keys())
            same = {name: (theirs.get_slice(name).get_dtype(), theirs.get_slice(name).get_shape()) for name in names}
        assert {t.name: (t.dtype.name, list(t.shape)) for t in ours.tensors} == same, "other tensors than safetensors"
        return True

    return target


def index_target(folder: Path) -> Callable[[bytes], bool]:
    from sdmw.checkpoints.formats.safetensors.index import INDEX, read_index

    file = InFile(folder, INDEX)

    def target(data: bytes) -> bool:
        file.write(data)
        index = read_index(str(folder))
        assert json.loads(data)["weight_map"] == index.weight_map, "another weight_map than json's"
        assert all("/" not in file and file.endswith(".safetensors") for file in index.shards)
        return True

    return target


def recipe_target(folder: Path) -> Callable[[bytes], bool]:
    from sdmw.methods import all_methods
    from sdmw.recipes.load import load

    grammars = all_methods()
    file = InFile(folder, "r.yaml")

    def target(data: bytes) -> bool:
        file.write(data)
        recipe = load(file.path, grammars)
        assert load(recipe, grammars) == recipe, "not the same when loaded again"
        return True

    return target


def adapter_target(folder: Path) -> Callable[[bytes], bool]:
    from sdmw.checkpoints.formats._adapter_config import ADAPTER_CONFIG, read_adapter_config

    file = InFile(folder, ADAPTER_CONFIG)
    module = "model.layers.0.self_attn.q_proj"

    def target(data: bytes) -> bool:
        file.write(data)
        config = read_adapter_config(str(folder))
        plain = json.loads(data)
        assert (config.rank, config.alpha) == (plain["r"], float(plain.get("lora_alpha", 8))), (
            "other numbers than json's"
        )
        assert config.rank_of(module) >= 1
        assert abs(config.scaling_of(module, config.rank)) < 1e31
        return True

    return target


def journal_target(folder: Path) -> Callable[[bytes], bool]:
    from sdmw.writing.journal import read

    file = InFile(folder, "journal")

    def target(data: bytes) -> bool:
        # Where the first byte is even, lines get their right checksums: else hardly any would be believed.
        content = data[1:]
        if data and not data[0] % 2:
            content = (
                b"\n".join(b"%08x %s" % (zlib.crc32(part[9:]), part[9:]) for part in content.split(b"\n")[:-1]) + b"\n"
            )
        file.write(content)
        records, size = read(str(file.path))
        assert 0 <= size <= len(content), "more than there is"
        assert bool(records) == bool(size), "records without bytes, or bytes without records"
        file.write(content[:size])
        assert repr(read(str(file.path))) == repr((records, size)), "the prefix alone reads differently"
        return bool(records)

    return target


TARGETS = {
    "header": header_target,
    "index": index_target,
    "recipe": recipe_target,
    "adapter": adapter_target,
    "journal": journal_target,
}


def work(name: str, seconds: int, folder: Path) -> None:
    """Fuzzes until the time is over, in a process of its own: libFuzzer ends it. Counts go into a shared file."""
    import atheris

    with atheris.instrument_imports(include=["sdmw", "ruamel"]):
        target = TARGETS[name](folder)
    from sdmw.errors import SdmwError

    with (folder / "counters").open("r+b") as file:
        counters = mmap.mmap(file.fileno(), COUNTERS.size)
    counts = [0, 0, 0]
    chance = random.Random()
    tokens = (YAML_TOKENS if name == "recipe" else JSON_TOKENS) + BLANKS
    seen: set[str] = set()

    def finding(data: bytes, said: str, key: str) -> None:
        counts[2] += 1
        if key not in seen and len(seen) < 20:
            seen.add(key)
            print(json.dumps({"input": data.hex(), "said": said}), file=findings, flush=True)

    def one(data: bytes) -> None:
        counts[0] += 1
        began = time.process_time()
        try:
            counts[1] += target(data)
        except SdmwError as error:
            try:
                str(error)
            except Exception as failed:
                finding(data, f"the message cannot be written: {failed!r}", repr(type(failed)))
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            finding(
                data,
                f"{error!r:.500} at {os.path.basename(place.filename)}:{place.lineno}",
                f"{type(error)} {place.lineno}",
            )
        if time.process_time() - began > SLOW:
            finding(data, f"takes {time.process_time() - began:.1f} s", "slow")
        counters[:] = COUNTERS.pack(*counts)

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        chance.seed(seed)
        if chance.random() < 0.5:
            return atheris.Mutate(data, longest)
        if chance.random() < 0.4:
            data = chance.choice(SEEDS[name])  # most of what libFuzzer keeps is refused early
        if name in ("header", "journal"):
            first = data[:1] if chance.random() < 0.9 else bytes([chance.randrange(6)])
            return (first + mutated(data[1:], tokens, chance))[:longest]
        return mutated(data, tokens, chance)[:longest]

    findings = (folder / "findings").open("a")
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        "-verbosity=0",
        "-timeout=60",
        "-print_final_stats=0",
    ]
    atheris.Setup(
        [sys.argv[0], *options, str(folder / "found"), str(HERE / "corpus" / name)], one, custom_mutator=mutate
    )
    atheris.Fuzz()


def keep(name: str, found: Path) -> None:
    """Fill the kept corpus up with the smallest of what reached new code."""
    corpus = HERE / "corpus" / name
    room = KEPT - len(list(corpus.iterdir()))
    for path in sorted(found.iterdir(), key=lambda path: path.stat().st_size)[
        :: max(1, len(list(found.iterdir())) // 100)
    ]:
        if room > 0 and 0 < path.stat().st_size <= LONGEST_KEPT:
            (corpus / path.name[:12]).write_bytes(path.read_bytes())
            room -= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the process that does the work
    arguments = parser.parse_args()
    name = arguments.target
    if arguments.folder:
        os.chdir(arguments.folder)
        work(name, arguments.seconds, arguments.folder)
        return
    corpus = HERE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        folder = Path(made)
        (folder / "found").mkdir()
        (folder / "findings").touch()
        (folder / "counters").write_bytes(bytes(COUNTERS.size))
        command = [sys.executable, __file__, name, "--seconds", str(arguments.seconds), "--folder", made]
        log = folder / "log"
        began = time.monotonic()
        with log.open("w") as output:
            ended = subprocess.run(command, stdout=output, stderr=output, check=False).returncode
        took = time.monotonic() - began
        inputs, accepted, count = COUNTERS.unpack((folder / "counters").read_bytes())
        findings = [json.loads(text) for text in (folder / "findings").read_text().splitlines()]
        if ended:
            findings.append({"input": "", "said": f"ended with {ended}: {log.read_text().splitlines()[-1:]}"})
        keep(name, folder / "found")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    sums = results.setdefault(name, {"inputs": 0, "accepted": 0, "findings": 0, "seconds": 0, "examples": []})
    for key, value in {"inputs": inputs, "accepted": accepted, "findings": count, "seconds": round(took)}.items():
        sums[key] += value
    sums["examples"] = [*sums["examples"], *findings][:20]
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(f"{name}: {inputs:,} inputs in {took:.0f} s, {accepted:,} accepted, {count:,} findings")
    for finding in findings:
        print(f"{finding['said']}\n    {bytes.fromhex(finding['input'])!r}")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
