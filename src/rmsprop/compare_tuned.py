"""The search of a comparison in which every setting is tuned, not the learning rate alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmsprop import statistics
from rmsprop.entries import Entry
from rmsprop.ledger import Progress
from rmsprop.search import tune
from rmsprop.space import Range, from_dict

EDGE = 0.02  # of a range: nearer than this to an end, the best may lie beyond


def search_all(
    task: Any,
    competitors: Sequence[Entry],
    *,
    method: str,
    trials: int,
    search_seeds: int,
    first_seed: int,
    schedule: str,
    storage: str | Path | None,
    processes: int,
    progress: Progress | None,
) -> dict[str, dict[str, Any]]:
    """Search each competitor's own space with equal budgets.

    Returns
    -------
    dict
        By label: "entry", the competitor with the values found, or None if every trial failed; "table", a
        row for each trial in the order of learning rates, as `compare` makes of its own search; "space", the
        ranges in words; "at_edge", whether the learning rate lies at an end of its range.
    """
    found = {}
    for e in competitors:
        study = tune(
            task,
            optimizer=e,
            method=method,
            trials=trials,
            search_seeds=search_seeds,
            first_seed=first_seed,
            schedule=schedule,
            finalists=0,
            storage=storage,
            study=f"{e.label}, {trials} trials",
            jobs=processes,
            progress=_labelled(progress, e.label),
        )
        winner = study["winner"]
        config = {} if winner is None else winner["config"]
        found[e.label] = {
            "entry": None if winner is None else _with(e, config),
            "table": _table(study, e, search_seeds),
            "space": " ".join(str(from_dict(d)) for d in study["space"]),
            "at_edge": _at_edge(study["space"], config),
        }
    return found


def _labelled(progress: Progress | None, label: str) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, what: progress(done, total, f"{what} of {label}")


def _with(e: Entry, config: dict[str, Any]) -> Entry:
    return Entry(e.label, e.rule.replace(**config), e.fixed, e.given)


def _table(study: dict[str, Any], e: Entry, per_trial: int) -> list[dict[str, Any]]:
    rows = []
    for trial in study["trials"]:
        scores = trial.get("scores", [])
        whole = trial["state"] == "complete"
        rows.append(
            {
                "lr": trial["config"].get("lr", e.rule.lr),
                "scores": scores or [None] * per_trial,
                "mean": statistics.mean(scores) if whole else None,
                "loss": trial.get("loss"),
                "diverged": int(bool(trial.get("diverged"))),
                "eligible": whole,
                "config": trial["config"],
            }
        )
    return sorted(rows, key=lambda row: row["lr"])


def _at_edge(space: list[dict[str, Any]], config: dict[str, Any]) -> bool:
    for d in map(from_dict, space):
        if isinstance(d, Range) and d.name == "lr" and "lr" in config:
            return not EDGE < d.place(config["lr"]) < 1 - EDGE
    return False
