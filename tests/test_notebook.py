"""What a notebook shows: text is text, bars are bars, and progress needs no widgets."""

import sys
from pathlib import Path

import pytest

from sdmw.notebook import fragment


def test_a_fragment():
    assert fragment("<b>", ["<i>"], [["<u>"]]).count("<") == fragment("b", ["i"], [["u"]]).count("<")
    assert "50.0%" in fragment("", ["a"], [[("half", 0.5)]])
    assert "100.0%" in fragment("", ["a"], [[("more", 2.0)]])
    assert "and 5 more" in fragment("", ["a"], [["x"]] * 25)


def test_a_merge_in_a_notebook(tmp_path):
    """In a real kernel: bars that end full, a table of models, and nothing on standard error."""
    nbclient = pytest.importorskip("nbclient", reason="runs notebooks; scripts/setup parity")
    nbformat = pytest.importorskip("nbformat")
    data = Path(__file__).parent / "data"
    cell = f"""
import sys; sys.path[:0] = {sys.path!r}
import sdmw
models = [{{"model": "{data}/corp"}}, {{"model": "{data}/func"}}]
sdmw.merge({{"merge_method": "sdm_w", "base_model": "{data}/base", "models": models}}, "{tmp_path}/out")
"""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    done = nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    outputs = done.cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data", "display_data", "execute_result"]
    measured, applied, report = (output.data["text/html"] for output in outputs)
    for stage, bar in (("measure", measured), ("apply", applied)):
        assert bar.startswith(f"<div>{stage} <code>{'█' * 40}</code> 7.77 MB of 7.77 MB")
    assert "merged by sdm_w" in report
