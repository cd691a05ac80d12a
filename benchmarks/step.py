"""One step of one float32 array, against the memory limit, PyTorch and NumPy.

A step reads p, g, v and writes p, v: 20 bytes a parameter, and six operations, so memory bounds it.  The
limit is a compiled loop that moves the same bytes on the same threads: `v += g; p -= g`.

Targets, for 25M parameters and more: at least 0.95 of the limit, 4 times as fast as torch.optim.RMSprop
(the faster of its two ways) and 15 times as fast as NumPy as the seeds write it; with a state in bfloat16 at
most 0.9 of the time, with one byte no more time than with float32.

    python benchmarks/step.py [--quick] [--json [FILE]]

Ours is measured as the kernel alone, as `rmsprop.numpy`'s update() and as `rmsprop.torch`'s step(),
whose Python and checks count.
"""

from peers import (
    ALL,
    BFLOAT16,
    BYTE,
    COMPILED,
    FOREACH,
    KERNEL,
    LIMIT,
    LOOP,
    OURS,
    SEEDS,
    TENSORS,
    Workload,
    gather,
    verify,
)
from tables import Report, main

SIZES = {"10k": 10_000, "1M": 1_000_000, "25M": 25_000_000, "100M": 100_000_000}


def measure(report: Report) -> None:
    sizes = ["10k", "1M"] if report.quick else list(SIZES)
    names = [name for name in ALL if not (report.quick and name == COMPILED)]
    verify(names)
    for size in sizes:
        _measure_size(report, size, names)


def _measure_size(report: Report, size: str, names: list[str]) -> None:
    n = SIZES[size]
    runs, notes = gather(Workload([(n,)]), names)
    times = report.race(runs, 21 if n <= 25_000_000 else 11)
    report.table(f"1 x {size} float32", times, base=OURS, limit=LIMIT, notes=notes)
    if n < 25_000_000:
        return
    report.target(f"1 x {size}: of the limit, kernel", times.ratio(LIMIT, KERNEL), at_least=0.95)
    report.target(f"1 x {size}: of the limit, update()", times.ratio(LIMIT, OURS), at_least=0.95)
    if LOOP in times.seconds:
        claim = f"1 x {size}: of the limit, rmsprop.torch"
        report.target(claim, times.ratio(LIMIT, TENSORS), at_least=0.95)
        for ours in (OURS, TENSORS):
            faster = min(times.ratio(LOOP, ours), times.ratio(FOREACH, ours))
            report.target(f"1 x {size}: x faster than torch RMSprop, {ours}", faster, at_least=4)
        for low, most in ((BFLOAT16, 0.9), (BYTE, 1.0)):
            claim = f"1 x {size}: time over float32's, {low}"
            report.target(claim, times.ratio(low, TENSORS), at_most=most)
    faster = times.ratio(SEEDS, OURS)
    report.target(f"1 x {size}: x faster than the seeds' NumPy", faster, at_least=15)


if __name__ == "__main__":
    main("step", __doc__, measure)
