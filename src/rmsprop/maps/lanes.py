"""Many runs over one surface side by side: one for each pair of two numbers of a rule.

`simulate.path` follows a run from step to step, and each waits for the one before it. Here 64 runs with
numbers of their own take each step together, so that the processor works on 4 or 8 of them at once: in
float64, with the bits of `path`, as a square root and a division of eight lanes are rounded like those of
one. Only the ends are kept.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from rmsprop.compare_surfaces import SMALLEST
from rmsprop.kernels.element import CORRECT, element, fingerprint, flags_of, scalars_of
from rmsprop.kernels.threads import INTERPRETED, threads
from rmsprop.maps.user import compiled_surface
from rmsprop.rule import Rule, near
from rmsprop.simulate import (
    STAMP,
    gradient_at,
    interpreted,
    noise_of,
    specialise,
    surface_key,
    value_at,
)
from rmsprop.space import NUMBERS
from rmsprop.surfaces import Surface

Array = np.ndarray[Any, np.dtype[np.float64]]
Point = tuple[float, float]
Axis = tuple[str, Any]
"""The name of a number of the rule, and its values, (count,)."""

LANES = 64  # 1.2 billion steps a second on a core of a Zen 5 for 32 to 128 lanes, 0.9 for 16
IN_PYTHON = 20_000_000  # steps that are run without a compiler: two minutes
_CHUNK = 20_000_000  # steps between looks at Ctrl-C: 20 ms; with sines a second


class Replicate(NamedTuple):
    """One run of each cell: where it begins, the noise it meets, and what it has to reach."""

    start: Point
    seed: int = 0
    """Of the noise: the stream of `simulate.path(..., seed=seed)`, the same for all cells."""
    target: float | None = None
    """A height above the surface's minimum; where there is none, any number: to leave the domain."""


class Ends(NamedTuple):
    """What the runs came to; the first axis are the replicates."""

    losses: Array
    """(replicates, rows, columns): the surface, without noise, after the last step"""
    heights: Array
    """(replicates, rows, columns): the geometric mean of its heights over the last tenth of the moments"""
    steps: Array | None
    """(replicates, rows, columns): first moment at the target, 0 at the start; nan if never. Or no target."""


