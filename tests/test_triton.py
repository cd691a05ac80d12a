"""The Triton kernel without a GPU: what it computes, in Triton's interpreter, and what it compiles to."""

import functools
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
import rmsprop
from cases import FLOAT32, RULES, allowance, assert_within
from rmsprop import Rule, reference

torch = needs.package("torch")
triton = needs.package("triton")

import triton_worker  # noqa: E402
from rmsprop.torch import gpu, memory  # noqa: E402
from triton_worker import (  # noqa: E402
    ALL,
    BF16,
    CASES,
    EXCHANGED,
    F16,
    F32,
    F64,
    KERAS,
    MIXES,
    PLACES,
    RATES,
    SCALED,
    STATES,
    U8,
    accepts,
    gradient,
    names,
)

Array = np.ndarray[Any, Any]
Past = list[dict[str, Any]]
ENVIRONMENT = os.environ | {
    "TRITON_INTERPRET": "1",
    "PYTHONPATH": str(Path(rmsprop.__file__).parents[1]),
}
WORKERS = 2


@pytest.fixture(scope="module")
def triton_runs(tmp_path_factory: Any) -> dict[str, Any]:
    """What every case returned, and how it launched the kernel."""
    folder = tmp_path_factory.mktemp("triton")
    words = [sys.executable, "-W", "ignore::RuntimeWarning", triton_worker.__file__]
    started = [
        subprocess.Popen(
            [*words, str(folder / str(k)), str(k), str(WORKERS)],
            env=ENVIRONMENT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(WORKERS)
    ]
    try:
        for process in started:
            errors = process.communicate(timeout=240)[1]
            assert process.returncode == 0, errors[-4000:]
            assert not errors, "NumPy's warnings of overflow and NaN are silenced, others are not"
    finally:
        for process in started:
            process.kill()
            process.wait()
    found: dict[str, Any] = {}
    for k in range(WORKERS):
        found |= pickle.loads((folder / str(k)).read_bytes())
    assert set(found) == set(CASES)
    return found


@functools.cache
def by_numba(case: str) -> Any:
    return CASES[case]("numba")


def same(found: Past, expected: Past, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Parameters, state and counters of two runs."""
    assert len(found) == len(expected)
    for t, (one, two) in enumerate(zip(found, expected, strict=True)):
        for k, (ours, theirs) in enumerate(zip(one["params"], two["params"], strict=True)):
            assert ours["t"] == theirs["t"]
            for key in "pvmb":
                assert (ours[key] is None) == (theirs[key] is None), key
                if ours[key] is not None:
                    what = f"{key} of {k} at {t}"
                    np.testing.assert_allclose(ours[key], theirs[key], rtol, atol, err_msg=what)


def after(rule: Rule, before: Any, now: Any, real: Any) -> list[Any]:
    """By the reference, from what was kept before: (what was there, parameter, state) or None for each."""
    moving = [k for k, x in enumerate(now["params"]) if x["t"] > before["params"][k]["t"]]
    starts = []
    for k in moving:
        one = before["params"][k]
        zero = reference.init(rule, one["p"].astype(real))
        kept = [
            y if one[s] is None else one[s].astype(real)
            for s, y in zip("vmb", zero[1:], strict=True)
        ]
        starts.append(reference.State(int(one["t"]), *kept))
    params = [before["params"][k]["p"].astype(real) for k in moving]
    grads = [now["params"][k]["g"].astype(real) for k in moving]
    moved, states = reference.step(rule.replace(lr=now["lr"]), params, grads, starts)
    found: list[Any] = [None] * len(now["params"])
    for k, *of in zip(moved_places(moving), params, grads, starts, moved, states, strict=True):
        found[k] = of
    return found
