"""A sweep in other libraries' hands: Arrow and matplotlib, and what is said where they are not installed."""

import builtins
import csv
import io

import pytest

import sdmw
from sdmw.errors import MissingExtraError, UsageError
from stores.stores_on_disk import measured, write_models


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        write_models(folder)
        return sdmw.sweep(
            measured(), k=[0, 50, 20], power=[1, 2], scope=["model", "layer"], lambda_=[2, "preserve_norm"]
        )


def test_arrow_has_what_csv_has(sweep):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table(sweep)
    lines = list(csv.DictReader(io.StringIO(sweep.to_csv())))
    assert table.column_names == list(lines[0])
    assert table.num_rows == len(lines) == len(sweep.rows)
    for name in table.column_names:
        values = [
            "preserve_norm" if name == "lambda" and value is None else str(value) for value in table[name].to_pylist()
        ]
        assert values == [line[name] for line in lines]
    types = {
        "k": "double",
        "norm": "int64",
        "scope": "string",
        "lambda": "double",
        "kept corp low": "int64",
        "exact": "bool",
    }
    assert {name: str(table.schema.field(name).type) for name in types} == types


@pytest.fixture
def axes():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    yield pyplot.subplots()[1]
    pyplot.close("all")


@pytest.mark.parametrize("y", ["weights", "kept", "magnitudes", "merged_norm", "scale"])
def test_a_plot_draws_the_rows(sweep, axes, y):
    assert sweep.plot(y, ax=axes) is axes
    by_model = y in ("weights", "kept", "magnitudes")
    assert len(axes.get_lines()) == (2 if by_model else 1) * 2 * 2 * 2
    line = axes.get_lines()[0]
    assert line.get_label() == ("corp, " if by_model else "") + "power 1, scope model, lambda 2"
    rows = [row for row in sweep.rows if (row["power"], row["scope"], row["lambda"]) == (1, "model", 2)]
    rows.sort(key=lambda row: row["k"])
    expected = [row[y][0] if by_model else row[y] for row in rows]
    if y == "kept":
        expected = [[each / row["nonzero"][0] for each in bounds] for bounds, row in zip(expected, rows, strict=True)]
    assert list(line.get_xdata()) == [0, 20, 50]
    assert list(line.get_ydata()) == pytest.approx([sum(bounds) / 2 for bounds in expected])
    assert axes.get_xlabel().startswith("k (%")


def test_a_plot_along_another_setting_leaves_out_what_has_no_place(sweep, axes):
    sweep.plot(x="lambda", ax=axes)
    assert {tuple(line.get_xdata()) for line in axes.get_lines()} == {(2.0,)}


def test_a_plot_makes_its_own_figure(sweep, axes):
    assert sweep.plot(x="power") is not axes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"y": "nonzero"}, "y: expected weights or kept or magnitudes or"), ({"x": "scope"}, "x: expected k or power or")],
)
def test_what_cannot_be_drawn(sweep, arguments, said):
    with pytest.raises(UsageError, match=said):
        sweep.plot(**arguments)


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("pyarrow", "arrow", lambda sweep: sweep.__arrow_c_stream__()),
        ("matplotlib", "plots", lambda sweep: sweep.plot()),
    ],
)
def test_what_is_not_installed_is_said(sweep, monkeypatch, package, extra, call):
    imported = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=rf"{package} is needed.*not installed\. pip install 'sdmw\[{extra}\]'"):
        call(sweep)
