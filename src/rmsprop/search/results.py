"""What a search says: the ranking, the finalists with intervals, the winner and the ready lines."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from rmsprop import statistics
from rmsprop.environment import PACKAGES as ALWAYS
from rmsprop.search.loop import failures
from rmsprop.search.owners import is_gone
from rmsprop.search.splits import single_splits
from rmsprop.search.storage import open_storage, shown, storage_url
from rmsprop.search.study import MORE, OWNER, Study
from rmsprop.search.values import config_of
from rmsprop.search.winner import gain_of, sentence, winner_of, word
from rmsprop.space import to_dict

if TYPE_CHECKING:
    from rmsprop.search.plan import Options, Plan

PACKAGES = (*ALWAYS, "optuna")
ENOUGH = 10
"""Trials from which on the importance of a parameter is worth a number."""
Record = dict[str, Any]


def ranked(study: Study) -> list[Record]:
    """The trials that ended, the best first; where values are equal the lower loss decides."""
    sign = -1.0 if study.optuna.direction.name == "MAXIMIZE" else 1.0
    found = [record(study, t) for t in study.trials() if t.state is TrialState.COMPLETE]
    return sorted(found, key=lambda t: (sign * t["value"], t.get("loss") or 0.0, t["number"]))


def record(study: Study, trial: optuna.trial.FrozenTrial) -> Record:
    """A trial, ready for JSON."""
    values = trial.values
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "config": config_of(study.space, trial),
        "value": values[0] if values else None,
        "reports": len(trial.intermediate_values),
    } | trial.user_attrs.get(MORE, {})


def final_runs(study: Study, configs: Sequence[Record], seeds: int) -> Record:
    """The final runs of each config."""
    rows: list[Record] = [{"config": config, "runs": []} for config in configs]
    for trial in study.trials():
        at = config_of(study.space, trial)
        if trial.state is TrialState.COMPLETE and at:
            test = trial.user_attrs[MORE].get("test")
            value = trial.values[0]
            run = {"seed": int(at["of_seed"]), "value": value, "test": test}
            rows[int(at["config"])]["runs"].append(run)
    for row in rows:
        row["runs"].sort(key=lambda run: run["seed"])
        row["failed"] = seeds - len(row["runs"])
        row["value"] = statistics.interval([run["value"] for run in row["runs"]])
        tests = [run["test"] for run in row["runs"] if run["test"] is not None]
        row["test"] = statistics.interval(tests)
    return {"rows": rows, "seeds": seeds}


def summary(
    plan: "Plan",
    study: Study,
    order: list[Record],
    finals: Record | None,
    chosen: "Options",
    budget: int,
) -> Record:
    """The study as a whole, ready for JSON."""
    from sqlalchemy.engine import make_url

    trials = [record(study, t) for t in study.trials()]
    url = getattr(study.storage_behind, "url", None)
    found: Record = {
        "kind": "search",
        "name": plan.name,
        "label": plan.label,
        "study": study.name,
        "storage": None if url is None else shown(make_url(url)),
        "direction": plan.direction,
        "space": [to_dict(d) for d in plan.space],
        "task": plan.task,
        "optimizer": None if plan.entry is None else plan.entry.label,
        "settings": {
            "method": chosen.method,
            "trials": max(budget, len(trials)),
            "finalists": chosen.finalists,
            "seeds": finals["seeds"] if finals else 0,
            "search_seeds": plan.about.get("search_seeds", 1),
            "splits": chosen.splits,
            "schedule": plan.about.get("schedule"),
            "prune": chosen.prune,
            "seed": chosen.seed,
        },
        "trials": trials,
        "ranking": order,
        "failures": failures(study),
        "importance": importance(study),
        "defaults": None,
        "finalists": [],
        "winner": None,
        "gain": None,
    }
    if plan.entry is not None and finals is not None:
        *rows, found["defaults"] = finals["rows"]
        found["finalists"] = rows
    elif finals is not None:
        found["finalists"] = finals["rows"]
    found["winner"] = winner_of(plan, found, order)
    if found["winner"] is not None:
        found["gain"] = gain_of(found)
    found["splits"] = single_splits(order)
    found["sentence"] = sentence(found)
    return found


def look(where: Any, name: str | None = None) -> Record:
    """What a study in a storage has so far: ended, stopped, or under way elsewhere.

    Parameters
    ----------
    where
        As in `storage.storage_url`.
    name
        Of the study; None for the only one.

    Returns
    -------
    dict
        Of what `tune` returns the "study", "space", "direction", "trials", "ranking", "failures",
        "importance", "splits" and "sentence"; and how many trials are "under_way".

    Raises
    ------
    ConnectionError, FileNotFoundError, ValueError
        Where it cannot be opened, or has no such study.
    """
    url = storage_url(where)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise FileNotFoundError(
            f"There is no file {url.database}: name one that a search has made."
        )
    storage = open_storage(url)
    study = Study.open(storage, name)
    order = ranked(study)
    trials = [record(study, t) for t in study.trials()]
    under_way = sum(
        t.state is TrialState.RUNNING and not is_gone(t.user_attrs.get(OWNER, ""))
        for t in study.trials()
    )
    again = sum(t["state"] in ("running", "waiting") for t in trials) - under_way
    failed = failures(study)
    text = f"{study.name}: {len(trials) - under_way - again} trials have ended"
    text += f", {len(failed)} of them failed" if failed else ""
    text += f", {under_way} are under way" if under_way else ""
    text += f", {again} were stopped and are to be tried again" if again else ""
    if order:
        at = ", ".join(f"{k}={word(v)}" for k, v in order[0]["config"].items())
        text += f"; the best has {order[0]['value']:.6g}, at {at}"
    return {
        "kind": "search",
        "study": study.name,
        "task": None,
        "direction": study.optuna.direction.name.lower(),
        "space": [to_dict(d) for d in study.space],
        "trials": trials,
        "ranking": order,
        "failures": failed,
        "importance": importance(study),
        "splits": single_splits(order),
        "under_way": under_way,
        "winner": None,
        "sentence": text + ".",
    }


def importance(study: Study) -> dict[str, float] | None:
    """How much of the variance of the values each parameter explains (fANOVA); None for too few trials."""
    ended = [t for t in study.trials() if t.state is TrialState.COMPLETE]
    if len(ended) < ENOUGH or len({t.values[0] for t in ended}) < 2 or len(study.space) < 2:
        return None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(study.optuna, evaluator=evaluator)
        except (ValueError, RuntimeError):  # values without variance
            return None
    return {name.removeprefix("1-"): float(share) for name, share in found.items()}
