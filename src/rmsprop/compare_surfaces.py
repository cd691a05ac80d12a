"""Compare optimizers on a two-dimensional surface: the best learning rate of each, and its path."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmsprop import statistics, verdict
from rmsprop.entries import Entry, check_settings, learning_rates
from rmsprop.environment import describe
from rmsprop.rule import Rule
from rmsprop.schedules import named
from rmsprop.simulate import Path, path
from rmsprop.surfaces import Surface

LR_RANGE = (1e-5, 10.0)
BUDGET = 61
SEEDS = 20
FIRST_SEARCH_SEED = 1000
RELATIVE_TARGET = 1e-4
LR_WITHOUT_MINIMUM = 0.01
SMALLEST = (
    1e-200  # stands for a height of 0, which has no logarithm; a log axis has room for its margin
)


def compare_surface(
    surface: Surface,
    competitors: Sequence[Entry],
    *,
    start: tuple[float, float] | None = None,
    steps: int = 1000,
    seeds: int | None = None,
    budget: int = BUDGET,
    lr_range: tuple[float, float] = LR_RANGE,
    schedule: str = "constant",
    target: float | None = None,
) -> dict[str, Any]:
    """Search a learning rate for each competitor, follow its path, and sum up.

    Parameters
    ----------
    surface
        With `noise`, runs are repeated: `seeds` draws to search on, and `seeds` others to report.
    competitors
        From `entries.entries`. One with a fixed learning rate is not searched; on a surface without a
        minimum none is, and those without a rate of their own use 0.01.
    start, steps
        Where a path begins (default `surface.start`), and how long it is.
    seeds
        Draws of the noise; default 20. Without noise a path is certain, and there is one.
    budget, lr_range
        How many learning rates, at equal ratios from the first to the second.
    schedule
        `"constant"`, or `"cosine"`: from the learning rate to 0 over the path.
    target
        The height above the minimum whose first reach is counted in steps; default 1e-4 of the start's.
        On a surface without a minimum, the target is to leave the domain.

    Returns
    -------
    dict
        The study, ready for JSON and `report.write`.

    Raises
    ------
    ValueError
        For settings out of range.

    Examples
    --------
    >>> from rmsprop.entries import entries
    >>> from rmsprop.surfaces import SURFACES
    >>> study = compare_surface(SURFACES["booth"], entries(["rmsprop", "sgd"], []), steps=100)
    >>> [e["label"] for e in study["entries"]], study["entries"][0]["final"]["mean"] < 1
    (['RMSprop', 'SGD'], True)
    """
    began = time.perf_counter()
    check_settings(target, seeds=seeds)
    start = surface.start if start is None else start
    seeds = 1 if not surface.noise else (seeds or SEEDS)
    rates = learning_rates(*lr_range, budget)
    floor = surface.minimum
    first = surface.value(*start) - (floor or 0.0)
    if not math.isfinite(first):
        raise ValueError(f"{surface.name} must be finite at the start; it is {first} at {start}")
    target = RELATIVE_TARGET * first if target is None else target
    walk = _Walk(surface, start, steps, seeds, schedule)
    results = []
    for e in competitors:
        table, lr = [], e.rule.lr if e.fixed else LR_WITHOUT_MINIMUM
        if not e.fixed and floor is not None:
            table = _search(walk, e.rule, rates)
            lr = _choose(table)
        results.append(_result(walk, e, lr, table, target))
    settings = {
        "start": list(start),
        "steps": steps,
        "seeds": seeds,
        "budget": budget,
        "lr_range": list(lr_range),
        "schedule": schedule,
        "target": target,
    }
    about = {
        "name": surface.name,
        "formula": surface.formula,
        "dim": surface.dim,
        "domain": [list(axis) for axis in surface.domain],
        "minima": [list(point) for point in surface.minima],
        "minimum": floor,
        "noise": surface.noise,
    }
    study = {"kind": "surface", "surface": about, "settings": settings, "entries": results}
    study["verdict"], study["caveats"] = verdict.of_surface(study)
    return study | describe() | {"seconds": time.perf_counter() - began}


@dataclass(frozen=True)
class _Walk:
    """What all competitors share."""

    surface: Surface
    start: tuple[float, float]
    steps: int
    seeds: int
    schedule: str

    def follow(self, rule: Rule, first_seed: int) -> tuple[Path, Any]:
        """Paths (seeds, ...) under the noise of this seed, and their heights above the minimum."""
        found = path(
            self.surface,
            rule,
            np.tile(self.start, (self.seeds, 1)),
            self.steps,
            learning_rate=named(self.schedule, rule.lr, self.steps),
            seed=first_seed,
        )
        return found, found.losses - (self.surface.minimum or 0.0)


def _search(walk: _Walk, rule: Rule, rates: list[float]) -> list[dict[str, Any]]:
    rows = []
    for lr in rates:
        last = _ends(walk.follow(rule.replace(lr=lr), FIRST_SEARCH_SEED)[1])
        rows.append(
            {
                "lr": lr,
                "mean": _geometric(last)["mean"],
                "diverged": int((~np.isfinite(last)).sum()),
                "eligible": bool(np.isfinite(last).all()),
            }
        )
    return rows


def _choose(table: list[dict[str, Any]]) -> float | None:
    eligible = [row for row in table if row["eligible"]]
    return min(eligible, key=lambda row: row["mean"])["lr"] if eligible else None


def _ends(heights: Any) -> Any:
    """For each path, the geometric mean of its heights over the last tenth of the steps."""
    tail = heights[:, -max(1, heights.shape[1] // 10) :]
    return 10 ** np.log10(np.maximum(tail, SMALLEST)).mean(axis=1)


def _geometric(heights: Any) -> statistics.Interval:
    """The geometric mean of heights above the minimum, and its interval."""
    finite = heights[np.isfinite(heights)]
    found = statistics.interval(np.log10(finite).tolist())
    power = {k: None if x is None else 10.0**x for k, x in found.items() if k != "n"}
    return {**power, "n": found["n"]}


def _result(
    walk: _Walk, e: Entry, lr: float | None, table: list[dict[str, Any]], target: float
) -> dict[str, Any]:
    result: dict[str, Any] = e.at(lr) | {
        "at_edge": lr in [row["lr"] for row in table[:1] + table[-1:]],
        "search": table,
        "search_diverged": sum(row["diverged"] for row in table),
        "search_runs": len(table) * walk.seeds,
        "final": statistics.interval([]),
        "final_diverged": 0,
        "reached": 0,
        "steps_to_target": None,
        "path": None,
    }
    if lr is None:
        return result
    found, heights = walk.follow(e.rule.replace(lr=lr), 0)
    without_minimum = walk.surface.minimum is None
    last = heights[:, -1] if without_minimum else _ends(heights)
    finite = last[np.isfinite(last)].tolist()
    reached = [_reach(walk.surface, found, heights, k, target) for k in range(walk.seeds)]
    there = [k for k in reached if k is not None]
    return result | {
        "final": statistics.interval(finite) if without_minimum else _geometric(last),
        "final_diverged": int((~np.isfinite(last)).sum()),
        "reached": len(there),
        "steps_to_target": statistics.median(there),
        "path": _plain(found, heights),
    }


def _reach(surface: Surface, found: Path, heights: Any, seed: int, target: float) -> int | None:
    """Steps to the target height or, where there is no minimum, out of the domain."""
    if surface.minimum is not None:
        curve = [_finite(x) for x in heights[seed]]
        return statistics.first_reach(curve, target, rising=False)
    (left, right), (low, high) = surface.domain
    x, y = found.positions[seed].T
    outside = ~((x >= left) & (x <= right) & (y >= low) & (y <= high))
    return int(np.argmax(outside)) if outside.any() else None


def _plain(found: Path, heights: Any) -> dict[str, Any]:
    """The first path, and the heights of all, ready for JSON: None where not finite."""
    return {
        "positions": [[_finite(a) for a in point] for point in found.positions[0]],
        "heights": [[_finite(x) for x in row] for row in heights],
        "rates": [[_finite(a) for a in pair] for pair in found.rates[0]],
        "v": [[_finite(a) for a in pair] for pair in found.v[0]],
    }


def _finite(x: Any) -> float | None:
    """To seven digits: more than a plot shows, and half the file."""
    return float(f"{x:.7g}") if math.isfinite(x) else None
