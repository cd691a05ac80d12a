"""Time per parameter as arrays grow, and time per array as their number grows.

Targets: time per parameter flat within 10% from 10M to 1B (1B needs --large and 13 GB), and less than
1 us for each array.

    python benchmarks/growth.py [--quick] [--large] [--json [FILE]]

Time per parameter is the kernel's on the first n elements of the same arrays.  10M parameters are 120 MB:
a processor whose cache is larger keeps them there, and is then faster at the smallest size than its memory
is; the limit of each size, in the same table, shows that.  Time per array is that of `rmsprop.numpy`'s
update() on arrays of one element, divided by their number: with the same arrays at each step,
and with new gradient arrays at each step.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from limit import Array, limit
from peers import FRESH, KERNEL, OURS, RULE, Workload, gather, verify
from rmsprop.kernels.cpu import Batch, flags_of, scalars_of
from tables import Report, main
from timing import Times

SIZES = {"10M": 10_000_000, "30M": 30_000_000, "100M": 100_000_000, "1B": 1_000_000_000}
QUICK_SIZES = {"1M": 1_000_000, "3M": 3_000_000}
COUNTS = [100, 1_000, 10_000]


def measure(report: Report) -> None:
    verify([KERNEL, OURS, FRESH])
    _sizes(report)
    _counts(report)


def _sizes(report: Report) -> None:
    sizes = dict(QUICK_SIZES if report.quick else SIZES)
    if not report.large:
        sizes.pop("1B", None)
    p, g, v = _arrays(max(sizes.values()))
    flags, h = flags_of(RULE), scalars_of(RULE, RULE.lr, 1)
    runs: dict[str, Callable[[], Any]] = {}
    for size, n in sizes.items():
        batch = Batch.of([(p[:n], g[:n], v[:n], None, None)], ("f32", "f32", "f32"))
        runs[f"ours: {size}"] = lambda batch=batch: batch.step(flags, h)
    for size, n in sizes.items():
        runs[f"limit: {size}"] = limit(p[:n], g[:n], v[:n])
    times = report.race(runs, 15)
    each = {name: t / sizes[name.split()[1]] for name, t in times.seconds.items()}
    times = Times(each, times.others)
    first, *larger = (name for name in each if name.startswith("ours"))
    limits = {name: name.replace("ours", "limit") for name in each}
    report.table(
        "time per parameter, float32, the kernel", times, first, limits, column="x the first"
    )
    for name in larger:
        if not report.quick:
            claim = f"time per parameter, {name[6:]} over {first[6:]}"
            report.target(claim, times.ratio(name, first), at_most=1.1)


def _arrays(n: int) -> tuple[Array, Array, Array]:
    """p, g and v; g is above 0, so that the limit, which adds it to v, leaves v as it may be."""
    some = np.random.default_rng(0).random(1 << 20, dtype=np.float32)
    return np.zeros(n, np.float32), np.resize(some, n), np.ones(n, np.float32)


def _counts(report: Report) -> None:
    for count in COUNTS[:2] if report.quick else COUNTS:
        runs, _ = gather(Workload([(1,)] * count), [KERNEL, OURS, FRESH])
        times = report.race(runs, 15)
        each = Times({name: t / count for name, t in times.seconds.items()}, times.others)
        title = f"time per array, {count:,} arrays of 1 element, float32"
        report.table(title, each, base=OURS, column="x update()")
        for name in (OURS, FRESH):
            if count >= 1000 and not report.quick:
                claim = f"us per array, {count:,} arrays, {name}"
                report.target(claim, float(np.median(each.seconds[name])) * 1e6, at_most=1)


if __name__ == "__main__":
    main("growth", __doc__, measure)
