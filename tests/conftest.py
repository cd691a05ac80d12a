"""Settings that must stand before the frameworks load, and the profile of hypothesis."""

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import needs

# What Keras and TensorBoard load unasked, for seconds, and which aborts the process when Triton loads its own
# LLVM beside it.  The tests that need TensorFlow have processes of their own.
_loaded: dict[str, Any] = sys.modules
_loaded.setdefault("tensorflow", None)
# Two threads at least, so that the parallel path runs on a machine with one core too.
os.environ.setdefault("NUMBA_NUM_THREADS", str(max(2, os.cpu_count() or 1)))
# Keras's JAX backend runs the update as Keras writes it; its torch backend has one of its own.
os.environ.setdefault("KERAS_BACKEND", "jax")

# A shell that starts the suite in the background has it ignore Ctrl-C, which tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the first example of a kernel's test compiles it.
settings.register_profile(
    "rmsprop", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("rmsprop")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "nojit: test_nojit.py runs it with NUMBA_DISABLE_JIT=1 too")


@pytest.fixture
def x64() -> Iterator[None]:
    """JAX keeps float64 as float64."""
    with needs.package("jax").enable_x64(True):
        yield
