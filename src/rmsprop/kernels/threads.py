"""Compiling with a disk cache that may fail, and starting threads where that is safe."""

import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numba

INTERPRETED = bool(getattr(numba, "config").DISABLE_JIT)  # noqa: B009 (Numba does not export it)
"""Whether NUMBA_DISABLE_JIT is set: kernels then run as Python, for tests and debuggers."""

starting = threading.Lock()
"""Held while a parallel kernel runs: Numba's fallback scheduler aborts the process when entered twice."""

_forked = False


def _mark_forked() -> None:
    global _forked
    _forked = True


# GNU OpenMP ends the process when a forked child starts threads after its parent did.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


def threads() -> int:
    """How many threads a kernel may use: Numba's number (`numba.set_num_threads`), 1 after a fork."""
    return 1 if _forked else numba.get_num_threads()


def compiled(build: Callable[[bool], Any]) -> Any:
    """`build(True)`, which caches on disk; `build(False)` where the cache cannot be used.

    Numba raises on a cache folder that is missing, full, read-only or damaged.  None of that may stop a
    training run: the price is a second of compilation.
    """
    try:
        return build(True)
    except Exception as error:  # whatever a damaged cache file unpickles to
        function = build(False)  # raises again, from here, if it was not the cache
        warnings.warn(f"compiled code is not cached: {error}", RuntimeWarning, stacklevel=3)
        return function
