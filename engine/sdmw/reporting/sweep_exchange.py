"""A sweep as a table for other libraries: Arrow's C stream, which Polars, pandas, DuckDB and pyarrow read."""

from typing import TYPE_CHECKING

from sdmw.errors import MissingExtraError, Problem

if TYPE_CHECKING:
    from sdmw.reporting.sweep import Sweep


def stream_of(sweep: "Sweep", requested_schema: object) -> object:
    """A capsule of Arrow's C stream, by pyarrow.

    Args:
        sweep: whose rows are exchanged.
        requested_schema: a capsule of the schema that the reader asks for; None for none.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        found = "pyarrow is needed but not installed"
        raise MissingExtraError([Problem("Arrow exchange", "", found, "pip install 'sdmw[arrow]'")]) from None
    # A column has one type: where lambda is found it is null here, and `scale` says what it is.
    rows = [
        {name: None if name == "lambda" and isinstance(value, str) else value for name, value in row.items()}
        for row in sweep.flat()
    ]
    types = {str: pyarrow.string(), bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {
        name: pyarrow.array(values, pyarrow.float64() if name == "lambda" else types[type(values[0])])
        for name, values in columns.items()
    }
    return pyarrow.table(arrays).__arrow_c_stream__(requested_schema)
