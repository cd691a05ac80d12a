"""What a study says, in a sentence, and what it does not say."""

import math
from typing import Any

from rmsprop import statistics
from rmsprop.statistics import Interval

Entry = dict[str, Any]


def of_task(study: dict[str, Any], test_rows: int) -> tuple[str, list[str]]:
    """The verdict and the caveats of a comparison on a task.

    RMSprop is set against the best of the others; without RMSprop or others, the best is named.
    """
    task, settings = study["task"], study["settings"]
    ran = [e for e in study["entries"] if e["test_score"]["n"]]
    if not ran:
        return f"No optimizer finished a run on {task['name']}.", []
    caveats = _task_caveats(study, test_rows)
    ours, others = _two_sides(ran, key=lambda e: e["test_score"]["mean"])
    unit = Unit(task["kind"])
    if not (ours and others):
        return _alone(max(ran, key=lambda e: e["test_score"]["mean"]), task, unit), caveats
    gap = statistics.difference(_scores(ours), _scores(others))
    return _sentence(ours, others, gap, task["name"], settings["seeds"], unit), caveats


def of_surface(study: dict[str, Any]) -> tuple[str, list[str]]:
    """The verdict and the caveats of a comparison on a surface."""
    surface, settings = study["surface"], study["settings"]
    ran = [e for e in study["entries"] if e["final"]["n"]]
    where = f"{surface['name']} from ({', '.join(f'{x:g}' for x in settings['start'])})"
    caveats = _surface_caveats(study)
    if not ran:
        return f"No optimizer stayed finite on {where}.", caveats
    if surface["minimum"] is None:
        return _escape(ran, where), caveats
    best = min(ran, key=lambda e: e["final"]["mean"])
    if len(study["entries"]) == 1:
        text = f"On {where}, {best['label']} ends {_gap(best)} after {settings['steps']:,} steps."
        return text, caveats
    parts = [
        f"On {where}, {best['label']} comes closest in {settings['steps']:,} steps, {_gap(best)}"
    ]
    ours = [e for e in ran if e["is_rmsprop"]]
    if ours and not best["is_rmsprop"]:
        mine = min(ours, key=lambda e: e["final"]["mean"])
        parts.append(f"{mine['label']} ends {_gap(mine)}")
    elif len(ran) > 1:
        second = min((e for e in ran if e is not best), key=lambda e: e["final"]["mean"])
        parts.append(f"next is {second['label']}, {_gap(second)}")
    return "; ".join(parts) + ".", caveats


def _two_sides(ran: list[Entry], key: Any) -> tuple[Entry | None, Entry | None]:
    ours = [e for e in ran if e["is_rmsprop"]]
    others = [e for e in ran if not e["is_rmsprop"]]
    return max(ours, key=key, default=None), max(others, key=key, default=None)


class Unit:
    """How a score is written: an accuracy in per cent, an R^2 as it is."""

    def __init__(self, kind: str):
        self._percent = kind != "regression"
        self.of_test = "test accuracy" if self._percent else "test R^2"

    def score(self, x: float) -> str:
        return f"{100 * x:.2f}%" if self._percent else f"{x:.4f}"

    def gap(self, x: float) -> str:
        text = f"{100 * x:.2f}" if self._percent else f"{x:.4f}"
        text = text.removeprefix("-") if float(text) == 0 else text
        return f"{text} points" if self._percent else text

    def bounds(self, found: Interval, sign: float = 1.0) -> str:
        if found["low"] is None or found["high"] is None:
            return "one seed: no interval"
        factor = 100 * sign if self._percent else sign
        low, high = sorted((factor * found["low"], factor * found["high"]))
        digits = 2 if self._percent else 4
        return f"95% interval {low:.{digits}f} to {high:.{digits}f}"


def _scores(e: Entry) -> dict[int, float]:
    return {run["seed"]: run["test_score"] for run in e["runs"] if run["test_score"] is not None}


def _alone(e: Entry, task: dict[str, Any], unit: Unit) -> str:
    found = e["test_score"]
    return (
        f"On {task['name']}, {e['label']} reaches {unit.score(found['mean'])} {unit.of_test} over "
        f"{found['n']} seeds ({unit.bounds(found)}), with learning rate {e['lr']:.3g}."
    )