def run(
    surface: Surface,
    rule: Rule,
    x: Axis,
    y: Axis,
    replicates: Sequence[Replicate],
    factors: Any,
    progress: Callable[[float], None] | None = None,
) -> Ends:
    """Run a rule over a surface with every pair of two of its numbers.

    ::

        loss[r, i, j] = path(surface, rule.replace(x=x[j], y=y[i]), start[r], steps,
                             learning_rate=lambda t: lr*factor[t], seed=seed[r]).losses[-1]

    to the bit, whatever the number of threads.

    Parameters
    ----------
    surface
        One with `jit` False is compiled if Numba can; its runs are then those of the compiled function.
    rule
        The update; its two numbers do not count.
    x, y
        The names of two numbers of a `Rule`, and their values: (columns,) and (rows,).
    replicates
        The runs of each cell. All have a target, or none has.
    factors
        (steps,): what each step multiplies the learning rate by.
    progress
        Called now and then with the share that is done. What it raises ends the runs.

    Raises
    ------
    TypeError, ValueError
        For names and values that the rule does not take; for a surface that only Python can run, where that
        would take long.

    Examples
    --------
    >>> from rmsprop.surfaces import SURFACES
    >>> ends = run(SURFACES["sphere"], Rule(), ("lr", [0.01, 0.1]), ("decay", [0.9, 0.99, 0.999]),
    ...            [Replicate((3.0, -4.0))], np.ones(200))
    >>> ends.losses.shape, bool((ends.losses[0, :, 1] < ends.losses[0, :, 0]).all())
    ((1, 3, 2), True)
    """
    surface = compiled_surface(surface)
    swap = x[0] in ("decay", "momentum")
    inner, outer = (y, x) if swap else (x, y)
    table = _Numbers(rule, inner, outer)
    factors = np.ascontiguousarray(factors, dtype=np.float64)
    n, steps = table.inner.shape[1] * table.outer.shape[1], len(factors)
    losses, heights, reached = (np.empty((len(replicates), n)) for _ in range(3))
    work = _Work(surface, table, replicates, factors)
    _check_speed(work, n)
    width = min(LANES, n) if interpreted(surface) else LANES
    blocks = -(-n // width)
    each = width * steps * len(replicates)
    lanes = work.kernel(width)

    def share(ends: tuple[int, int]) -> None:
        with np.errstate(all="ignore"):
            lanes(*work.arguments, *ends, losses, heights, reached)

    workers = 1 if interpreted(surface) else max(1, min(threads(), blocks * each // 100_000))
    chunk = _CHUNK // 1000 if interpreted(surface) else _CHUNK
    parts = min(blocks, max(workers * 4 * (workers > 1), blocks * each // chunk, 1))
    cuts = [blocks * part // parts for part in range(parts + 1)]
    _deal(share, list(itertools.pairwise(cuts)), workers, progress)
    shape = (len(replicates), len(outer[1]), len(inner[1]))
    found = [
        np.ascontiguousarray(np.swapaxes(a.reshape(shape), 1, 2) if swap else a.reshape(shape))
        for a in (losses, heights, reached)
    ]
    steps_to = np.where(np.isfinite(found[2]), found[2], np.nan)
    return Ends(found[0], found[1], steps_to if work.track else None)


def _deal(
    share: Callable[[Any], None],
    parts: list[tuple[int, int]],
    workers: int,
    progress: Callable[[float], None] | None,
) -> None:
    """Every part, on so many threads; an exception, Ctrl-C too, leaves out those not yet begun."""
    tell = progress or (lambda done: None)
    if workers == 1:
        for k, part in enumerate(parts, 1):
            share(part)
            tell(k / len(parts))
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(share, part) for part in parts]
        try:
            for k, future in enumerate(futures, 1):
                future.result()
                tell(k / len(parts))
        finally:
            for future in futures:
                future.cancel()


# The numbers of a lane: those of `scalars_of`, then two that the loop over the steps uses.
_COUNT = 13
_RHO, _MU, _FIX_V, _FIX_B, _CLIP_NORM, _INITIAL = 1, 4, 8, 9, 11, 12


class _Numbers:
    """What each value of each axis makes of the rule's numbers, and the switches that all cells share.

    A switch that is off at one end of an axis, as momentum 0, is compiled as on for all: the arithmetic
    with the zero comes to the same numbers.
    """

    def __init__(self, rule: Rule, inner: Axis, outer: Axis):
        names = (inner[0], outer[0])
        for name in names:
            if name not in NUMBERS:
                raise ValueError(f"no number of a rule is named {name!r}{near(name, NUMBERS)}")
        if names[0] == names[1]:
            raise ValueError(f"the axes must be two numbers of the rule; got {names[0]} for both")
        self.inner, self.outer = self._columns(rule, *inner), self._columns(rule, *outer)
        self.from_outer = (self.outer != self._column(rule)[:, None]).any(axis=1)
        self.rule = rule.replace(**{name: float(np.max(values)) for name, values in (inner, outer)})

    @classmethod
    def _columns(cls, rule: Rule, name: str, values: Any) -> Array:
        values = np.asarray(values, dtype=np.float64)
        for end in (values.min(), values.max()):
            rule.replace(
                **{name: float(end)}
            )  # its checks are all of intervals: what is between is valid
        # To validate each value would take longer than a small map.
        fields = rule.to_dict()
        cells: Any = [SimpleNamespace(**fields | {name: value}) for value in values.tolist()]
        return np.ascontiguousarray(np.transpose([cls._column(cell) for cell in cells]))

    @staticmethod
    def _column(rule: Rule) -> Array:
        clip = min(rule.clip_norm or np.inf, rule.clip_global_norm or np.inf)
        return np.array([*scalars_of(rule, rule.lr, 1), clip, rule.initial_scale])


class _Work:
    """All that the compiled loop is given, and which one it is."""

    def __init__(
        self, surface: Surface, table: _Numbers, replicates: Sequence[Replicate], factors: Array
    ):
        targets = [r.target for r in replicates]
        if not replicates or any((target is None) != (targets[0] is None) for target in targets):
            raise ValueError("give one replicate or more, all with a target or all without")
        self.surface, self.rule, self.replicates = surface, table.rule, replicates
        self.track = 0 if targets[0] is None else 1 if surface.minimum is not None else 2
        steps, seeds = len(factors), sorted({r.seed for r in replicates})
        streams = np.concatenate([noise_of(surface, 1, steps, seed) for seed in seeds])
        (left, right), (low, high) = surface.domain
        sign = -1.0 if table.rule.maximize else 1.0
        numbers = (sign, surface.minimum or 0.0, left, right, low, high)
        self.arguments = (
            table.inner,
            table.outer,
            table.from_outer,
            np.array([r.start for r in replicates], dtype=np.float64),
            np.array([seeds.index(r.seed) for r in replicates]),
            streams,
            np.array([np.nan if target is None else target for target in targets]),
            factors,
            numbers,
        )

    def kernel(self, width: int) -> Callable[..., None]:
        rule = self.rule
        clipped = bool(rule.clip_norm or rule.clip_global_norm)
        switches = (flags_of(rule), width, self.track, clipped, self.surface.noise > 0)
        return specialise(_lanes_of, (surface_key(self.surface), *switches), _LANES, self.surface)


def _check_speed(work: _Work, n: int) -> None:
    """Raise ValueError where only Python can run the surface and there is much to run."""
    total = n * len(work.replicates) * len(work.arguments[7])
    if not interpreted(work.surface) or total <= IN_PYTHON:
        return
    cure = "unset NUMBA_DISABLE_JIT" if INTERPRETED else (
        f"write {work.surface.name} with floats and `math` alone, so that Numba can compile it"
    )  # fmt: skip
    raise ValueError(
        f"{total:,} steps in plain Python take about {total * 5e-6 / 60:,.0f} minutes, "
        f"at 5 microseconds each: at most {IN_PYTHON:,} are run so: {cure}, or take fewer cells or steps"
    )


_MAPS_STAMP = STAMP ^ fingerprint("rmsprop.simulate")


@njit(error_model="numpy")
def _changes(s, at, width, edges):
    """Where neighbours differ among s[at : at + width]: edges[:count] begin runs of equal numbers."""
    count = 1
    edges[0] = 0
    for j in range(1, width):
        if s[at + j] != s[at + j - 1]:
            edges[count] = j
            count += 1
    edges[count] = width
    return count


@njit(error_model="numpy")
def _correct(s, at, to, edges, count, t):
    """1/(1 - rho^t) for each lane: a power does not vectorise, so one for each run of equal rho."""
    for k in range(count):
        fix = 1.0 / (1.0 - s[at + edges[k]] ** t)
        for j in range(edges[k], edges[k + 1]):
            s[to + j] = fix


def _lanes_of(
    key: str, flags: int, width: int, track: int, clipped: bool, noisy: bool
) -> Callable[..., None]:
    """The loop over blocks of lanes, replicates and steps, for one surface and the switches of one rule."""
    # All lie in one array, `width` apart: Numba then knows that they do not overlap, and the loops over the
    # lanes become vector instructions.
    x_, y_, vx_, vy_, mx_, my_, bx_, by_, gx_, gy_, scale_, first_, sum_ = (
        k * width for k in range(13)
    )
    h_, rows = 13 * width, 13 + _COUNT
    lr_, rho_, rho1_, eps_, mu_, mu1_, wd_, _, fix_v_, fix_b_, clip_, norm_, initial_ = (
        h_ + k * width for k in range(_COUNT)
    )
    stamp, count, correct, smallest = _MAPS_STAMP, _COUNT, flags & CORRECT, SMALLEST

    def lanes(
        inner, outer, from_outer, starts, streams, noise, targets, factors, numbers, begin, end,
        losses, heights, steps,
    ):  # fmt: skip
        sign, floor, left, right, low, high = numbers
        tail = max(1, (factors.size + 1) // 10)
        s = np.zeros(rows * width) * stamp
        rho_edges, mu_edges = np.empty(width + 1, np.int64), np.empty(width + 1, np.int64)
        for block in range(begin, end):
            for j in range(width):
                cell = min(
                    block * width + j, losses.shape[1] - 1
                )  # the last block repeats its last
                a, b = cell % inner.shape[1], cell // inner.shape[1]
                for k in range(count):
                    s[h_ + k * width + j] = outer[k, b] if from_outer[k] else inner[k, a]
            rhos = _changes(s, rho_, width, rho_edges)
            mus = _changes(s, mu_, width, mu_edges)
            for r in range(starts.shape[0]):
                stream, target = streams[r], targets[r]
                for j in range(width):
                    s[x_ + j], s[y_ + j] = starts[r, 0], starts[r, 1]
                    s[vx_ + j] = s[vy_ + j] = s[initial_ + j]
                    s[mx_ + j] = s[my_ + j] = s[bx_ + j] = s[by_ + j] = 0.0
                    s[first_ + j], s[sum_ + j] = np.inf, 0.0
                for t in range(factors.size + 1):
                    if track:
                        for j in range(width):
                            x, y, first = s[x_ + j], s[y_ + j], s[first_ + j]
                            if track == 1:
                                there = value_at(key, x, y) - floor <= target
                            else:
                                there = not (left <= x <= right and low <= y <= high)
                            if there and t < first:
                                first = float(t)
                            s[first_ + j] = first
                    if t > factors.size - tail:
                        for j in range(width):
                            height = value_at(key, s[x_ + j], s[y_ + j]) - floor
                            if height < smallest:  # a NaN stays a NaN
                                height = smallest
                            s[sum_ + j] += np.log(height)
                    if t == factors.size:
                        break
                    for j in range(width):
                        gx, gy = gradient_at(key, s[x_ + j], s[y_ + j])
                        if noisy:
                            gx += noise[stream, t, 0]
                            gy += noise[stream, t, 1]
                        s[gx_ + j], s[gy_ + j] = gx, gy
                        if clipped:
                            norm = np.hypot(gx, gy)
                            scale = sign
                            if norm > s[norm_ + j]:
                                scale = sign * s[norm_ + j] / norm
                            s[scale_ + j] = scale
                    if correct:
                        _correct(s, rho_, fix_v_, rho_edges, rhos, t + 1)
                        _correct(s, mu_, fix_b_, mu_edges, mus, t + 1)
                    factor = factors[t]
                    for j in range(width):
                        scale = s[scale_ + j] if clipped else sign
                        lr = s[lr_ + j] * factor
                        hyper = (
                            lr, s[rho_ + j], s[rho1_ + j], s[eps_ + j], s[mu_ + j], s[mu1_ + j],
                            s[wd_ + j], lr * s[wd_ + j], s[fix_v_ + j], s[fix_b_ + j], s[clip_ + j], 0.0,
                        )  # fmt: skip
                        s[x_ + j], s[vx_ + j], s[mx_ + j], s[bx_ + j] = element(
                            flags,
                            s[x_ + j],
                            s[gx_ + j],
                            s[vx_ + j],
                            s[mx_ + j],
                            s[bx_ + j],
                            scale,
                            hyper,
                        )
                        s[y_ + j], s[vy_ + j], s[my_ + j], s[by_ + j] = element(
                            flags,
                            s[y_ + j],
                            s[gy_ + j],
                            s[vy_ + j],
                            s[my_ + j],
                            s[by_ + j],
                            scale,
                            hyper,
                        )
                for j in range(min(width, losses.shape[1] - block * width)):
                    losses[r, block * width + j] = value_at(key, s[x_ + j], s[y_ + j])
                    heights[r, block * width + j] = np.exp(s[sum_ + j] / tail)
                    steps[r, block * width + j] = s[first_ + j]

    return lanes


_ONE, _TWO, _THREE = types.float64[::1], types.float64[:, ::1], types.float64[:, :, ::1]
_INTEGERS = types.int64[::1]
_LANES = types.void(
    _TWO, _TWO, types.boolean[::1], _TWO, _INTEGERS, _THREE, _ONE, _ONE,
    types.UniTuple(types.float64, 6), types.int64, types.int64, _TWO, _TWO, _TWO,
)  # fmt: skip
