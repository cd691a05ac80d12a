"""The winner of a search: how it was chosen, what it gains, and the lines to use it by."""

import json
import re
from typing import TYPE_CHECKING, Any

from rmsprop import statistics
from rmsprop.rule import Rule
from rmsprop.settings import Settings, resolved, to_toml
from rmsprop.verdict import Unit

if TYPE_CHECKING:
    from rmsprop.search.plan import Plan

Record = dict[str, Any]


def winner_of(plan: "Plan", found: Record, order: list[Record]) -> Record | None:
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
        "chosen_by": "trial" if best is None else "final runs",
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
    objective: Any = plan.objective
    own = Rule(lr=rule.lr).to_dict()
    spec = [
        f"{key}={word(value)}"
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


def word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value!r}"


def gain_of(found: Record) -> Record | None:
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
        return _of_function(found, count)
    unit = Unit(found["task"]["kind"])
    name = f"On {found['label']}, the tuned {found['optimizer']}"
    if winner["test"] is None or winner["test"]["mean"] is None:
        return f"{name} scores {unit.score(winner['value'])} on the validation split, the best of {count}."
    text = f"{name} reaches {unit.score(winner['test']['mean'])} {unit.of_test} after {count}"
    gain = found["gain"]
    if gain is None:
        return f"{text}; its defaults finished no run."
    paired = f"{gain['n']} seed{'s' * (gain['n'] > 1)}"
    if gain["n"] < settings["seeds"]:
        paired += f", those of {settings['seeds']} in which both finished"
    if not statistics.excludes_zero(gain):
        return (
            f"{text}, and cannot be told apart from its defaults by {paired}: the difference is "
            f"{unit.gap(gain['mean'])} ({unit.bounds(gain)})."
        )
    side = "above" if gain["mean"] > 0 else "below"
    return (
        f"{text}, {unit.gap(abs(gain['mean']))} {side} its defaults over {paired} "
        f"({unit.bounds(gain, 1.0 if gain['mean'] > 0 else -1.0)})."
    )


def _of_function(found: Record, count: str) -> str:
    winner, v = found["winner"], found["winner"]["validation"]
    where = ", ".join(f"{k}={word(x)}" for k, x in winner["config"].items())
    best = found["ranking"][0]["number"] == winner["number"]
    which = f"the best, trial {winner['number']}," if best else f"trial {winner['number']}"
    text = f"Of {count} of {found['label']}, {which} "
    if v is None:
        return f"{text}has {winner['value']:.6g}, at {where}."
    text += f"wins: {v['mean']:.6g} over {v['n']} new seed{'s' * (v['n'] > 1)}"
    text += "" if v["low"] is None else f" (95% interval {v['low']:.6g} to {v['high']:.6g})"
    return f"{text}, at {where}; its trial came to {winner['value']:.6g}."