def _sentence(ours: Entry, others: Entry, gap: Interval, name: str, seeds: int, unit: Unit) -> str:
    a, b = ours["test_score"]["mean"], others["test_score"]["mean"]
    mean = gap["mean"] or 0.0
    if not statistics.excludes_zero(gap):
        return (
            f"On {name}, {ours['label']} ({unit.score(a)} {unit.of_test}) and the best of the others, "
            f"{others['label']} ({unit.score(b)}), cannot be told apart by {seeds} seeds: "
            f"the difference is {unit.gap(mean)} ({unit.bounds(gap)})."
        )
    if mean > 0:
        return (
            f"On {name}, {ours['label']} is best: {unit.score(a)} {unit.of_test}, {unit.gap(mean)} above "
            f"{others['label']}, the best of the others ({unit.bounds(gap)})."
        )
    return (
        f"On {name}, {others['label']} beats {ours['label']}: {unit.score(b)} {unit.of_test} against "
        f"{unit.score(a)}, a lead of {unit.gap(-mean)} ({unit.bounds(gap, -1.0)})."
    )


def _task_caveats(study: dict[str, Any], test_rows: int) -> list[str]:
    settings, entries = study["settings"], study["entries"]
    found = [
        f"The intervals are over {settings['seeds']} seeds, which change the starting weights and the order "
        "of the mini-batches. The data are split once."
    ]
    best = max((e["test_score"]["mean"] for e in entries if e["test_score"]["n"]), default=None)
    if study["task"]["kind"] != "regression" and best is not None:
        half = 1.96 * math.sqrt(max(best * (1 - best), 0.0) / test_rows)
        found.append(
            f"The test split has {test_rows:,} rows: another draw of as many would move each accuracy by "
            f"about {100 * half:.1f} points either way, for all optimizers alike."
        )
    edges = [e["label"] for e in entries if e["at_edge"]]
    if edges:
        found.append(
            f"The learning rate chosen for {' and '.join(edges)} lies at the edge of the range searched: "
            "a wider --lr-range may do better."
        )
    failed = [e["label"] for e in entries if e["lr"] is None]
    if failed:
        found.append(
            f"At every learning rate some run of {' and '.join(failed)} diverged: no final runs."
        )
    lost = [f"{e['label']} ({e['final_diverged']})" for e in entries if e["final_diverged"]]
    if lost:
        found.append(f"Final runs that diverged are not in the means: {', '.join(lost)}.")
    if any(e["fixed"] for e in entries) and not all(e["fixed"] for e in entries):
        found.append(
            "Some learning rates were given and others searched: that favours the searched."
        )
    searched = (
        f"Each optimizer had {settings['trials']} trials ({settings['tune']}) for all its settings: one with "
        "more settings has more to gain from more trials."
        if settings.get("tune")
        else "Only the learning rate is searched; the other settings are each optimizer's published defaults."
    )
    found.append(f"{searched} Seconds were taken with {settings['processes']} process(es) at work.")
    return found


def _gap(e: Entry) -> str:
    found = e["final"]
    text = f"{found['mean']:.2g} above the minimum"
    if found["low"] is not None:
        text += f" (95% interval {found['low']:.2g} to {found['high']:.2g})"
    return text + f" at learning rate {e['lr']:.3g}"


def _escape(ran: list[Entry], where: str) -> str:
    left = [e for e in ran if e["steps_to_target"] is not None]
    if not left:
        return f"On {where}, no optimizer left the domain."
    times = sorted((e["steps_to_target"], e["label"]) for e in left)
    told = ", ".join(f"{label} after {steps:,.0f}" for steps, label in times)
    return f"On {where}, which has no minimum, these leave the domain: {told} steps."


def _surface_caveats(study: dict[str, Any]) -> list[str]:
    settings, entries, surface = study["settings"], study["entries"], study["surface"]
    if surface["minimum"] is None:
        return [
            "There is no minimum to reach, and a larger learning rate leaves sooner: all use the rate that "
            "is given, and none is searched."
        ]
    found = [
        "Heights are geometric means over the last tenth of the steps, so that a path that oscillates is not "
        "judged by where it happens to stop.",
        "A learning rate that is tuned to one start and one number of steps is the best case of each "
        "optimizer, not what to expect elsewhere.",
    ]
    if surface["noise"]:
        found.append(
            f"The means are over {settings['seeds']} draws of the noise; the rates were chosen on others."
        )
    else:
        found.append("Without noise a path is certain: there are no seeds and no intervals.")
    lost = [f"{e['label']} ({e['final_diverged']})" for e in entries if e["final_diverged"]]
    if lost:
        found.append(f"Final paths that diverged are not in the means: {', '.join(lost)}.")
    edges = [e["label"] for e in entries if e["at_edge"]]
    if edges:
        found.append(
            f"The learning rate chosen for {' and '.join(edges)} lies at the edge of the range searched: "
            "a wider --lr-range may do better."
        )
    return found
