"""Optimizer paths over the Rosenbrock surface: steps a second, against NumPy and Python.

`rmsprop.simulate.path` follows one start or thousands, compiled, and records positions, losses, averages
and effective rates.  Beside it run the same steps as a NumPy loop over all paths at once and as a plain
Python loop over one path, which record positions and losses only.  No target is set.

    python benchmarks/simulate.py [--quick] [--json [FILE]]
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from peers import Array
from rmsprop import Rule
from rmsprop.simulate import path
from rmsprop.surfaces import SURFACES
from tables import Report, main
from timing import Times

SURFACE, RULE = SURFACES["rosenbrock"], Rule(lr=1e-3)
OURS, NUMPY, PYTHON = "ours: simulate.path", "NumPy loop", "Python loop"


def measure(report: Report) -> None:
    for n, steps in ((1, 2_000), (4096, 100)) if report.quick else ((1, 20_000), (4096, 500)):
        starts = np.random.default_rng(0).uniform(-2, 2, (n, 2))
        verify(starts[:5])
        runs: dict[str, Callable[[], Any]] = {
            OURS: lambda starts=starts, steps=steps: path(SURFACE, RULE, starts, steps),
            NUMPY: lambda starts=starts, steps=steps: numpy_path(starts, steps),
        }
        if n == 1:
            runs[PYTHON] = lambda starts=starts, steps=steps: python_path(starts[0], steps)
        times = report.race(runs, 11)
        each = Times({name: t / (n * steps) for name, t in times.seconds.items()}, times.others)
        rates = {
            name: f"{1e-6 / np.median(t):.3g} million steps a second"
            for name, t in each.seconds.items()
        }
        report.table(
            f"{n:,} path{'s' * (n > 1)} of {steps:,} steps; time a step", each, OURS, notes=rates
        )


def numpy_path(starts: Array, steps: int) -> tuple[Array, Array]:
    p, v = starts.copy(), np.zeros_like(starts)
    positions, losses = np.empty((steps + 1, *p.shape)), np.empty((steps + 1, len(p)))
    g = np.empty_like(p)
    for t in range(steps + 1):
        x, y = p[:, 0], p[:, 1]
        rise = y - x * x
        positions[t], losses[t] = p, (1 - x) ** 2 + 100 * rise**2
        g[:, 0], g[:, 1] = -2 * (1 - x) - 400 * x * rise, 200 * rise
        v = RULE.decay * v + (1 - RULE.decay) * g**2
        p = p - RULE.lr * g / (np.sqrt(v) + RULE.eps)
    return positions, losses


def python_path(start: Array, steps: int) -> tuple[list[tuple[float, float]], list[float]]:
    (x, y), vx, vy = start.tolist(), 0.0, 0.0
    rho, lr, eps = RULE.decay, RULE.lr, RULE.eps
    positions, losses = [], []
    for _ in range(steps + 1):
        rise = y - x * x
        positions.append((x, y))
        losses.append((1 - x) ** 2 + 100 * rise**2)
        gx, gy = -2 * (1 - x) - 400 * x * rise, 200 * rise
        vx = rho * vx + (1 - rho) * gx**2
        vy = rho * vy + (1 - rho) * gy**2
        x -= lr * gx / (vx**0.5 + eps)
        y -= lr * gy / (vy**0.5 + eps)
    return positions, losses


def verify(starts: Array) -> None:
    """Stop unless all three follow the same path."""
    ours = path(SURFACE, RULE, starts, 50)
    positions, losses = numpy_path(starts, 50)
    np.testing.assert_allclose(positions.swapaxes(0, 1), ours.positions, rtol=1e-6)
    np.testing.assert_allclose(losses.T, ours.losses, rtol=1e-6)
    np.testing.assert_allclose(python_path(starts[0], 50)[0], ours.positions[0], rtol=1e-6)


if __name__ == "__main__":
    main("simulate", __doc__, measure)
