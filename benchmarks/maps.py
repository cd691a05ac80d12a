"""Response maps: optimizer steps a second over 256 x 256 pairs of hyperparameters, against NumPy and JAX.

Each cell is a run of its own over Rosenbrock, with its own learning rate and decay. `rmsprop.maps` runs 64
of them side by side in float64, with the bits of `simulate.path`. Beside it: a NumPy loop over all cells at
once, and JAX's vmap over a scan, compiled, in float64 and float32. Then other rules; a surface with sines,
where the C library's functions are most of the time; and the first map of a process.

    python benchmarks/maps.py [--quick] [--json [FILE]]
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from peers import Array
from rmsprop import Rule
from rmsprop.maps import Replicate, run
from rmsprop.space import Range
from rmsprop.surfaces import SURFACES, Surface
from tables import Report, main
from timing import Times

ROSENBROCK = SURFACES["rosenbrock"]
OURS, NUMPY = "ours: maps.run", "NumPy loop over all cells"
JAX64, JAX32 = "jax vmap of scan, float64", "jax vmap of scan, float32"
GOAL = 500  # million steps a second
CALL, WITH_IMPORTS, COLD = "ours: surface_map()", "with its imports", "with imports, nothing cached"
OTHERS = {
    "Adam": (ROSENBROCK, Rule.from_dialect("adam")),
    "centered, with momentum": (ROSENBROCK, Rule(centered=True, momentum=0.9)),
    "clipped by norm": (ROSENBROCK, Rule(clip_norm=1.0)),
    "with steps to a target": (ROSENBROCK, Rule()),
    "Ackley": (SURFACES["ackley"], Rule()),
}


def measure(report: Report) -> None:
    side, steps = (64, 200) if report.quick else (256, 1000)
    lrs, decays = axes(side)
    verify(lrs[::8], decays[::8])
    peers: dict[str, Callable[[], Any]] = {NUMPY: lambda: numpy_map(lrs, decays, steps)}
    notes = {}
    for name, dtype in ((JAX64, "float64"), (JAX32, "float32")):
        try:
            peers[name] = jax_map(lrs, decays, steps, dtype)
        except ModuleNotFoundError:
            notes[name] = "takes no part: pip install 'rmsprop[jax]'"
    ours = {OURS: lambda: our_map(ROSENBROCK, Rule(), lrs, decays, steps)}
    count = side * side * steps
    case = f"{side} x {side} runs of {steps:,} steps on Rosenbrock; time a step"
    each = a_step(report.race(ours | peers, 7), count)
    report.table(case, each, OURS, notes=rates(each) | notes)
    report.target("response map, million steps a second", 1e-6 / median(each, OURS), at_least=GOAL)
    small = max(steps // 5, 100)
    runs: dict[str, Callable[[], Any]] = {
        "RMSprop": lambda: our_map(ROSENBROCK, Rule(), lrs, decays, small)
    }
    for name, (surface, rule) in OTHERS.items():
        goal = 1e-4 if "target" in name else None
        runs[name] = lambda s=surface, r=rule, g=goal: our_map(s, r, lrs, decays, small, g)
    each = a_step(report.race(runs, 7), side * side * small)
    report.table(f"the same with {small:,} steps, ours alone", each, "RMSprop", notes=rates(each))
    first_picture(report, side, steps)


def first_picture(report: Report, side: int, steps: int) -> None:
    """Seconds until a new process has its first map, and how many of them are imports or compiling."""
    found: dict[str, list[float]] = {CALL: [], WITH_IMPORTS: [], COLD: []}
    for _ in range(2 if report.quick else 5):
        call, imports = process(side, steps, os.environ.copy())
        found[CALL].append(call)
        found[WITH_IMPORTS].append(call + imports)
        with tempfile.TemporaryDirectory() as empty:
            found[COLD].append(sum(process(side, steps, os.environ | {"NUMBA_CACHE_DIR": empty})))
    times = Times({name: np.array(seconds) for name, seconds in found.items()})
    case = f"first map of a new process, {side} x {side} runs of {steps:,} steps"
    report.table(case, times, CALL, column="of the call")
    report.target("first map with a warm cache, in seconds", median(times, CALL), at_most=1)


def process(side: int, steps: int, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of the call and of the imports, in a process of its own."""
    code = f"""
import time
begin = time.perf_counter()
from rmsprop.entries import entries
from rmsprop.maps import surface_map
from rmsprop.space import Range
from rmsprop.surfaces import SURFACES
x, y = Range("lr", 1e-5, 1, count={side}), Range("decay", 0.5, 0.9999, count={side})
ready = time.perf_counter()
surface_map(SURFACES["rosenbrock"], entries(["rmsprop"], []), x, y, steps={steps})
print(time.perf_counter() - ready, ready - begin)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    call, imports = map(float, done.stdout.split())
    return call, imports


def axes(side: int) -> tuple[Array, Array]:
    return Range("lr", 1e-5, 1, count=side).values(), Range(
        "decay", 0.5, 0.9999, count=side
    ).values()


def our_map(
    surface: Surface, rule: Rule, lrs: Array, decays: Array, steps: int, target: float | None = None
) -> Array:
    one = [Replicate(surface.start, target=target)]
    return run(surface, rule, ("lr", lrs), ("decay", decays), one, np.ones(steps)).losses[0]


def numpy_map(lrs: Array, decays: Array, steps: int) -> Array:
    lr, rho = np.meshgrid(lrs, decays)
    x, y = np.full_like(lr, ROSENBROCK.start[0]), np.full_like(lr, ROSENBROCK.start[1])
    vx, vy = np.zeros_like(lr), np.zeros_like(lr)
    for _ in range(steps):
        rise = y - x * x
        gx, gy = -2 * (1 - x) - 400 * x * rise, 200 * rise
        vx = rho * vx + (1 - rho) * gx**2
        vy = rho * vy + (1 - rho) * gy**2
        x = x - lr * (gx / (np.sqrt(vx) + 1e-8))
        y = y - lr * (gy / (np.sqrt(vy) + 1e-8))
    return (1 - x) ** 2 + 100 * (y - x * x) ** 2


def jax_map(lrs: Array, decays: Array, steps: int, dtype: str) -> Callable[[], Array]:
    """The compiled map; each call computes it anew."""
    import jax

    jax.config.update("jax_enable_x64", True)
    lr, rho = (jax.numpy.asarray(a.ravel(), dtype) for a in np.meshgrid(lrs, decays))

    def one(lr: Any, rho: Any) -> Any:
        def step(state: Any, _: None) -> Any:
            x, y, vx, vy = state
            rise = y - x * x
            gx, gy = -2 * (1 - x) - 400 * x * rise, 200 * rise
            vx = rho * vx + (1 - rho) * gx**2
            vy = rho * vy + (1 - rho) * gy**2
            x = x - lr * (gx / (jax.numpy.sqrt(vx) + 1e-8))
            y = y - lr * (gy / (jax.numpy.sqrt(vy) + 1e-8))
            return (x, y, vx, vy), None

        start = [jax.numpy.asarray(number, dtype) for number in (*ROSENBROCK.start, 0.0, 0.0)]
        (x, y, _, _), _ = jax.lax.scan(step, tuple(start), length=steps)
        return (1 - x) ** 2 + 100 * (y - x * x) ** 2

    compiled = jax.jit(jax.vmap(one))
    return lambda: np.asarray(compiled(lr, rho)).reshape(len(decays), len(lrs))


def verify(lrs: Array, decays: Array) -> None:
    """Stop unless all compute the same map, while rounding has not yet grown."""
    ours = our_map(ROSENBROCK, Rule(), lrs, decays, 20)
    np.testing.assert_allclose(numpy_map(lrs, decays, 20), ours, rtol=1e-6, atol=1e-12)
    try:
        theirs = jax_map(lrs, decays, 20, "float64")()
    except ModuleNotFoundError:
        return
    np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-12)


def a_step(times: Times, count: int) -> Times:
    return Times({name: t / count for name, t in times.seconds.items()}, times.others)


def median(times: Times, name: str) -> float:
    return float(np.median(times.seconds[name]))


def rates(each: Times) -> dict[str, str]:
    return {
        name: f"{1e-6 / median(each, name):,.3g} million steps a second" for name in each.seconds
    }


if __name__ == "__main__":
    main("maps", __doc__, measure)
