"""Pages that people look at: what they say is what was found, names are only text, and nothing is fetched."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import sdmw
from checkpoints_on_disk import fine_tuned, write_checkpoint
from reading_pages import Page, fields_of
from recipes_of_all_methods import RECIPES
from sdmw.errors import CheckpointError, OutputError, PlanError, UsageError
from sdmw.reporting.pages import rendering
from sdmw.reporting.pages.page import Column
from sdmw.reporting.pages.places import Place, places_of

NAME = "sdmw_report.html"
HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>{{7*7}}"


@pytest.fixture(scope="module")
def pages(merges):
    return {name: Page((path / NAME).read_text()) for name, path in merges.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_page_is_whole_and_fetches_nothing(name, pages, folder):
    page = pages[name]
    assert len(page.scripts) in (1, 3)  # drawing, and what it needs to draw
    assert (len(page.scripts) == 3) == bool(page.charts)
    assert all(address == "data:," or address.startswith("#") for address in page.addresses)
    assert "url(" not in page.style
    assert "@import" not in page.style
    assert not page.handlers
    assert str(folder) not in page.text
    for table, spec in page.charts:
        fields, rows = page.tables[table]
        assert rows
        assert set(fields_of(spec)) <= set(fields)


def test_a_template_that_a_wheel_brings_makes_the_same_page(merges, tmp_path, monkeypatch):
    path = merges["sdm_w"]
    rendering.compile_into(tmp_path)
    monkeypatch.setattr(rendering, "PLACE", tmp_path)
    rendering._environment.cache_clear()
    try:
        code = rendering._environment().get_template(rendering.TEMPLATE).root_render_func.__code__
        assert code.co_filename.startswith(str(tmp_path))
        assert Path(sdmw.report(path, tmp_path / "page.html")).read_text() == (path / NAME).read_text()
    finally:
        rendering._environment.cache_clear()


@pytest.mark.parametrize("name", RECIPES)
def test_a_page_tells_of_every_model_what_the_report_does(name, pages, merges):
    report = sdmw.Report.load(merges[name])
    page = pages[name]
    assert page.column("models", "model") == [model.name for model in report.models]
    for model, *cells in page.tables["models"][1]:
        facts = next(each.facts for each in report.models if each.name == model)
        for field, cell in zip(page.tables["models"][0][1:], cells, strict=True):
            fact = facts.get(field)
            if isinstance(fact, float):
                number = float(cell.removesuffix("%")) / (100 if cell.endswith("%") else 1)
                assert number == pytest.approx(fact, rel=1e-4, abs=6e-5 if cell.endswith("%") else 0)
            else:
                assert cell == ("–" if fact is None else f"{fact:,}")
    for warning in (*report.warnings, *report.notes):
        assert warning in page.text
    assert [int(size.replace(",", "")) for size in page.column("inputs", "size")] == [x.size for x in report.inputs]


def test_layers_of_sdm_w(pages, merges):
    report = sdmw.Report.load(merges["sdm_w"])
    layers = {layer.name: layer.facts for layer in report.layers}
    fields, rows = pages["sdm_w"].tables["layers"]
    assert len(rows) == len(layers) * len(report.models)
    told = {(model, depth, component): shown for model, depth, component, *shown in rows}
    name = "model.layers.1.mlp.up_proj.weight"
    for number, model in enumerate(("corp", "func")):
        facts = layers[name][number]
        shown = dict(zip(fields[3:], told[model, "1", "mlp.up_proj"], strict=True))
        assert shown["threshold"] == f"{facts['threshold']:.5g}"
        assert shown["kept_share"] == f"{facts['kept'] / facts['nonzero']:.2%}"
        assert shown["kept"] == f"{facts['kept']:,}"


def test_what_the_run_took_over_time(merges):
    for path in merges.values():
        report = sdmw.Report.load(path)
        assert 0 < len(report.run.memory) <= 200
        times = [seconds for seconds, _ in report.run.memory]
        assert times == sorted(times)
        assert times[-1] <= report.run.wall_s
        assert max(size for _, size in report.run.memory) <= report.run.peak_rss
        assert report.run.stages.keys() <= {"measure", "apply"}


def test_names_are_only_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    base = {f"{HOSTILE}.{n}.weight": rng.standard_normal((4, 4)).astype(np.float32) for n in range(3)}
    write_checkpoint(tmp_path / "base", base)
    name = HOSTILE.replace("/", "|")
    write_checkpoint(tmp_path / name, fine_tuned(rng, base))
    recipe = {"merge_method": "sdm_w", "base_model": "base", "models": [{"model": name}]}
    sdmw.merge(recipe, "out", progress=False)
    sdmw.report(sdmw.compare("base", name, progress=False), "compared.html")
    for page in (Page(Path("out", NAME).read_text()), Page(Path("compared.html").read_text())):
        assert not page.handlers
        assert "img" not in page.tags
        assert len(page.scripts) == 3
        assert not any("alert(" in script for script in page.scripts)
        assert "<img src=x onerror=alert(1)>" in page.text
        assert "{{7*7}}" in page.text


def test_without_a_page(tmp_path, merges, folder, monkeypatch):
    monkeypatch.chdir(folder)
    sdmw.merge(RECIPES["sdm_w"], tmp_path / "out", progress=False, without=["page"])
    assert not (tmp_path / "out" / NAME).exists()
    assert not sdmw.verify(tmp_path / "out", progress=False).problems
    assert sdmw.report(tmp_path / "out", tmp_path / "page.html") == str(tmp_path / "page.html")
    page, own = Page((tmp_path / "page.html").read_text()), Page((merges["sdm_w"] / NAME).read_text())
    assert page.tables["layers"] == own.tables["layers"]
    assert json.dumps(RECIPES["sdm_w"]["base_model"]).strip('"') in page.text


def test_a_merge_is_not_lost_with_its_page(tmp_path, folder, monkeypatch):
    def short_of_memory(page):
        raise MemoryError

    monkeypatch.chdir(folder)
    monkeypatch.setattr("sdmw.reporting.pages.rendering.html_of", short_of_memory)
    warnings = sdmw.merge(RECIPES["linear"], tmp_path / "out", progress=False).warnings
    assert sum(each.startswith(f"no {NAME} was written (MemoryError") for each in warnings) == 1
    assert not (tmp_path / "out" / NAME).exists()
    assert not sdmw.verify(tmp_path / "out", progress=False).problems
    monkeypatch.undo()
    sdmw.report(tmp_path / "out", tmp_path / "page.html")


def test_a_page_may_be_replaced_or_lost(merges):
    out = merges["linear"]
    sdmw.report(out, out / NAME, overwrite=True)
    assert not sdmw.verify(out, progress=False).problems
    text = (out / NAME).read_text()
    (out / NAME).unlink()
    assert not sdmw.verify(out, progress=False).problems
    (out / NAME).write_text(text)


def test_what_has_no_page(tmp_path, merges, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").write_text("mine")
    with pytest.raises(UsageError, match="expected a new file"):
        sdmw.report(merges["linear"], "there.html")
    assert (tmp_path / "there.html").read_text() == "mine"
    with pytest.raises(UsageError, match="a directory"):
        sdmw.report(merges["linear"], tmp_path, overwrite=True)
    with pytest.raises(CheckpointError, match=r"sdmw_report\.json"):
        sdmw.report(tmp_path, "page.html")
    with pytest.raises(OutputError, match="No such file"):
        sdmw.report(merges["linear"], "nowhere/page.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.html"]


def test_a_page_of_a_comparison(folder, tmp_path):
    found = sdmw.compare(folder / "base", folder / "corp", progress=False)
    page = Page(Path(sdmw.report(found, tmp_path / "page.html")).read_text())
    shares = dict(zip(page.column("layers", "component"), page.column("layers", "changed_share"), strict=False))
    row = next(row for row in found.rows if row.name == "model.embed_tokens.weight")
    assert shares["model.embed_tokens"] == f"{row.change.changed / row.change.elements:.2%}"
    counts = [float(share.removesuffix("%")) for share in page.column("changes", "share")]
    assert sum(counts) == pytest.approx(100, abs=0.1 * len(counts))


def test_places():
    names = ["model.embed.weight", "model.layers.0.a.weight", "model.layers.0.a.bias", "model.layers.12.b.weight"]
    assert places_of(names) == {
        names[0]: Place(None, "model.embed"),
        names[1]: Place(0, "a"),
        names[2]: Place(0, "a.bias"),
        names[3]: Place(12, "b"),
    }
    alike = ["x.0.weight", "x.0.weight.weight"]
    assert len({place.component for place in places_of(alike).values()}) == 2
    experts = [f"model.layers.{n}.mlp.experts.{e}.up.weight" for n in range(7) for e in range(10)]
    assert set(places_of(experts, 70).values()) == {
        Place(n, f"mlp.experts.{e}.up") for n in range(7) for e in range(10)
    }
    assert set(places_of(experts, 69).values()) == {Place(n, "mlp.experts.*.up", 10) for n in range(7)}
    assert set(places_of(experts, 6).values()) == {Place(None, "model.layers.mlp.experts.*.up", 70)}
    assert set(places_of([f"w{n}" for n in range(70)], 69).values()) == {Place(None, "*", 70)}


@pytest.mark.parametrize(
    ("kind", "cell", "shown"),
    [
        ("text", "a\nb", "a\\nb"),
        ("number", 0.000123456, "0.00012346"),
        ("number", float("nan"), "nan"),
        ("count", 1234567, "1,234,567"),
        ("share", 0.12345, "12.35%"),
        ("share", None, "–"),
    ],
)
def test_cells(kind, cell, shown):
    assert Column("a", "a", kind).shown(cell) == shown


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "store"
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        return sdmw.measure(RECIPES["sdm_w"], path, progress=False)


def test_a_page_of_a_store(store, tmp_path):
    page = Page(Path(sdmw.report(store, tmp_path / "page.html")).read_text())
    assert Path(sdmw.report(store.path, tmp_path / "again.html")).read_text() == (tmp_path / "page.html").read_text()
    counts = [sum(store.histogram(tensor.name, model).sum() for tensor in store.tensors) for model in store.models]
    assert page.column("models", "nonzero") == [f"{count:,}" for count in counts]
    swept = sdmw.sweep(store, k=50)
    shown = [row for row in page.tables["weights_by_k"][1] if row[1] == "50"]
    assert [float(weight) for *_, weight in shown] == pytest.approx(
        [sum(bounds) / 2 for bounds in swept.rows[0]["weights"]], rel=1e-4
    )
    for table, spec in page.charts:
        assert set(fields_of(spec)) <= set(page.tables[table][0])


def test_a_merge_with_the_store_of_its_inputs(store, merges, tmp_path):
    page = Page(Path(sdmw.report(merges["sdm_w"], tmp_path / "page.html", statistics=store)).read_text())
    report = sdmw.Report.load(merges["sdm_w"])
    own = [np.log2(np.median([layer.facts[n]["threshold"] for layer in report.layers])) for n in range(2)]
    cuts = dict(zip(page.column("powers", "model"), page.column("powers", "cut"), strict=True))
    assert [float(cuts[model]) for model in ("corp", "func")] == pytest.approx(own, rel=1e-4)
    assert page.column("agreement", "model") == ["corp", "func"]


def test_a_merge_with_the_store_of_others(store, merges, tmp_path):
    for name in ("missing", "arcee_fusion"):
        with pytest.raises(UsageError, match="statistics: expected a store of "):
            sdmw.report(merges[name], tmp_path / "page.html", statistics=store)
    with pytest.raises(
        UsageError, match="statistics: expected a merge, which statistics describe further, found a store"
    ):
        sdmw.report(store, tmp_path / "page.html", statistics=store)
    assert not list(tmp_path.iterdir())


def test_a_merge_with_the_store_of_files_that_were_replaced(tmp_path, monkeypatch):
    """They count alike: an adapter with another scale, a model that another took the name of."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    base = {"w": rng.standard_normal((40, 30), np.float32)}
    for name in ("base", "corp", "func"):
        write_checkpoint(name, base if name == "base" else fine_tuned(rng, base))
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": ["corp", "func"]}
    sdmw.merge(recipe, "out", progress=False)
    store = sdmw.measure(recipe, "store", progress=False)
    assert sdmw.report("out", "page.html", statistics=store) == "page.html"
    times = {name: Path(name, "model.safetensors").stat() for name in ("corp", "func")}
    for old, new in (("corp", "once"), ("func", "corp"), ("once", "func")):
        Path(old).rename(new)
    for name, time in times.items():
        os.utime(Path(name, "model.safetensors"), ns=(time.st_atime_ns, time.st_mtime_ns))
    other = sdmw.measure(recipe, "other", progress=False)
    said = "statistics: expected a store of the files that were merged, found those of other files: 'corp', 'func'"
    with pytest.raises(UsageError, match=said):
        sdmw.report("out", "page.html", statistics=other, overwrite=True)
    with pytest.raises(PlanError, match="the statistics of these files, found those of other files: 'corp', 'func'"):
        sdmw.merge({**recipe, "merge_method": "sdm_w"}, "never", progress=False, statistics=store)


def test_slices_of_some_of_the_models(folder, tmp_path, monkeypatch):
    """A report does not say which models a slice has: the page does not make it up."""
    monkeypatch.chdir(folder)

    def of(models, start):
        return {"sources": [{"model": model, "layer_range": [start, start + 1]} for model in models]}

    recipe = {"merge_method": "slerp", "base_model": "base", "parameters": {"t": 0.3},
              "slices": [of(["base", "corp"], 0), of(["base", "same"], 1)]}  # fmt: skip
    sdmw.merge(recipe, tmp_path / "out", progress=False)
    page = Page((tmp_path / "out" / NAME).read_text())
    report = sdmw.Report.load(tmp_path / "out")
    names = {model.name for model in report.models}
    told = {layer.name: len(layer.facts) for layer in report.layers}
    expected = set()
    for count in told.values():
        expected |= names if count == len(names) else {f"model {n} of its slice" for n in range(1, count + 1)}
    assert set(page.column("layers", "model")) == expected
