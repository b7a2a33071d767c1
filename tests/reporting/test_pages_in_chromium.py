"""Pages as Chromium shows them: no error, no request, every chart drawn, in light and dark, wide and narrow."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, write_checkpoint
from recipes_of_all_methods import RECIPES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian's package chromium)"),
    pytest.mark.skipif(os.environ.get("SDMW_FAULTS") != "all", reason="seconds a page; scripts/test --all"),
]
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars",
    "--virtual-time-budget=20000", "--enable-logging=stderr",
)  # fmt: skip


def shown(page, tmp_path, *options):
    """What Chromium prints of a page. What the page asked for, against its own rules, would be an error."""
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


@pytest.fixture(scope="module")
def pages(merges, folder, tmp_path_factory):
    """A page of every kind; one of a merge with all it can tell."""
    found = {name: path / "sdmw_report.html" for name, path in merges.items()}
    out = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        store = sdmw.measure(RECIPES["sdm_w"], out / "store", progress=False)
        found["store"] = Path(sdmw.report(store, out / "store.html"))
        found["all"] = Path(sdmw.report(merges["sdm_w"], out / "all.html", statistics=store))
        compared = sdmw.compare("base", "corp", progress=False)
        found["comparison"] = Path(sdmw.report(compared, out / "compared.html"))
    return found


KINDS = ("model", "linear", "ties", "model_stock", "arcee_fusion", "lora to an adapter", "store", "all", "comparison")


@pytest.mark.parametrize("name", KINDS)
def test_every_chart_is_drawn(name, pages, tmp_path):
    seen = shown(pages[name], tmp_path, "--dump-dom")
    charts = seen.count('<figure class="chart')
    assert ("data-drawn" in seen) == bool(charts)
    drawings = re.findall(r'<div class="drawing"[^>]*>(.*?)</figure>', seen, re.DOTALL)
    assert len(drawings) == charts
    for drawing in drawings:
        assert re.search(r"<(svg|canvas)[ >]", drawing)
        assert "NaN" not in drawing


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True])
def test_screenshots(width, dark, pages, tmp_path):
    """Something is seen, in the colours of the scheme. SDMW_SCREENSHOTS keeps the pictures, to be looked at."""
    folder = Path(os.environ.get("SDMW_SCREENSHOTS", tmp_path))
    path = folder / f"page {width} {'dark' if dark else 'light'}.png"
    scheme = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0") if dark else ()
    shown(pages["all"], tmp_path, *scheme, f"--window-size={width},5000", f"--screenshot={path}")
    pixels = read_png(path)
    assert pixels.shape[:2] == (5000, width)
    ground = pixels[2, 2]
    assert (ground.max() < 40) == dark
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2])[::97], axis=0)) > 30


def read_png(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_a_large_model_is_drawn(tmp_path):
    """500 blocks: the page is small enough to be sent, and all of its maps are drawn."""
    rng = np.random.default_rng(1)
    base = {
        f"model.layers.{block}.{name}.weight": rng.standard_normal((2, 2)).astype(np.float32)
        for block in range(500)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm")
    }
    write_checkpoint(tmp_path / "base", base)
    for name in ("corp", "func"):
        write_checkpoint(tmp_path / name, fine_tuned(rng, base))
    recipe = {"merge_method": "sdm_w", "base_model": str(tmp_path / "base"),
              "models": [{"model": str(tmp_path / name)} for name in ("corp", "func")]}  # fmt: skip
    sdmw.merge(recipe, tmp_path / "out", progress=False)
    page = tmp_path / "out" / "sdmw_report.html"
    assert page.stat().st_size < 5e6
    seen = shown(page, tmp_path, "--dump-dom")
    assert seen.count("<canvas") >= 2


def test_a_request_would_be_seen(pages, tmp_path):
    """The test of the tests: a page that fetches is refused, and that is an error."""
    page = tmp_path / "page.html"
    asks = '<script>fetch("http://localhost:9/");</script><img src="http://localhost:9/x.png">'
    page.write_text(pages["linear"].read_text().replace("</body>", f"{asks}</body>"))
    with pytest.raises(AssertionError, match="violates the following"):
        shown(page, tmp_path, "--dump-dom")


def test_tables_sort(pages, tmp_path):
    """A click on a header sorts by it, and another the other way round."""
    page = tmp_path / "page.html"
    clicks = """<script>
      const table = document.getElementById("layers");
      const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.dataset.field === "threshold");
      const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);
      table.tHead.rows[0].cells[at].querySelector("button").click();
      const falling = cells();
      table.tHead.rows[0].cells[at].querySelector("button").click();
      document.title = JSON.stringify([falling, cells()]);
    </script>"""
    page.write_text(pages["sdm_w"].read_text().replace("</body>", f"{clicks}</body>"))
    seen = shown(page, tmp_path, "--dump-dom")
    falling, rising = json.loads(re.search(r"<title>(.*?)</title>", seen)[1])
    assert [float(each) for each in falling] == sorted(map(float, falling), reverse=True)
    assert [float(each) for each in rising] == sorted(map(float, rising))
    assert len(set(falling)) > 3
