"""Pictures of README.md: results/page.png, a page in Chromium, and results/recording.svg, a terminal as it is used.

python benchmarks/pictures.py [--only page|recording] [--folder FOLDER]

Needs Chromium (Debian's package chromium) and the extra plots.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import processes
import synthetic

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PARAMETERS = 1.1e9
SHOWN = Path("/tmp/models")
INTERRUPTED = 2.5  # seconds after its start
CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars",
    "--virtual-time-budget=20000",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("page", "recording"))
    parser.add_argument("--folder", help="where the synthetic models lie; kept if given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if options.only != "recording":
            page(Path(temporary))
        if options.only != "page":
            recording(options.folder or temporary)


def page(folder: Path) -> None:
    """The page of the example's merge, with the store of its inputs."""
    sdmw = [sys.executable, "-m", "sdmw"]
    recipe, out, store, file = "tests/data/recipe.yaml", folder / "out", folder / "store", folder / "page.html"
    for arguments in (
        ["merge", recipe, out, "--quiet"], ["measure", recipe, store, "--quiet"],
        ["report", out, "--statistics", store, "--to", file],
    ):  # fmt: skip
        subprocess.run([*sdmw, *map(str, arguments)], cwd=ROOT, check=True)
    browser(file, folder, "--window-size=1100,1500", f"--screenshot={RESULTS / 'page.png'}")


def browser(page: Path, folder: Path, *options: str) -> str:
    """What Chromium prints of a page; its profile is kept in the folder."""
    command = [shutil.which("chromium") or "chromium", *CHROMIUM, f"--user-data-dir={folder / 'profile'}", *options]
    return subprocess.run([*command, page.as_uri()], check=True, capture_output=True, text=True).stdout


def recording(models: str) -> None:
    """A plan, a merge that is interrupted, and the same merge that goes on, 80 columns wide."""
    paths = synthetic.write_models(os.path.join(models, "decoder"), synthetic.decoder(int(PARAMETERS)), 2)
    shutil.rmtree(SHOWN, ignore_errors=True)
    SHOWN.mkdir()
    for name, path in zip(("base", "corp", "func"), paths, strict=True):
        (SHOWN / name).symlink_to(os.path.abspath(path))
    recipe = synthetic.recipe(["base", "corp", "func"])
    (SHOWN / "recipe.yaml").write_text(json.dumps(recipe))
    shown = f"bash {ROOT / 'benchmarks' / 'recording.sh'} recipe.yaml merged {INTERRUPTED}"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "xterm-256color",
    }
    processes.fill_cache(*paths)
    svg = [str(RESULTS / "recording.svg"), "-g", "80x32", "-M", "3000"]
    _, keyboard = os.openpty()  # where nobody types: at the end of an input the recording would end too
    command = [sys.executable, "-m", "termtosvg", *svg, "-c", shown]
    subprocess.run(command, cwd=SHOWN, env=environment, stdin=keyboard, stdout=subprocess.DEVNULL, check=True)
    shutil.rmtree(SHOWN)


if __name__ == "__main__":
    main()
