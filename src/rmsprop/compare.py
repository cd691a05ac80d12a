"""Compare optimizers on a task: the same budget of learning rates for each, then several seeds.

What makes it fair: every competitor gets the same learning rates to choose from, the same starts and
mini-batches by seed, and the same number of epochs; the choice is made on the validation split, with seeds
that the final runs do not use; the test split is looked at once, by the final runs.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmsprop import statistics, verdict
from rmsprop.entries import Entry, check_settings, learning_rates
from rmsprop.environment import describe
from rmsprop.ledger import Ledger, Progress, Record, key_of, run_all
from rmsprop.rule import Rule
from rmsprop.tasks import Task
from rmsprop.train import train

LR_RANGE = (1e-4, 10**0.5)
BUDGET = 10
SEEDS = 10
SEARCH_SEEDS = 3
FIRST_SEARCH_SEED = 1000
LARGE = 20_000
"""Training rows from which on fewer seeds are the default, for time's sake."""
TRIALS = 30
"""Of each competitor, where all settings are searched."""
TOLERANCE = 0.01
"""A learning rate is called good if its score is within this of the best."""


def compare_task(
    task: Task,
    competitors: Sequence[Entry],
    *,
    seeds: int | None = None,
    search_seeds: int | None = None,
    budget: int = BUDGET,
    lr_range: tuple[float, float] = LR_RANGE,
    schedule: str = "cosine",
    target: float | None = None,
    tune: str | None = None,
    trials: int = TRIALS,
    storage: str | Path | None = None,
    processes: int = 1,
    ledger: Ledger | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search a learning rate for each competitor, train with it from several seeds, and sum up.

    Parameters
    ----------
    task
        Data, network, batch size and epochs: the same for all.
    competitors
        From `entries.entries`. One with a fixed learning rate is not searched.
    seeds
        Final runs of each; default 10, or 5 from 20,000 training rows on.
    search_seeds
        Runs at each learning rate of the search; default 3, or 1 from 20,000 training rows on.
    budget, lr_range
        How many learning rates, at equal ratios from the first to the second.
    schedule
        `"cosine"` (from the learning rate to 0) or `"constant"`.
    target
        The validation score whose first reach is timed; default 99% of the best mean at the end.
    tune, trials, storage
        "tpe" or "random" searches all settings of each competitor in place of the learning rate alone, with
        so many trials each, default 30; they are kept in the storage, as in `search.tune`.
    processes, ledger, progress
        As in `ledger.run_all`.

    Returns
    -------
    dict
        The study, ready for JSON and `report.write`: every number that the report shows.

    Raises
    ------
    ledger.Interrupted
        On Ctrl-C; with a ledger on disk the same call goes on from there.
    ValueError
        For settings out of range, and as the data.

    Examples
    --------
    >>> from rmsprop.entries import entries
    >>> study = compare_task(Task.of("xor", epochs=3), entries(["rmsprop", "sgd"], []), seeds=2,
    ...                      search_seeds=1, budget=3)
    >>> [e["label"] for e in study["entries"]], len(study["entries"][0]["runs"])
    (['RMSprop', 'SGD'], 2)
    """
    began = time.perf_counter()
    check_settings(target, seeds=seeds, search_seeds=search_seeds)
    large = len(task.dataset.train) >= LARGE
    seeds = seeds or (5 if large else SEEDS)
    search_seeds = search_seeds or (1 if large else SEARCH_SEEDS)
    rates = learning_rates(*lr_range, budget)
    options: dict[str, Any] = {"processes": processes, "ledger": ledger, "progress": progress}

    searched = [e for e in competitors if not e.fixed]
    first = max(FIRST_SEARCH_SEED, seeds)  # beyond the seeds of the final runs
    tuned: dict[str, dict[str, Any]] = {}
    if tune is not None:
        tuned = _tuned(
            task, searched, tune, trials, search_seeds, first, schedule, storage, options
        )
        searched = []
    drawn = range(first, first + search_seeds)
    wanted = [(e.rule.replace(lr=lr), s, False) for e in searched for lr in rates for s in drawn]
    records = _train_all(task, wanted, schedule, "learning rates", options)
    each = budget * search_seeds
    tables = {
        e.label: _table(rates, records[k : k + each], search_seeds)
        for e, k in zip(searched, _starts(len(searched), each), strict=True)
    }

    chosen = {
        e.label: e.rule.lr if e.fixed else _choose(tables[e.label])
        for e in competitors
        if e.label not in tuned
    }
    for label, one in tuned.items():
        tables[label], entry = one["table"], one["entry"]
        chosen[label] = None if entry is None else entry.rule.lr
    competitors = [tuned.get(e.label, {}).get("entry") or e for e in competitors]
    finalists = [e for e in competitors if chosen[e.label] is not None]
    final = [
        (e.rule.replace(lr=chosen[e.label]), seed, seed == 0)
        for e in finalists
        for seed in range(seeds)
    ]
    records = _train_all(task, final, schedule, "final runs", options)
    runs = {
        e.label: records[k : k + seeds]
        for e, k in zip(finalists, _starts(len(finalists), seeds), strict=True)
    }

    results = [
        _result(e, chosen[e.label], tables.get(e.label, []), runs.get(e.label, []))
        for e in competitors
    ]
    for result in results:
        if result["label"] in tuned:
            found = tuned[result["label"]]
            result |= {"good_lrs": None, "at_edge": found["at_edge"], "space": found["space"]}
    target = _default_target(results) if target is None else target
    for result in results:
        _add_reach(result, target)
    settings = {
        "seeds": seeds,
        "search_seeds": search_seeds,
        "budget": budget,
        "lr_range": list(lr_range),
        "schedule": schedule,
        "target": target,
        "processes": processes,
    } | ({"tune": tune, "trials": trials} if tune else {})
    study = {"kind": "task", "task": task.to_dict(), "settings": settings, "entries": results}
    study["verdict"], study["caveats"] = verdict.of_task(study, len(task.dataset.test))
    return study | describe() | {"seconds": time.perf_counter() - began}


def _tuned(
    task: Task,
    searched: list[Entry],
    method: str,
    trials: int,
    search_seeds: int,
    first_seed: int,
    schedule: str,
    storage: str | Path | None,
    options: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    from rmsprop.compare_tuned import search_all  # Optuna takes a second to load, and is an extra

    if method not in ("tpe", "random"):
        raise ValueError(f"tune must be tpe or random; got {method!r}")
    return search_all(
        task,
        searched,
        method=method,
        trials=trials,
        search_seeds=search_seeds,
        first_seed=first_seed,
        schedule=schedule,
        storage=storage,
        processes=options["processes"],
        progress=options["progress"],
    )


def _run(task: Task, rule: Rule, seed: int, schedule: str, details: bool) -> Record:
    return train(task, rule, seed=seed, schedule=schedule, details=details).to_dict()


def _train_all(
    task: Task,
    wanted: list[tuple[Rule, int, bool]],
    schedule: str,
    what: str,
    options: dict[str, Any],
) -> list[Record]:
    """The runs of (rule, seed, details), in that order, from the ledger where it has them."""
    if not wanted:
        return []
    jobs = [
        (
            key_of(task.to_dict(), rule.to_dict(), seed, schedule, details),
            (task, rule, seed, schedule, details),
        )
        for rule, seed, details in wanted
    ]
    return run_all(_run, jobs, what=what, **options)


def _starts(count: int, size: int) -> range:
    """Where each of `count` groups of `size` records begins."""
    return range(0, count * size, size)


def _table(rates: list[float], records: list[Record], per_rate: int) -> list[dict[str, Any]]:
    """One row for each learning rate: what its runs scored on the validation split."""
    rows = []
    for lr, k in zip(rates, _starts(len(rates), per_rate), strict=True):
        runs = records[k : k + per_rate]
        good = [run for run in runs if not run["diverged"]]
        whole = len(good) == len(runs)
        rows.append(
            {
                "lr": lr,
                "scores": [run["validation_score"][-1] for run in runs],
                "mean": statistics.mean([run["validation_score"][-1] for run in good]),
                "loss": statistics.mean([run["validation_loss"][-1] for run in good]),
                "diverged": len(runs) - len(good),
                "eligible": whole,
            }
        )
    return rows


def _choose(table: list[dict[str, Any]]) -> float | None:
    """The best mean score among the learning rates at which no run diverged; the loss breaks ties."""
    eligible = [row for row in table if row["eligible"] and row["mean"] is not None]
    if not eligible:
        return None
    return max(eligible, key=lambda row: (row["mean"], -row["loss"]))["lr"]


def _result(
    e: Entry, lr: float | None, table: list[dict[str, Any]], runs: list[Record]
) -> dict[str, Any]:
    """What one competitor did."""
    finished = [run for run in runs if not run["diverged"]]
    rates = [row["lr"] for row in table]
    return e.at(lr) | {
        "at_edge": lr is not None and not e.fixed and lr in (rates[0], rates[-1]),
        "good_lrs": _good_lrs(table),
        "search": table,
        "search_diverged": sum(row["diverged"] for row in table),
        "search_runs": sum(len(row["scores"]) for row in table),
        "runs": runs,
        "final_diverged": len(runs) - len(finished),
        "test_score": statistics.interval([run["test_score"] for run in finished]),
        "test_loss": statistics.interval([run["test_loss"] for run in finished]),
        "validation_score": statistics.interval([run["validation_score"][-1] for run in finished]),
        "seconds": statistics.median([run["seconds"][-1] for run in finished]),
    }


def _good_lrs(table: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The unbroken range of learning rates around the best whose mean score is within TOLERANCE of it."""
    best = _choose(table)
    if best is None:
        return None
    k = next(k for k, row in enumerate(table) if row["lr"] == best)

    def good(j: int) -> bool:
        row = table[j]
        return row["eligible"] and row["mean"] >= table[k]["mean"] - TOLERANCE

    low = high = k
    while low > 0 and good(low - 1):
        low -= 1
    while high + 1 < len(table) and good(high + 1):
        high += 1
    return {"low": table[low]["lr"], "high": table[high]["lr"], "count": high - low + 1}


def _default_target(results: list[dict[str, Any]]) -> float | None:
    means = [r["validation_score"]["mean"] for r in results if r["validation_score"]["n"]]
    return round(0.99 * max(means), 4) if means else None


def _add_reach(result: dict[str, Any], target: float | None) -> None:
    """When the final runs first had the target score on the validation split, at the end of an epoch."""
    steps, seconds = [], []
    for run in result["runs"]:
        k = None
        if target is not None:
            k = statistics.first_reach(run["validation_score"], target, rising=True)
        if k is not None:
            steps.append(run["steps"][k])
            seconds.append(run["seconds"][k])
    result["reached"] = len(steps)
    result["steps_to_target"] = statistics.median(steps)
    result["seconds_to_target"] = statistics.median(seconds)
