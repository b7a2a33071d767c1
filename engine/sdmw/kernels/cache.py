"""How machine code is kept between processes. A cache is a help: without one kernels are compiled again."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache

from sdmw.kernels.folder import folder, warn


def keep(compiled: Any, function: Callable[..., Any]) -> None:
    """Give what Numba made of a function a cache on disk, where there is a safe place for one.

    Args:
        compiled: a dispatcher, or a C callback before it is compiled.
        function: the Python function in it.
    """
    place = folder()
    if place is None:
        return
    # Set for this call only: other Numba code in the process keeps its own place.
    before, config.CACHE_DIR = config.CACHE_DIR, place
    try:
        compiled._cache = _Kept(function)
    except (OSError, RuntimeError) as error:
        warn(f"{place}: {error}")
    finally:
        config.CACHE_DIR = before


class _KeptResults(CompileResultCacheImpl):  # type: ignore[misc]
    # Only the folder that was chosen here, Numba's first: its others (beside the source, say) are not checked.
    _locator_classes = CompileResultCacheImpl._locator_classes[:1]


class _Kept(FunctionCache):  # type: ignore[misc]
    """Numba's cache, but a failure is a warning: the kernel is compiled, or is not kept."""

    _impl_class = _KeptResults

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # unpickling a damaged file raises anything
            warn(f"{self.cache_path}: {self._py_func.__name__} as kept there is damaged ({type(error).__name__})")
            with suppress(Exception):
                self.flush()  # a fresh index: what is compiled now replaces what is damaged
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            warn(f"{self.cache_path}: {error!r}")
