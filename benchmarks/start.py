"""How long a start takes: the import, the command line's help, the first step; in new processes.

Targets: `import rmsprop` under 0.1 s; `rmsprop --help` under 0.3 s; the first step with compiled code on
disk under 0.5 s. What each time covers:

- import: `import rmsprop` inside a new interpreter, and beside it those of NumPy and PyTorch.
- help: the whole process of `python -m rmsprop.cli --help`; a bare `python -c pass` for comparison.
- first step: inside a new interpreter, `import rmsprop.numpy` (which imports NumPy and Numba) and
  the first update() of the four arrays of an MLP 784-128-10; warm, and with an empty cache (cold).

    python benchmarks/start.py [--quick] [--json [FILE]]

Each figure is the median of 7 processes, run in turn.
"""

import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from tables import Report, main
from timing import Times, others

TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
STEP = """import time
t = time.perf_counter()
import rmsprop.numpy as r
import numpy as np
p = {k: np.zeros(s, np.float32) for k, s in enumerate([(784, 128), (128,), (128, 10), (10,)])}
g = {k: np.ones_like(a) for k, a in p.items()}
r.RMSprop(0.01).update(p, g)
print(time.perf_counter() - t)
assert abs(float(p[1][0]) + 0.01 / 0.1 ** 0.5) < 1e-6"""
IMPORT, HELP, PASS = (
    "import rmsprop",
    "rmsprop --help, whole process",
    "python -c pass, whole process",
)
WARM, COLD = "first step, warm cache", "first step, cold cache"

INSIDE = {  # programs that print their own time
    IMPORT: TIMED.format("import rmsprop"),
    "import numpy": TIMED.format("import numpy"),
    "import torch": TIMED.format("import torch"),
    WARM: STEP,
    COLD: STEP,
}
WHOLE = {HELP: ["-m", "rmsprop.cli", "--help"], PASS: ["-c", "pass"]}


def measure(report: Report) -> None:
    rounds = 2 if report.quick else 7
    names = [*INSIDE, *WHOLE]
    for name in names:  # files into the page cache, compiled code onto disk
        if name != COLD:
            seconds(name)
    found = {name: np.empty(rounds) for name in names}
    start, before = time.perf_counter(), others()
    for k in range(rounds):
        for name in names:
            found[name][k] = seconds(name)
    times = Times(found, (others() - before) / (time.perf_counter() - start))
    report.table("seconds from start to end", times, base=IMPORT, column="x the import")
    for name, goal in ((IMPORT, 0.1), (HELP, 0.3), (WARM, 0.5)):
        report.target(f"{name}, in seconds", float(np.median(times.seconds[name])), at_most=goal)


def seconds(name: str) -> float:
    """Run one in a new process."""
    with tempfile.TemporaryDirectory() as empty:
        more = {"NUMBA_CACHE_DIR": empty} if name == COLD else {}
        arguments = WHOLE.get(name) or ["-c", INSIDE[name]]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments],
            env=os.environ | more,
            capture_output=True,
            text=True,
            check=False,
        )
        spent = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return spent if name in WHOLE else float(done.stdout)


if __name__ == "__main__":
    main("start", __doc__, measure)
