"""One step in each dtype and of each rule, against the memory limit of its own bytes.

The kernel is one loop for all rules and dtypes, so each should run as fast as memory lets it.  What
bounds a step are the bytes it moves: p read and written, g read, and each state array (v for RMSprop,
v and b for Adam, ...) read and written.  Each limit moves just those. State of float16 is float32.

Target, as for float32 RMSprop: at least 0.95 of the limit, for 25M parameters.

    python benchmarks/dtypes.py [--quick] [--json [FILE]]

Ours is the kernel alone, `kernels.cpu.Batch`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from limit import Array, limit
from peers import after
from rmsprop import Rule
from rmsprop.kernels.cpu import KINDS, Batch, flags_of, scalars_of
from rmsprop.kernels.plan import state_dtype
from tables import Report, main

SIZE, QUICK_SIZE = 25_000_000, 1_000_000
RULES = {
    "sgd": Rule.from_dialect("sgd", lr=1e-3),
    "momentum": Rule.from_dialect("momentum", lr=1e-3),
    "adagrad": Rule.from_dialect("adagrad", lr=1e-3),
    "rmsprop": Rule.from_dialect("torch", lr=1e-3),
    "rmsprop+momentum": Rule.from_dialect("torch", lr=1e-3, momentum=0.9),
    "adam": Rule.from_dialect("adam", lr=1e-3),
    "centered+momentum": Rule.from_dialect("torch", lr=1e-3, centered=True, momentum=0.9),
}
CASES = [
    *(("float32", rule) for rule in RULES),
    ("float64", "rmsprop"),
    ("float16", "rmsprop"),
]


def measure(report: Report) -> None:
    n = QUICK_SIZE if report.quick else SIZE
    some = np.random.default_rng(0).standard_normal(1 << 20)
    grads = {dtype: np.resize(some.astype(dtype), n) for dtype, _ in CASES}
    runs: dict[str, Callable[[], Any]] = {}
    limits: dict[str, str] = {}
    for dtype, name in CASES:
        verify(RULES[name], dtype)
        kernel, twin = (Kernel(RULES[name], grads[dtype]) for _ in range(2))
        case = label(dtype, name, kernel.bytes)
        limits[case] = f"limit of {case}"
        runs |= {case: kernel, limits[case]: limit(*twin.arrays)}
    times = report.race(runs, 15)
    title = f"1 x {n:,}: dtype, rule, bytes a parameter; time ratio to f32 rmsprop"
    report.table(title, times, base=BASE, limit=limits, column="time ratio")
    if not report.quick:
        for case, bound in limits.items():
            report.target(f"{case}: of its limit", times.ratio(bound, case), at_least=0.95)


def label(dtype: str, name: str, size: int) -> str:
    """For instance "f32 adam, 28 B": the bytes that a step moves for each parameter."""
    return f"{KINDS[dtype]} {name}, {size} B"


BASE = label("float32", "rmsprop", 20)


class Kernel:
    """The kernel on one array of its own, for one rule."""

    def __init__(self, rule: Rule, g: Array):
        state = {slot: np.zeros(g.size, state_dtype(g)) for slot in rule.slots}
        row = (np.zeros_like(g), g, *(state.get(slot) for slot in "vmb"))
        kind = KINDS[g.dtype.name]
        self.rule = rule
        self.arrays = [a for a in row if a is not None]
        self.bytes = sum(2 * a.itemsize for a in self.arrays) - g.itemsize
        self.batch = Batch.of([row], (kind, kind, KINDS[state_dtype(g).name]))
        self.flags, self.t = flags_of(rule), 0

    def __call__(self) -> None:
        self.t += 1
        self.batch.step(self.flags, scalars_of(self.rule, self.rule.lr, self.t))


def verify(rule: Rule, dtype: str) -> None:
    """Stop unless the kernel takes the reference's steps."""
    g = np.random.default_rng(1).standard_normal(200_001).astype(dtype)
    kernel = Kernel(rule, g)
    for _ in range(3):
        kernel()
    wide = g.astype(state_dtype(g))
    expected = after(rule, np.zeros_like(wide), wide, 3)
    rtol = {"float16": 2e-3, "float32": 2e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(kernel.arrays[0], expected, rtol=rtol, atol=rtol * 1e-3)


if __name__ == "__main__":
    main("dtypes", __doc__, measure)
