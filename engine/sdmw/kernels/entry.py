"""What is known of a function in an object file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One function in an object file.

    Attributes:
        module: of kernels.
        name: in the module.
        symbol: in the object file.
        takes: types of arguments: a dtype's name, with a `:` for each axis of an array; None for a callback of C.
        gives: type of the result, or `none`.
        needs: symbols that the object file does not define.
    """

    module: str
    name: str
    symbol: str
    takes: tuple[str, ...] | None
    gives: str
    needs: tuple[str, ...]
