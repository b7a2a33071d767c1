"""How fast models are read from a server, beside what that gives: nginx on loopback in the place of the Hub.

python benchmarks/remote.py [--folder FOLDER] [--parameters N] [--rounds N]

Whole processes in turn, files in the page cache, server and client on the same cores: `curl` for a file after
the other; obstore alone, which fetches ranges as the engine does and drops them; merges from the server; the same from
the files. Needs nginx and curl. Writes results/remote.json.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import processes
import synthetic

COMMIT = "0" * 40
CONFIGURATION = """
worker_processes 2; pid {folder}/pid; error_log {folder}/errors; user root;
events {{ }}
http {{
  access_log off; sendfile on; keepalive_requests 100000;
  {scratch}
  server {{
    listen 127.0.0.1:{port};
    location ~ ^/api/models/org/([^/]+) {{ return 200 '{{"id": "org/$1", "sha": "{commit}"}}'; }}
    location ~ ^/org/([^/]+)/resolve/{commit}/(.*) {{ alias {models}/$1/$2; }}
  }}
}}
"""
FETCH = """
import sys
from concurrent.futures import ThreadPoolExecutor
import obstore
from sdmw.tensors.read_ahead import BLOCK
store = obstore.store.HTTPStore.from_url(sys.argv[1], client_options={"allow_http": True})
def fetch(asked):
    obstore.get_range(store, asked[0], start=asked[1], end=asked[2])
def ranges():
    for name in sys.argv[2:]:
        size = obstore.head(store, name)["size"]
        for start in range(0, size, BLOCK):
            yield name, start, min(start + BLOCK, size)
with ThreadPoolExecutor(8) as threads:
    list(threads.map(fetch, ranges()))
"""
MERGE = "import json, sys, sdmw; sdmw.merge(json.loads(sys.argv[1]), sys.argv[2], progress=False, overwrite=True)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    parser.add_argument("--parameters", type=float, default=1.1e9)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(processes.machine())
    with tempfile.TemporaryDirectory() as temporary:
        os.chmod(temporary, 0o755)
        shapes = synthetic.decoder(int(options.parameters))
        models = os.path.join(options.folder or temporary, "decoder")
        paths = synthetic.write_models(models, shapes, 2)
        with served(models, temporary) as endpoint:
            rows = measure(paths, endpoint, os.path.join(temporary, "out"), options.rounds)
    processes.write_json("remote", {"machine": processes.machine(), "rows": rows})


@contextmanager
def served(models: str, folder: str) -> Iterator[str]:
    """The address of nginx, which has the models' folders as those of `org` on the Hub."""
    port = processes.free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    scratch = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    text = CONFIGURATION.format(
        folder=folder, scratch=scratch, port=port, commit=COMMIT, models=os.path.abspath(models)
    )
    Path(folder, "nginx.conf").write_text(text)
    server = subprocess.Popen([shutil.which("nginx") or "nginx", "-c", f"{folder}/nginx.conf", "-g", "daemon off;"])
    time.sleep(1)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def measure(paths: list[str], endpoint: str, out: str, rounds: int) -> list[dict[str, Any]]:
    """Seconds of each way in turn, and what it reads a second; the first round is not kept."""
    names = [os.path.basename(path) for path in paths]
    nbytes = sum(each.stat().st_size for path in paths for each in Path(path).glob("*.safetensors"))
    files = [f"{name}/resolve/{COMMIT}/{each.name}" for name, path in zip(names, paths, strict=True)
             for each in sorted(Path(path).glob("*.safetensors"))]  # fmt: skip
    there = [f"hf://org/{name}" for name in names]
    ways = {
        "curl": (["curl", "--silent", "--fail", *(part for each in files for part in (
            "--output", "/dev/null", f"{endpoint}/org/{each}"))], 1),
        "obstore alone": ([sys.executable, "-c", FETCH, f"{endpoint}/org", *files], 1),
        "linear, from the server": (merging(there, "linear", out), 1),
        "linear, from files": (merging(paths, "linear", out), 1),
        "sdm_w, from the server": (merging(there, "sdm_w", out), 2),
        "sdm_w, from files": (merging(paths, "sdm_w", out), 2),
    }  # fmt: skip
    taken: dict[str, list[processes.Measured]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (command, _) in ways.items():
            found = processes.run(command, environment={"HF_ENDPOINT": endpoint, "HF_TOKEN": ""})
            if found.returncode:
                raise RuntimeError(f"{name}: {found.output[-2000:]}")
            if number:
                taken[name].append(found)
    rows = []
    for name, (_, passes) in ways.items():
        wall, cpu = (statistics.median(getattr(each, what) for each in taken[name]) for what in ("wall_s", "cpu_s"))
        rows.append({"way": name, "wall_s": wall, "cpu_s": cpu, "bytes": passes * nbytes,
                     "peak_rss": max(each.peak_rss for each in taken[name])})  # fmt: skip
        print(f"{name:26} {wall:7.2f} s {cpu:7.2f} CPU s {passes * nbytes / wall / 1e9:6.2f} GB/s "
              f"{rows[-1]['peak_rss'] / 1e6:6.0f} MB")  # fmt: skip
    return rows


def merging(paths: list[str], method: str, out: str) -> list[str]:
    """The command of a merge that reads all models: `linear` once, `sdm_w` twice."""
    linear = {"merge_method": "linear", "models": [{"model": path, "parameters": {"weight": 1.0}} for path in paths]}
    recipe = linear if method == "linear" else synthetic.recipe(paths)
    return [sys.executable, "-c", MERGE, json.dumps(recipe), out]


if __name__ == "__main__":
    main()
