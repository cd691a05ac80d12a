"""What a limitation is made of: settings tried on the same seeds, and what their differences say."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmsprop import statistics
from rmsprop.rule import Rule
from rmsprop.schedules import Schedule
from rmsprop.statistics import Interval

HELPS, SAME, HURTS = "helps", "makes no clear difference", "hurts"
# Of what is measured in logarithms: below the floor all have arrived, and infinity has no mean.
FLOOR, CEILING = 1e-9, 1e12
CURVE_POINTS = 120


@dataclass(frozen=True)
class Measure:
    """What the runs of a part are judged by.

    Parameters
    ----------
    name
        In words, for tables and axes.
    higher_is_better
        Else lower is.
    log
        Whether values are compared by their ratio (means are geometric) rather than by their difference.
    percent
        Whether a value is a fraction to be shown in per cent.
    """

    name: str
    higher_is_better: bool = False
    log: bool = False
    percent: bool = False

    def kept(self, values: Any) -> list[float]:
        """The values as plain numbers that have a mean: with `log`, from FLOOR to CEILING.

        Examples
        --------
        >>> Measure("height", log=True).kept([0.0, 2.0, float("inf"), float("nan")])
        [1e-09, 2.0, 1000000000000.0, 1000000000000.0]
        """
        flat = np.asarray(values, dtype=np.float64)
        if self.log:
            flat = np.clip(np.where(np.isnan(flat), CEILING, flat), FLOOR, CEILING)
        return [float(x) for x in flat]

    def summary(self, values: Sequence[float]) -> Interval:
        """The mean with its 95% interval; with `log`, the geometric mean, its interval in the values' unit.

        Examples
        --------
        >>> round(Measure("height", log=True).summary([1.0, 100.0])["mean"], 6)
        10.0
        """
        if not self.log:
            return statistics.interval(values)
        found = statistics.interval([math.log10(x) for x in values])
        # Of two values an interval is so wide that a power of ten overflows.
        powers = {k: x if k == "n" or x is None else 10.0 ** max(-300.0, min(300.0, x))
                  for k, x in found.items()}  # fmt: skip
        return {**found, **powers}

    def difference(self, a: Sequence[float], b: Sequence[float]) -> Interval:
        """The interval of a - b, seed by seed; with `log`, of log10(a / b).

        Examples
        --------
        >>> Measure("height", log=True).difference([1.0, 1.0], [100.0, 100.0])["mean"]
        -2.0
        """
        f = math.log10 if self.log else float
        return statistics.difference(
            {k: f(x) for k, x in enumerate(a)}, {k: f(x) for k, x in enumerate(b)}
        )


def judge(difference: Interval, higher_is_better: bool) -> str:
    """What a paired difference, cure minus none, says: HELPS, HURTS, or SAME where its interval holds 0.

    Raises
    ------
    ValueError
        For a difference without an interval: one seed says nothing.

    Examples
    --------
    >>> judge({"mean": -1.0, "low": -1.5, "high": -0.5, "n": 5}, higher_is_better=False)
    'helps'
    >>> judge({"mean": -1.0, "low": -2.5, "high": 0.5, "n": 5}, higher_is_better=False)
    'makes no clear difference'
    """
    mean = difference["mean"]
    if mean is None or difference["low"] is None:
        raise ValueError(f"a verdict needs 2 seeds or more; got {difference['n']}: raise seeds")
    if not statistics.excludes_zero(difference):
        return SAME
    return HELPS if (mean > 0) == higher_is_better else HURTS


def variant(
    measure: Measure,
    label: str,
    values: Any,
    curves: Any,
    xs: Any = None,
    *,
    rule: Rule,
    schedule: Schedule | None = None,
    note: str = "",
) -> dict[str, Any]:
    """One way to run, with what its runs gave.

    Parameters
    ----------
    measure
        What `values` are.
    label
        A few words.
    values
        (seeds,): what each run is judged by.
    curves
        (seeds, moments): what the picture shows of each run.
    xs
        (moments,): the step of each moment; default 0, 1, 2, ...
    rule, schedule
        What was run; without a schedule the rate is constant.
    note
        What else was done, such as how the weights were drawn.

    Examples
    --------
    >>> v = variant(Measure("loss"), "plain", [1.0, 3.0], [[4.0, 1.0], [4.0, 3.0]], rule=Rule(lr=0.1))
    >>> v["summary"]["mean"], v["curve"]["median"], v["schedule"]
    (2.0, [4.0, 2.0], 'constant 0.1')
    """
    kept = measure.kept(values)
    plan = f"constant {rule.lr:.3g}" if schedule is None else _named(schedule)
    return {
        "label": label,
        "rule": rule.to_dict(),
        "equations": rule.equations(),
        "schedule": plan,
        "note": note,
        "values": kept,
        "summary": measure.summary(kept),
        "curve": _curve(np.asarray(curves, dtype=np.float64), xs),
    }


def _named(schedule: Schedule) -> str:
    """The schedule as it prints, its numbers to three digits."""
    return re.sub(r"\d+\.\d{4,}(e-?\d+)?", lambda x: f"{float(x[0]):.3g}", repr(schedule))


def _curve(curves: Any, xs: Any) -> dict[str, list[Any]]:
    """The median over seeds and the range, at no more moments than a picture can show."""
    xs = np.arange(curves.shape[1]) if xs is None else np.asarray(xs)
    take = np.unique(np.linspace(0, len(xs) - 1, CURVE_POINTS).round().astype(int))
    held = np.clip(np.nan_to_num(curves[:, take], nan=CEILING), -CEILING, CEILING)
    return {
        "x": xs[take].tolist(),
        "median": np.median(held, axis=0).tolist(),
        "low": held.min(axis=0).tolist(),
        "high": held.max(axis=0).tolist(),
    }


def part(
    name: str,
    setting: str,
    measure: Measure,
    variants: Sequence[dict[str, Any]],
    pairs: Sequence[tuple[str, str]],
    *,
    curve: str,
    log_curve: bool = True,
) -> dict[str, Any]:
    """One experiment: its variants, and each cure set against what it should cure.

    Parameters
    ----------
    name, setting
        A few words; and sentences that say what was run.
    measure, variants
        What runs are judged by, and the runs.
    pairs
        (label of the cure, label of what it is set against).
    curve, log_curve
        What the curves are, and whether their axis is logarithmic.

    Raises
    ------
    KeyError, ValueError
        For a pair that names no variant, and for variants of one run.

    Examples
    --------
    >>> loss, runs = Measure("loss"), {"plain": [9.0, 9.5, 9.2], "cure": [1.0, 1.4, 1.1]}
    >>> variants = [variant(loss, k, x, [[9.0]] * 3, rule=Rule()) for k, x in runs.items()]
    >>> found = part("digits", "Made up.", loss, variants, [("cure", "plain")], curve="loss")
    >>> print(found["comparisons"][0]["text"])
    cure helps: loss 1.17 against 9.23 (plain); difference -8.07, -8.21 to -7.92.
    """
    by_label = {v["label"]: v for v in variants}
    return {
        "name": name,
        "setting": setting,
        "measure": {
            "name": measure.name,
            "higher_is_better": measure.higher_is_better,
            "log": measure.log,
            "percent": measure.percent,
        },
        "curve": {"name": curve, "log": log_curve},
        "variants": list(variants),
        "comparisons": [_compare(measure, by_label[a], by_label[b]) for a, b in pairs],
    }


def _compare(measure: Measure, cure: dict[str, Any], against: dict[str, Any]) -> dict[str, Any]:
    found = measure.difference(cure["values"], against["values"])
    verdict = judge(found, measure.higher_is_better)
    return {
        "cure": cure["label"],
        "against": against["label"],
        "difference": found,
        "verdict": verdict,
        "text": sentence(measure, cure, against, found, verdict),
    }


def sentence(
    measure: Measure,
    cure: dict[str, Any],
    against: dict[str, Any],
    found: Interval,
    verdict: str,
) -> str:
    """A comparison in words, every number from the runs.

    Examples
    --------
    >>> accuracy = Measure("test accuracy", higher_is_better=True, percent=True)
    >>> a, b = ({"label": x, "summary": {"mean": m}} for x, m in (("cosine", 0.98), ("constant", 0.95)))
    >>> gap = {"mean": 0.03, "low": 0.02, "high": 0.04, "n": 5}
    >>> print(sentence(accuracy, a, b, gap, "helps"))
    cosine helps: test accuracy 98.00% against 95.00% (constant); difference +3.00 points, +2.00 to +4.00.
    """
    a, b = (shown(measure, x["summary"]["mean"]) for x in (cure, against))
    gap = f"{cure['label']} {verdict}: {measure.name} {a} against {b} ({against['label']}); "
    if found["low"] == found["high"] == 0:
        return gap + "the same in every seed."
    return gap + gap_text(measure, found) + "."


def gap_text(measure: Measure, found: Interval) -> str:
    """A paired difference with its 95% interval: a ratio, or a difference.

    Examples
    --------
    >>> gap_text(Measure("height", log=True), {"mean": -2.0, "low": -3.0, "high": -1.0, "n": 5})
    'ratio 0.01, 0.001 to 0.1'
    """
    mean, low, high = (found[k] or 0.0 for k in ("mean", "low", "high"))
    if measure.log:
        ratio = [10.0 ** max(-300.0, min(300.0, x)) for x in (mean, low, high)]
        return "ratio {:.2g}, {:.2g} to {:.2g}".format(*ratio)
    if measure.percent:
        return f"difference {100 * mean:+.2f} points, {100 * low:+.2f} to {100 * high:+.2f}"
    return f"difference {mean:+.3g}, {low:+.3g} to {high:+.3g}"


def shown(measure: Measure, x: float | None) -> str:
    """A value of the measure, for people.

    Examples
    --------
    >>> shown(Measure("test accuracy", percent=True), 0.5), shown(Measure("height"), 0.0123)
    ('50.00%', '0.0123')
    """
    if x is None:
        return "none"
    return f"{100 * x:.2f}%" if measure.percent else f"{x:.3g}"


def limit(
    key: str,
    title: str,
    why: Sequence[str],
    equation: str,
    cure: str,
    parts: Sequence[dict[str, Any]],
    slides: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """A limitation with its experiments.

    Parameters
    ----------
    key, title
        One word, and a line.
    why
        Paragraphs: what happens, and why.
    equation
        The lines of algebra behind it.
    cure
        What is tried against it.
    parts
        From `part`.
    slides
        What the slides say of it, as {"claim", "fact"}.
    """
    return {
        "key": key,
        "title": title,
        "why": list(why),
        "equation": equation,
        "cure": cure,
        "parts": list(parts),
        "slides": list(slides),
        "verdict": overall(parts),
    }


def overall(parts: Sequence[dict[str, Any]]) -> str:
    """All comparisons of a limitation in one line, sorted by what they say.

    Examples
    --------
    >>> found = [{"cure": "cosine", "against": "constant", "verdict": HELPS}]
    >>> overall([{"name": "digits", "comparisons": found}])
    'Helps: cosine (digits).'
    """
    groups: dict[str, list[str]] = {HELPS: [], SAME: [], HURTS: []}
    for p in parts:
        verdicts: dict[str, set[str]] = {}
        for c in p["comparisons"]:
            verdicts.setdefault(c["cure"], set()).add(c["verdict"])
        for c in p["comparisons"]:
            # A cure of several ills is named once, unless it does not do the same to all.
            against = "" if len(verdicts[c["cure"]]) == 1 else f" against {c['against']}"
            text = f"{c['cure']}{against} ({p['name']})"
            if text not in groups[c["verdict"]]:
                groups[c["verdict"]].append(text)
    return " ".join(
        f"{verdict.capitalize()}: {'; '.join(who)}." for verdict, who in groups.items() if who
    )


def tally(limits: Sequence[dict[str, Any]], seeds: int) -> str:
    """How many of all the comparisons help, in a sentence.

    Examples
    --------
    >>> found = {"comparisons": [{"verdict": HELPS}, {"verdict": HURTS}]}
    >>> print(tally([{"parts": [found]}], seeds=5))
    Of 2 cures tried against 1 limitation, paired over 5 seeds: 1 helps, 1 hurts.
    """
    found = [c["verdict"] for x in limits for p in x["parts"] for c in p["comparisons"]]
    words = {
        HELPS: ("helps", "help"),
        SAME: ("makes no clear difference", "make no clear difference"),
        HURTS: ("hurts", "hurt"),
    }
    counts = [(found.count(v), one, many) for v, (one, many) in words.items() if v in found]
    told = ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts)
    plural = ["" if n == 1 else "s" for n in (len(found), len(limits))]
    return (
        f"Of {len(found)} cure{plural[0]} tried against {len(limits)} limitation{plural[1]}, paired over "
        f"{seeds} seeds: {told}."
    )
