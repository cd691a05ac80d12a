"""What a search says: the ranking, the finalists with intervals, the winner and the ready lines."""

import json
import math
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from rmsprop import statistics
from rmsprop.environment import PACKAGES as ALWAYS
from rmsprop.rule import Rule
from rmsprop.search.loop import failures
from rmsprop.search.storage import open_storage, shown
from rmsprop.search.study import MORE, Study
from rmsprop.search.values import config_of
from rmsprop.space import to_dict
from rmsprop.verdict import Unit

if TYPE_CHECKING:
    from rmsprop.search.tuning import Options, Plan

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
            "trials": budget,
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
    found["winner"] = _winner(plan, found, order)
    if found["winner"] is not None:
        found["gain"] = _gain(found)
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
        As of `tune`, without finalists and winner; "under_way" trials.

    Raises
    ------
    ConnectionError, ValueError
        Where it cannot be opened, or has no such study.
    """
    storage = open_storage(where)
    study = Study.open(storage, name)
    order = ranked(study)
    trials = [record(study, t) for t in study.trials()]
    under_way = sum(t["state"] in ("running", "waiting") for t in trials)
    failed = failures(study)
    text = f"{study.name}: {len(trials) - under_way} trials have ended"
    text += f", {len(failed)} of them failed" if failed else ""
    text += f", {under_way} are under way" if under_way else ""
    if order:
        at = ", ".join(f"{k}={_word(v)}" for k, v in order[0]["config"].items())
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


def single_splits(order: list[Record]) -> Record | None:
    """What one seed (with its split) alone would have said, where each trial is the mean of several.

    Returns
    -------
    dict
        "seeds"; "rows": for each trial in the order of the ranking the "interval" of its scores and that of
        its paired "behind" the best; "same": in how many seeds the best of that seed alone is the best of
        all; "alone": how often chance names the best where each trial is scored with a seed of its own, as
        where each is split anew; "named": the trials that single seeds name, with how many did.
    """
    whole = [t for t in order if len(t.get("scores") or ()) > 1]
    if len(whole) < 2:
        return None
    scores = [t["scores"] for t in whole]
    seeds = len(scores[0])
    rows = []
    for t in whole:
        behind = [a - b for a, b in zip(scores[0], t["scores"], strict=True)]
        rows.append(
            {
                "number": t["number"],
                "interval": statistics.interval(t["scores"]),
                "behind": statistics.interval(behind),
            }
        )
    named: dict[int, int] = {}
    for k in range(seeds):
        best = max(range(len(whole)), key=lambda j: scores[j][k])
        named[whole[best]["number"]] = named.get(whole[best]["number"], 0) + 1
    return {
        "seeds": seeds,
        "rows": rows,
        "same": named.get(whole[0]["number"], 0),
        "alone": _alone(scores),
        "named": dict(sorted(named.items(), key=lambda pair: -pair[1])),
    }


def _alone(scores: list[list[float]]) -> float:
    """The chance that the first has the best score where each draws one of its own at random; ties shared.

    ::

        P = mean over its scores s of product over the others of P(theirs < s), ties broken evenly
    """
    first, others = scores[0], scores[1:]
    total = 0.0
    for s in first:
        # The polynomial of how many others tie with s, given that none is above.
        ties = [1.0]
        for other in others:
            below = sum(x < s for x in other) / len(other)
            same = sum(x == s for x in other) / len(other)
            ties = [
                below * (ties[k] if k < len(ties) else 0.0) + same * (ties[k - 1] if k else 0.0)
                for k in range(len(ties) + 1)
            ]
        total += math.fsum(chance / (k + 1) for k, chance in enumerate(ties))
    return total / len(first)


def _winner(plan: "Plan", found: Record, order: list[Record]) -> Record | None:
    """The finalist that is best on the validation split over the final seeds; else the best trial."""
    if not order:
        return None
    sign = 1.0 if plan.direction == "maximize" else -1.0
    whole = [row for row in found["finalists"] if row["runs"] and not row["failed"]]
    best = max(whole, key=lambda row: sign * row["value"]["mean"], default=None)
    config = order[0]["config"] if best is None else best["config"]
    number = next(t["number"] for t in order if t["config"] == config)
    winner: Record = {
        "number": number,
        "config": config,
        "value": next(t["value"] for t in order if t["number"] == number),
        "validation": best and best["value"],
        "test": best and best["test"],
    }
    if plan.entry is not None:
        rule = plan.entry.rule.replace(**config)
        winner |= {"rule": rule.to_dict(), "equations": rule.equations(), "python": repr(rule)}
        winner["toml"] = _toml(plan, rule)
    else:
        winner["python"] = repr(config)
        winner["toml"] = _table(config)
    return winner


def _toml(plan: "Plan", rule: Rule) -> str:
    """Settings for `rmsprop train --config`."""
    from rmsprop.settings import Settings, resolved, to_toml

    objective: Any = plan.objective
    own = Rule(lr=rule.lr).to_dict()
    spec = [
        f"{key}={_word(value)}"
        for key, value in rule.to_dict().items()
        if key not in ("lr", "clip_global_norm", "second_moment", "first_moment")
        and value != own[key]
    ]
    assert plan.entry is not None
    name = "rmsprop" if plan.entry.is_rmsprop else plan.entry.label.partition(" ")[0].lower()
    source = objective.task
    task = source.task if isinstance(source, Settings) else getattr(source, "data", source.name)
    given = Settings(
        task, optimizer=":".join([name, *spec]), lr=rule.lr, schedule=objective.schedule
    )
    if isinstance(source, Settings) or not hasattr(source, "data"):
        return to_toml(given)
    return to_toml(resolved(given, source, rule))


def _table(config: Record) -> str:
    bare = re.compile(r"[A-Za-z0-9_-]+")
    return "".join(
        f"{key if bare.fullmatch(key) else json.dumps(key)} = {json.dumps(value)}\n"
        for key, value in config.items()
    )


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value!r}"


def _gain(found: Record) -> Record | None:
    """How far the winner is ahead of the optimizer as it is, on the test split, paired by seed."""
    rows = [row for row in found["finalists"] if row["config"] == found["winner"]["config"]]
    if not rows or found["defaults"] is None:
        return None
    a, b = (
        {run["seed"]: run["test"] for run in row["runs"] if run["test"] is not None}
        for row in (rows[0], found["defaults"])
    )
    gain = statistics.difference(a, b)
    return gain if gain["n"] else None


def sentence(found: Record) -> str:
    """What the search came to, in one sentence."""
    winner, settings = found["winner"], found["settings"]
    count = f"{len(found['trials'])} trials"
    if winner is None:
        return f"None of {count} of {found['label']} succeeded."
    if found["task"] is None:
        where = ", ".join(f"{k}={_word(v)}" for k, v in winner["config"].items())
        text = f"The best of {count} of {found['label']} is {winner['value']:.6g}, at {where}"
        if winner["validation"] and winner["validation"]["low"] is not None:
            v = winner["validation"]
            text += f"; over {v['n']} seeds {v['mean']:.6g} "
            text += f"(95% interval {v['low']:.6g} to {v['high']:.6g})"
        return text + "."
    unit = Unit(found["task"]["kind"])
    name = f"On {found['label']}, the tuned {found['optimizer']}"
    if winner["test"] is None or winner["test"]["mean"] is None:
        return f"{name} scores {unit.score(winner['value'])} on the validation split, the best of {count}."
    text = f"{name} reaches {unit.score(winner['test']['mean'])} {unit.of_test} after {count}"
    gain = found["gain"]
    if gain is None:
        return f"{text}; its defaults diverge."
    if not statistics.excludes_zero(gain):
        return (
            f"{text}, and cannot be told apart from its defaults by {settings['seeds']} seeds: the "
            f"difference is {unit.gap(gain['mean'])} ({unit.bounds(gain)})."
        )
    side = "above" if gain["mean"] > 0 else "below"
    return (
        f"{text}, {unit.gap(abs(gain['mean']))} {side} its defaults "
        f"({unit.bounds(gain, 1.0 if gain['mean'] > 0 else -1.0)})."
    )
