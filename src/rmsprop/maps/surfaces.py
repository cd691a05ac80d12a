"""Response maps over two-dimensional surfaces: optimizers at every pair of two of their numbers."""

import math
import numbers
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rmsprop.compare_surfaces import RELATIVE_TARGET, SMALLEST
from rmsprop.entries import Entry, check_settings
from rmsprop.environment import describe
from rmsprop.maps.cells import best_of, marks_of, within
from rmsprop.maps.lanes import Ends, Replicate, run
from rmsprop.rule import Rule
from rmsprop.schedules import named
from rmsprop.space import Range, check_rule, to_dict
from rmsprop.surfaces import Surface
from rmsprop.surfaces.surface import pair_of

Array = np.ndarray[Any, Any]

OUTCOMES = ("loss", "final", "steps")
NOISY_SEEDS = 5
MOST_RUNS = 4_000_000
DRAWN_WITH = 0  # the seed of starts that are drawn
COUNT = 256
"""Values of a range, where it does not say: 65,536 runs in a tenth of a second."""


def surface_map(
    surface: Surface,
    competitors: Sequence[Entry],
    x: Range,
    y: Range,
    *,
    starts: Any = None,
    steps: int = 1000,
    seeds: int | None = None,
    schedule: str = "constant",
    target: float | None = None,
    outcome: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Run each competitor with every pair of two of its numbers, and say where it does well.

    Parameters
    ----------
    surface
        With `noise`, each cell's run is repeated with `seeds` draws of it, the same for all cells.
    competitors
        From `entries.entries`. Each has a map of its own, over the same two ranges.
    x, y
        Ranges of two numbers of `Rule`, `count` columns and rows: lr, decay, eps, momentum, weight_decay, ...
    starts
        Points; or how many: `surface.start` and others drawn evenly from the domain, always the same.
        Default: `surface.start`.
    steps
        The length of a run.
    seeds
        Draws of the noise; default 5. Without noise a run is certain, and there is one.
    schedule
        One of `schedules.NAMES`.
    target
        The height above the minimum whose first reach is counted in steps; default 1e-4 of the start's. On a
        surface without a minimum it is to leave the domain, and takes no number.
    outcome
        `"loss"`, the height above the minimum over the last tenth of the steps; `"final"`, after the last
        one; or `"steps"` to the target. Default: loss, or where there is no minimum steps.
    progress
        Called now and then with the share that is done. What it raises ends the study.

    Returns
    -------
    dict
        The study. `study["maps"]` has for each competitor, as arrays (y.count, x.count):

        - loss: the height over the last tenth of the steps, so that a run that oscillates is not judged by
          where it happens to stop: the geometric mean, over a cell's runs too; nan where one diverged, or
          there is no minimum
        - final: the height after the last step, likewise
        - steps: the mean over a cell's runs; nan where one never arrives or, above a minimum, diverged. None
          if not asked for
        - diverged: the share of a cell's runs that were not finite at the end

        and `best`, the cell of the least outcome (of several, that nearest to their middle; None if there is
        none); `tunability`, the share of cells that are `within` reach of it; `dialects`, where the defaults
        of the frameworks lie.

    Raises
    ------
    TypeError, ValueError
        For ranges that a competitor cannot take, settings out of range, a start at the minimum, more than
        4 million runs for a competitor, and as `lanes.run`.

    Examples
    --------
    >>> from rmsprop.entries import entries
    >>> from rmsprop.surfaces import SURFACES
    >>> lr, decay = Range("lr", 1e-3, 1, count=20), Range("decay", 0.9, 0.999, count=10)
    >>> study = surface_map(SURFACES["booth"], entries(["rmsprop"], []), lr, decay, steps=500)
    >>> found = study["maps"][0]
    >>> found["loss"].shape, found["best"]["row"], round(found["best"]["x"], 3)
    ((10, 20), 4, 0.483)
    """
    began = time.perf_counter()
    without_minimum = surface.minimum is None
    outcome = outcome or ("steps" if without_minimum else "loss")
    _check(surface, outcome, target, steps, seeds)
    for e in competitors:
        check_rule((x, y), e.rule)
    if not competitors:
        raise ValueError("name at least one optimizer")
    points = _points(surface, starts)
    draws = 1 if not surface.noise else (seeds or NOISY_SEEDS)
    runs = x.count * y.count * len(points) * draws
    if runs > MOST_RUNS:
        raise ValueError(
            f"a map has at most {MOST_RUNS:,} runs; got {x.count} x {y.count} cells of {len(points)} starts "
            f"and {draws} draws of noise, {runs:,} runs: take fewer of them"
        )
    heights = [_start_height(surface, point) for point in points]
    goals = [_goal(surface, height, target) for height in heights]
    asked = outcome == "steps" or target is not None
    replicates = [
        Replicate(point, seed, goal if asked else None)
        for point, goal in zip(points, goals, strict=True)
        for seed in range(draws)
    ]
    plan = named(schedule, 1.0, steps)
    factors = np.array([plan(t) for t in range(steps)])

    def single(rule: Rule) -> float:
        axes = [(a.name, [getattr(rule, a.name)]) for a in (x, y)]
        if any(values == [None] for _, values in axes):
            return math.nan
        ends = run(surface, rule, axes[0], axes[1], replicates, factors)
        return float(_summed(surface, ends)[outcome][0, 0])

    maps = []
    for k, e in enumerate(competitors):
        tell = _part(progress, k, len(competitors))
        ends = run(
            surface, e.rule, (x.name, x.values()), (y.name, y.values()), replicates, factors, tell
        )
        middle = None if without_minimum else _geometric(np.array(heights)).item()
        one = _summed(surface, ends) | {"outcome": outcome, "start": middle}
        best = best_of(one, x, y)
        maps.append(
            {
                "label": e.label,
                "is_rmsprop": e.is_rmsprop,
                "rule": e.rule.to_dict(),
                **one,
                "best": best,
            }
            | {"tunability": float(within(one).mean()), "dialects": marks_of(e, x, y, single)}
        )
    return {
        "kind": "map",
        "surface": _about(surface),
        "x": to_dict(x),
        "y": to_dict(y),
        "settings": {
            "starts": [list(point) for point in points],
            "steps": steps,
            "seeds": draws,
            "schedule": schedule,
            "target": target,
            "targets": None if without_minimum or not asked else goals,
            "outcome": outcome,
        },
        "maps": maps,
        "steps_done": runs * steps * len(competitors),
        **describe(),
        "seconds": time.perf_counter() - began,
    }


def _check(
    surface: Surface, outcome: str, target: float | None, steps: int, seeds: int | None
) -> None:
    if seeds is not None and not surface.noise:
        raise ValueError(
            f"seeds are draws of the noise, and {surface.name} has none: give noise, or starts"
        )
    for name, count in (("steps", steps), ("seeds", seeds)):
        if count is not None and not isinstance(count, numbers.Integral):
            raise TypeError(f"{name} must be a whole number; got {count!r}")
    check_settings(target, steps=steps, seeds=seeds)
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}; got {outcome!r}")
    if surface.minimum is None and outcome != "steps":
        raise ValueError(
            f"the minimum of {surface.name} is not known, so that a loss has no height above it: "
            "take outcome='steps', to leave the domain"
        )
    if surface.minimum is None and target is not None:
        raise ValueError(
            f"the minimum of {surface.name} is not known, and the target is to leave the domain; "
            f"got target {target:g}: leave it out"
        )
    if target is not None and target <= 0:
        raise ValueError(f"target must be a height above 0; got {target}")


def _points(surface: Surface, starts: Any) -> list[tuple[float, float]]:
    if starts is None:
        return [surface.start]
    if isinstance(starts, numbers.Integral):
        if starts < 1:
            raise ValueError(f"starts must be 1 or more, or points; got {starts}")
        low, high = np.transpose(surface.domain)
        drawn = np.random.default_rng(DRAWN_WITH).uniform(low, high, (int(starts) - 1, 2))
        return [surface.start, *((float(a), float(b)) for a, b in drawn)]
    try:
        points = [pair_of("each of starts", point) for point in starts]
    except TypeError:
        raise TypeError(f"starts must be points or how many; got {starts!r}") from None
    if not points:
        raise ValueError("starts must be 1 or more; got none")
    return points


def _start_height(surface: Surface, point: tuple[float, float]) -> float:
    """Above the minimum; where there is none, just the value."""
    height = float(surface.value(*point)) - (surface.minimum or 0.0)
    if not math.isfinite(height):
        raise ValueError(f"{surface.name} must be finite at the start; it is {height} at {point}")
    if surface.minimum is not None and height <= 0:
        raise ValueError(
            f"a run must start above the minimum of {surface.name}; {point} lies {-height:g} below or at it: "
            "start elsewhere"
        )
    return height


def _goal(surface: Surface, height: float, target: float | None) -> float:
    if surface.minimum is None:
        return 0.0
    return RELATIVE_TARGET * height if target is None else float(target)


def _part(
    progress: Callable[[float], None] | None, k: int, n: int
) -> Callable[[float], None] | None:
    return None if progress is None else lambda done: progress((k + done) / n)


def _summed(surface: Surface, ends: Ends) -> dict[str, Any]:
    """The runs of each cell in one."""
    lost, reached = ~np.isfinite(ends.losses), ends.steps
    found: dict[str, Any] = {"diverged": lost.mean(axis=0), "steps": None}
    if surface.minimum is None:
        found |= dict.fromkeys(("loss", "final"), np.full(lost.shape[1:], np.nan))
    else:
        found["loss"] = _geometric(np.where(lost, np.nan, ends.heights))
        found["final"] = _geometric(np.where(lost, np.nan, ends.losses - surface.minimum))
        reached = None if reached is None else np.where(lost, np.nan, reached)
    if reached is not None:
        found["steps"] = reached.mean(axis=0)
    return found


def _geometric(heights: Array) -> Array:
    """The geometric mean along the first axis; of one, itself."""
    above = np.maximum(heights, SMALLEST)
    return above[0] if len(above) == 1 else 10 ** np.log10(above).mean(axis=0)


def _about(surface: Surface) -> dict[str, Any]:
    return {
        "name": surface.name,
        "formula": surface.formula,
        "dim": surface.dim,
        "domain": [list(axis) for axis in surface.domain],
        "minima": [list(point) for point in surface.minima],
        "minimum": surface.minimum,
        "noise": surface.noise,
    }
