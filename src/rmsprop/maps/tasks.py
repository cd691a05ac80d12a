"""Response maps of a task: a network trained with every pair of two of the rule's numbers."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rmsprop import statistics
from rmsprop.entries import Entry, check_settings
from rmsprop.environment import describe
from rmsprop.ledger import Ledger, Progress, key_of, run_all
from rmsprop.maps.cells import best_of, marks_of, within
from rmsprop.rule import Rule
from rmsprop.space import Range, check_rule, to_dict
from rmsprop.stacked import can_stack, train_many
from rmsprop.train import train

Array = np.ndarray[Any, Any]
Record = dict[str, Any]

OUTCOMES = ("score", "loss", "steps")
MOST_RUNS = 100_000
COUNT = 16
"""Values of a range, where it does not say: each cell is a training."""


def task_map(
    task: Any,
    competitors: Sequence[Entry],
    x: Range,
    y: Range,
    *,
    seeds: int = 1,
    schedule: str = "cosine",
    target: float | None = None,
    outcome: str = "score",
    processes: int = 1,
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> Record:
    """Train a task with every pair of two of the numbers of each competitor.

    A small network (`stacked.can_stack`) is trained for all cells at once; others one by one, in processes.

    Parameters
    ----------
    task
        As `train.train` takes it.
    competitors
        From `entries.entries`. Each has a map of its own, over the same two ranges.
    x, y
        Ranges of two numbers of `Rule`, `count` columns and rows.
    seeds
        Runs of a cell: the same starts and mini-batches for all cells.
    schedule
        Of the learning rate, over the task's epochs.
    target
        The validation score whose first reach, at the end of an epoch, is counted in steps; default 99% of
        the best cell's.
    outcome
        "score" or "loss" on the validation split at the end, or "steps" to the target.
    processes, ledger, progress
        As in `ledger.run_all`, for networks that are not trained at once.

    Returns
    -------
    dict
        The study, as of `surface_map` with the "task" in place of the surface. `study["maps"]` has for each
        competitor arrays (y.count, x.count): the means over the seeds of "score" and "loss", and of "steps"
        (nan where a run never reaches the target); "diverged", the share of runs that did, where the others
        are nan.

    Raises
    ------
    ValueError
        For ranges that a competitor cannot take, settings out of range, more than 100,000 runs.

    Examples
    --------
    >>> from rmsprop.entries import entries
    >>> from rmsprop.tasks import Task
    >>> lr, decay = Range("lr", 1e-3, 1, count=4), Range("decay", 0.9, 0.99, count=2)
    >>> study = task_map(Task.of("xor", epochs=4), entries(["rmsprop"], []), lr, decay)
    >>> study["maps"][0]["score"].shape, study["maps"][0]["best"]["outcome"] > 0.9
    ((2, 4), True)
    """
    began = time.perf_counter()
    _check(task, competitors, x, y, seeds, outcome, target)
    options: Record = {"processes": processes, "ledger": ledger, "progress": progress}
    maps = []
    for e in competitors:
        rules = [
            e.rule.replace(**{x.name: float(a), y.name: float(b)})
            for b in y.values()
            for a in x.values()
        ]
        runs = _runs(task, rules, seeds, schedule, e.label, options)
        one = _summed(runs, (y.count, x.count)) | {"outcome": outcome}
        maps.append({"label": e.label, "is_rmsprop": e.is_rmsprop, "rule": e.rule.to_dict(), **one})
    if target is None:
        highest = [np.nanmax(one["score"]) for one in maps if np.isfinite(one["score"]).any()]
        target = round(0.99 * float(max(highest)), 4) if highest else None

    def single(rule: Rule) -> float:
        runs = _runs(task, [rule], seeds, schedule, "a framework's defaults", options)
        found = _summed(runs, (1, 1))
        found["steps"] = _steps(found["curves"], target, (1, 1))
        return float(found[outcome][0, 0])

    for e, one in zip(competitors, maps, strict=True):
        one["steps"] = _steps(one.pop("curves"), target, (y.count, x.count))
        one["best"] = best_of(one, x, y)
        one["tunability"] = float(within(one).mean())
        one["dialects"] = marks_of(e, x, y, single)
    return {
        "kind": "map",
        "task": task.to_dict(),
        "x": to_dict(x),
        "y": to_dict(y),
        "settings": {
            "seeds": seeds,
            "schedule": schedule,
            "target": target,
            "outcome": outcome,
            "at_once": can_stack(task),
        },
        "maps": maps,
        "steps_done": task.epochs * task.steps_per_epoch * seeds * x.count * y.count * len(maps),
        **describe(),
        "seconds": time.perf_counter() - began,
    }


def _check(
    task: Any,
    competitors: Sequence[Entry],
    x: Range,
    y: Range,
    seeds: int,
    outcome: str,
    target: float | None,
) -> None:
    check_settings(target, seeds=seeds)
    if not competitors:
        raise ValueError("name at least one optimizer")
    if x.name == y.name:
        raise ValueError(f"a map needs two different numbers; got {x.name} twice")
    for e in competitors:
        check_rule((x, y), e.rule)
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}; got {outcome!r}")
    if target is not None and task.metric == "accuracy" and not 0 < target <= 1:
        raise ValueError(f"target is a validation accuracy, above 0 and at most 1; got {target}")
    runs = x.count * y.count * seeds
    if runs > MOST_RUNS:
        raise ValueError(
            f"a map of a task has at most {MOST_RUNS:,} runs; got {x.count} x {y.count} cells and {seeds} "
            f"seeds, {runs:,} runs: take fewer of them"
        )


def _runs(
    task: Any, rules: list[Rule], seeds: int, schedule: str, label: str, options: Record
) -> list[list[Record]]:
    """For each seed the runs of all rules."""
    if can_stack(task):
        found = []
        for seed in range(seeds):
            tell = _telling(options["progress"], label, seed, seeds)
            runs = train_many(task, rules, seed=seed, schedule=schedule, progress=tell)
            found.append([run.to_dict() for run in runs])
        return found
    wanted = [(rule, seed) for seed in range(seeds) for rule in rules]
    about = task.to_dict()
    jobs = [
        (key_of(about, rule.to_dict(), seed, schedule), (task, rule, seed, schedule))
        for rule, seed in wanted
    ]
    flat = run_all(_run, jobs, what=f"cells of {label}", **options)
    return [flat[k : k + len(rules)] for k in range(0, len(flat), len(rules))]


def _run(task: Any, rule: Rule, seed: int, schedule: str) -> Record:
    return train(task, rule, seed=seed, schedule=schedule).to_dict()


def _telling(
    progress: Progress | None, label: str, seed: int, seeds: int
) -> Callable[[int, int], None] | None:
    """Progress of one seed's batch as a share of all."""
    if progress is None:
        return None
    return lambda done, total: progress(seed * total + done, seeds * total, f"updates of {label}")


def _summed(runs: list[list[Record]], shape: tuple[int, int]) -> Record:
    """The runs of each cell in one."""
    cells = list(zip(*runs, strict=True))
    diverged = np.array([np.mean([run["diverged"] for run in cell]) for cell in cells])

    def mean(name: str) -> Array:
        found = [
            np.nan
            if any(run["diverged"] for run in cell)
            else _mean([run[name][-1] for run in cell])
            for cell in cells
        ]
        return np.array(found, dtype=np.float64).reshape(shape)

    first = cells[0][0]
    return {
        "score": mean("validation_score"),
        "loss": mean("validation_loss"),
        "diverged": diverged.reshape(shape),
        "start": {"score": first["validation_score"][0], "loss": first["validation_loss"][0]},
        "curves": [[(run["steps"], run["validation_score"]) for run in cell] for cell in cells],
    }


def _mean(values: list[float | None]) -> float:
    found = statistics.mean(values)
    return np.nan if found is None or len(values) > sum(v is not None for v in values) else found


def _steps(curves: Any, target: float | None, shape: tuple[int, int]) -> Array:
    """Steps to the target score; nan where a run of the cell never has it."""
    found = np.full(len(curves), np.nan)
    for k, cell in enumerate(curves):
        firsts = [
            None if target is None else statistics.first_reach(scores, target, rising=True)
            for _, scores in cell
        ]
        if all(j is not None for j in firsts):
            found[k] = np.mean([steps[j] for (steps, _), j in zip(cell, firsts, strict=True)])
    return found.reshape(shape)
