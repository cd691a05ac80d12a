"""The pictures of a search: its trials, what mattered in them, and what its finalists came to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import cm, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rmsprop import statistics
from rmsprop.plots import COLORS, tidy
from rmsprop.plots_scales import MOST_TICKS, dimension_of, label_axis, literal, marks, places, words
from rmsprop.space import Choice, Dimension, Range

Study = dict[str, Any]
Trial = dict[str, Any]

OURS, OTHER, GREEN, GREY = COLORS[0], COLORS[1], COLORS[2], "0.6"
MOST_ROWS = 20  # of configs in one picture
MOST_LETTERS = 45  # of a config beside its row
STRIP = 0.135  # the height of that part of a picture where trials without a value are marked
_LOST = {"pruned": "pruned", "diverged": "diverged", "fail": "failed"}
_MARKS = {"pruned": "|", "diverged": "x", "fail": "X"}


class Values:
    """How the values of a study are drawn: scores in per cent, positive losses over decades on a log axis."""

    def __init__(self, study: Study):
        task = study["task"]
        self.higher_is_better = study["direction"] == "maximize"
        percent = task is not None and task["kind"] != "regression"
        self.factor = 100.0 if percent else 1.0
        self.name = (
            "value" if task is None else f"validation {task['metric']}{', %' if percent else ''}"
        )
        self.ended = [t for t in study["trials"] if t["state"] == "complete"]
        self.has_lost = any(state_of(t) in _LOST for t in study["trials"])
        values = self.of(self.ended)
        self.log = bool(len(values) and values.min() > 0 and values.max() > 30 * values.min())
        self.log = self.log and not self.higher_is_better
        self.limits = self._limits(values)

    def of(self, trials: Sequence[Trial]) -> np.ndarray[Any, Any]:
        """The values of trials that ended, as drawn."""
        return self.factor * np.array([t["value"] for t in trials], dtype=np.float64)

    def clipped(self, values: Any) -> np.ndarray[Any, Any]:
        """The values, those beyond the axis at its end."""
        return np.clip(values, *self.limits)

    def on(self, ax: Axes) -> None:
        """Make this the vertical axis, with a strip below the values for the marks of lost trials."""
        low, high = np.log(self.limits) if self.log else np.array(self.limits)
        room = 0.08 * (high - low)
        ends = np.array([low - (2.6 if self.has_lost else 1.0) * room, high + room])
        ax.set_yscale("log" if self.log else "linear")
        ax.set_ylim(*(np.exp(ends) if self.log else ends))
        ax.set_ylabel(self.name)
        if self.has_lost:
            ax.plot([0, 1], [STRIP, STRIP], color="0.7", lw=0.8, ls=":", transform=ax.transAxes)

    def _limits(self, values: np.ndarray[Any, Any]) -> tuple[float, float]:
        """All values; but of those that lie far behind the best, only what leaves the others apart."""
        if not len(values):
            return 0.0, 1.0
        low, high = float(values.min()), float(values.max())
        if not low < high:
            room = 0.1 * abs(low) or 1.0
            return low - room, high + room
        if self.log:
            return low, high
        behind = np.sort(high - values if self.higher_is_better else values - low)
        reach = 4 * float(np.median(behind[behind > 0]))
        return (
            (max(low, high - reach), high)
            if self.higher_is_better
            else (low, min(high, low + reach))
        )


def best_so_far(study: Study) -> Figure:
    """The value of each trial in its order, and the best of all so far; trials without one lie below."""
    values = Values(study)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    ax = figure.subplots()
    numbers = [t["number"] for t in values.ended]
    found = values.of(values.ended)
    _dots(ax, numbers, found, values)
    if len(found):
        best = (np.maximum if values.higher_is_better else np.minimum).accumulate(found)
        last = max(t["number"] for t in study["trials"])
        ax.step([*numbers, last], [*values.clipped(best), values.clipped(best)[-1]], where="post",
                color=OURS, lw=1.8, label="best so far", zorder=2)  # fmt: skip
    values.on(ax)
    _lost(ax, study, [(t, t["number"]) for t in study["trials"]])
    ax.set_xlabel("trial")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    _finish(figure, ax)
    return figure


def sensitivity(study: Study) -> Figure:
    """The value against the learning rate or, without one, the number that mattered most."""
    values, d = Values(study), _main(study)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    ax = figure.subplots()

    def at(trials: Sequence[Trial]) -> list[float]:
        return _along(d, [t["config"][d.name] for t in trials])

    _dots(ax, at(values.ended), values.of(values.ended), values)
    winner = study["winner"]
    if winner is not None:
        y = values.clipped(values.factor * winner["value"])
        ax.plot(_along(d, [winner["config"][d.name]]), [y], ls="none", marker="o", ms=12, mfc="none",
                mew=1.8, color=OURS, label="winner", zorder=4)  # fmt: skip
    defaults = study["defaults"]
    if defaults is not None and _inside(d, defaults["config"][d.name]):
        place = _along(d, [defaults["config"][d.name]])[0]
        ax.axvline(place, color=GREEN, lw=1.4, ls="--", zorder=1, label="the optimizer's default")
    values.on(ax)
    searched = next(kept for kept in study["space"] if kept["name"] == d.name)
    label_axis(ax.xaxis, d, searched.get("values", ())[:MOST_TICKS])
    ax.set_xlim(-0.03, 1.03)
    there = [t for t in study["trials"] if d.name in t["config"]]
    _lost(ax, study, list(zip(there, at(there), strict=True)))
    _finish(figure, ax)
    return figure


def parallel(study: Study) -> Figure:
    """Each trial a line over all that was searched, each on its own scale, the better the brighter."""
    values, space = Values(study), [dimension_of(d) for d in study["space"]]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    ax = figure.subplots()
    rng = np.random.default_rng(0)
    for t in study["trials"]:
        if t["state"] == "pruned" and len(t["config"]) == len(space):
            ax.plot(_heights(space, t, rng), color="0.85", lw=0.7, zorder=1)
    norm = (colors.LogNorm if values.log else colors.Normalize)(*values.limits, clip=True)
    scale = cm.ScalarMappable(norm, "viridis" if values.higher_is_better else "viridis_r")
    order = sorted(values.ended, key=lambda t: t["value"], reverse=not values.higher_is_better)
    for k, t in enumerate(order):  # the best last, and so on top
        color = scale.to_rgba(values.factor * t["value"])
        ax.plot(_heights(space, t, rng), color=color, lw=1.3, alpha=0.8, zorder=2 + k / len(order))
    winner = study["winner"]
    if winner is not None:
        ax.plot(_heights(space, winner), color=OURS, lw=2.4, marker="o", ms=5, zorder=4)
    for k, d in enumerate(space):
        _upright(ax, k, d)
    ax.set_xticks(range(len(space)), [literal(d.name) for d in space])
    ax.set(xlim=(-0.35, len(space) - 0.4), ylim=(-0.06, 1.06), yticks=[])
    ax.spines[:].set_visible(False)
    ax.tick_params(axis="x", length=0, pad=6)
    if values.ended:
        extend = "min" if values.higher_is_better else "max"
        beyond = values.clipped(found := values.of(values.ended)) != found
        figure.colorbar(scale, ax=ax, label=values.name, extend=extend if beyond.any() else "neither",
                        pad=0.02, fraction=0.05)  # fmt: skip
    return figure


def importance(study: Study) -> Figure:
    """The share of the values' variance that each of the searched explains, by fANOVA."""
    shares = sorted((study["importance"] or {}).items(), key=lambda pair: pair[1])
    figure = Figure(figsize=(9, 0.9 + 0.34 * len(shares)), layout="constrained")
    ax = figure.subplots()
    percent = [100 * share for _, share in shares]
    ax.barh(range(len(shares)), percent, color=OTHER, height=0.62)
    for k, x in enumerate(percent):
        ax.annotate(
            f"{x:.0f}%" if x >= 0.5 else "below 1%", (x, k), xytext=(4, 0), va="center",
            textcoords="offset points", fontsize=9,
        )  # fmt: skip
    ax.set_yticks(range(len(shares)), [literal(name) for name, _ in shares])
    ax.set_xlim(0, max([*percent, 1.0]) * 1.1)
    ax.set_xlabel("share of the variance among the trials, % (fANOVA)")
    _rows(ax)
    return figure


def finalists(study: Study) -> Figure:
    """A dot for each seed of the final runs, the mean and its 95% interval: on validation, and on test."""
    rows = [(trial_of(study, row["config"]), row) for row in study["finalists"]]
    if study["defaults"] is not None:
        rows.append(("defaults", study["defaults"]))
    tested = any(row["test"]["n"] for _, row in rows)
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2 if tested else 1, squeeze=False, sharey=True)[0]
    factor, name = Values(study).factor, Values(study).name
    titles = [name, name.replace("validation", "test")] if tested else ["value of the final runs"]
    winner = study["winner"]
    for ax, title, key in zip(axes, titles, ("value", "test"), strict=False):
        for k, (label, row) in enumerate(rows):
            won = winner is not None and label != "defaults" and row["config"] == winner["config"]
            color = OURS if won else GREEN if label == "defaults" else OTHER
            seen = [factor * run[key] for run in row["runs"] if run[key] is not None]
            below = [k + 0.24] * len(seen)  # the interval, which would hide them
            ax.plot(seen, below, ls="none", marker="o", ms=4.5, color=color, alpha=0.4, mew=0)
            _interval(ax, row[key], k, color, factor)
            if row["failed"]:
                ax.annotate(f"{row['failed']} failed", (0.99, k), va="center", ha="right", fontsize=8.5,
                            xycoords=("axes fraction", "data"), color="#B00020")  # fmt: skip
        ax.set_title(title, fontsize=11)
        _rows(ax)
    axes[0].set_yticks(range(len(rows)), [label for label, _ in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def splits(study: Study) -> Figure:
    """What each config scores over the seeds, and how far it is behind the best, paired by seed."""
    rows = study["splits"]["rows"][:MOST_ROWS]
    values = Values(study)
    figure = Figure(figsize=(9, 1.1 + 0.34 * len(rows)), layout="constrained")
    ax = figure.subplots()
    configs = {t["number"]: t["config"] for t in study["ranking"]}
    for k, row in enumerate(rows):
        tied = k > 0 and not statistics.excludes_zero(row["behind"])
        color = OURS if k == 0 else OTHER if tied else GREY
        _interval(ax, row["interval"], k, color, values.factor)
        text = "the best" if k == 0 else _behind(row["behind"], values)
        ax.annotate(text, (1.02, k), xycoords=("axes fraction", "data"), va="center", fontsize=9,
                    color=color if k == 0 or tied else "0.35", annotation_clip=False)  # fmt: skip
    ax.annotate("behind it (95% interval)", (1.02, 1.0), xycoords="axes fraction", xytext=(0, 5),
                textcoords="offset points", fontsize=9, annotation_clip=False)  # fmt: skip
    labels = [words(configs[row["number"]]) for row in rows]
    if max(map(len, labels)) > MOST_LETTERS:
        labels = [f"trial {row['number']}" for row in rows]
    ax.set_yticks(range(len(rows)), [literal(label) for label in labels], fontsize=9)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(f"{values.name}: mean and 95% interval over {study['splits']['seeds']} seeds")
    _rows(ax)
    return figure


def state_of(trial: Trial) -> str:
    """How a trial ended: complete, pruned, diverged, fail; or that it has not."""
    return "diverged" if trial.get("diverged") else trial["state"]


def main_of(study: Study) -> str:
    """What `sensitivity` has on its axis."""
    numbers = [d for d in map(dimension_of, study["space"]) if _numeric(d)]
    names = [d.name for d in numbers] or [d["name"] for d in study["space"]]
    order = ["lr", *(study["importance"] or {})]
    return next((name for name in order if name in names), names[0])


def _main(study: Study) -> Dimension:
    """The axis of `sensitivity`; a choice of numbers becomes a range, at equal ratios where that helps."""
    name = main_of(study)
    d = next(d for d in map(dimension_of, study["space"]) if d.name == name)
    if isinstance(d, Range) or not _numeric(d):
        return d
    low, high = float(min(d.values)), float(max(d.values))
    suited = Range(name, low, high).scale or "linear"  # of lr, decay and their like
    if suited == "linear" and low > 0 and high >= 30 * low:
        suited = "log"
    return Range(name, low, high, suited)


def _numeric(d: Dimension) -> bool:
    if isinstance(d, Range):
        return True
    plain = all(isinstance(x, int | float) and not isinstance(x, bool) for x in d.values)
    if not plain or len(d.values) < 2:
        return False
    try:
        Range(d.name, float(min(d.values)), float(max(d.values)))
    except ValueError:  # momentum=0.9,1.0 or eps=0,1e-8: no scale holds its end
        return False
    return True


def _inside(d: Dimension, value: Any) -> bool:
    if isinstance(d, Choice):
        return value in d.values
    return d.low <= value <= d.high


def _along(d: Dimension, values: Sequence[Any]) -> list[float]:
    return places(d, values).tolist()


def _heights(
    space: Sequence[Dimension], trial: Trial, rng: np.random.Generator | None = None
) -> list[float]:
    """Where a trial crosses each axis; choices a little apart, or many lines would lie on each other."""
    found = []
    for d in space:
        at = _along(d, [trial["config"][d.name]])[0]
        apart = 0.0 if rng is None or isinstance(d, Range) else rng.uniform(-0.025, 0.025)
        found.append(at + apart)
    return found


def _upright(ax: Axes, k: int, d: Dimension) -> None:
    """One axis of the parallel ones."""
    ax.plot([k, k], [0, 1], color="0.25", lw=1.0, zorder=5)
    box = {"fc": "white", "ec": "none", "alpha": 0.85, "pad": 0.8}
    for at, text in marks(d):
        ax.annotate(text, (k, at), xytext=(-7, 0), textcoords="offset points", ha="right",
                    va="center", fontsize=8, zorder=6, bbox=box)  # fmt: skip
        ax.plot([k - 0.012, k + 0.012], [at, at], color="0.25", lw=1.0, zorder=5)


def _dots(ax: Axes, along: Sequence[float], y: np.ndarray[Any, Any], values: Values) -> None:
    x, inside = np.array(along, dtype=np.float64), values.clipped(y) == y
    ax.plot(x[inside], y[inside], ls="none", marker="o", ms=5, color=OTHER, alpha=0.75, mew=0,
            label="trial", zorder=3)  # fmt: skip
    if not inside.all():
        marker = "v" if values.higher_is_better else "^"
        ax.plot(x[~inside], values.clipped(y[~inside]), ls="none", color=OTHER, ms=6, mfc="none",
                marker=marker, label="beyond the axis", zorder=3)  # fmt: skip


def _lost(ax: Axes, study: Study, at: Sequence[tuple[Trial, float]]) -> None:
    """Marks along the bottom for trials that have no value of a whole run."""
    for row, (state, label) in enumerate(_LOST.items()):
        x = [place for t, place in at if state_of(t) == state]
        if x:
            ax.plot(x, [0.02 + 0.04 * row] * len(x), ls="none", marker=_MARKS[state], ms=6, zorder=2,
                    color="0.45" if state == "pruned" else "#B00020", label=label,
                    transform=ax.get_xaxis_transform())  # fmt: skip


def _interval(ax: Axes, found: dict[str, Any], k: int, color: str, factor: float) -> None:
    if found["mean"] is None:
        return
    if found["low"] is not None:
        ax.plot([factor * found["low"], factor * found["high"]], [k, k], color=color, lw=2.2)
    ax.plot(factor * found["mean"], k, marker="|", ms=14, mew=2.6, color=color)


def trial_of(study: Study, config: dict[str, Any]) -> str:
    """Which trial had this config, by its number."""
    number = next((t["number"] for t in study["ranking"] if t["config"] == config), None)
    return "not a trial" if number is None else f"trial {number}"


def _behind(found: dict[str, Any], values: Values) -> str:
    """The mean of a paired difference, and its interval."""
    digits = 2 if values.factor > 1 else 4
    # + 0.0 turns -0.0 into 0.0.
    mean, low, high = (
        f"{round(values.factor * found[key], digits) + 0.0:.{digits}f}"
        for key in ("mean", "low", "high")
    )
    return f"{mean}  ({low} to {high})"


def _rows(ax: Axes) -> None:
    ax.grid(axis="x", alpha=0.25, lw=0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _finish(figure: Figure, ax: Axes) -> None:
    tidy(ax)
    if ax.get_yscale() != "log":
        ax.ticklabel_format(axis="y", useOffset=False)
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False
        )
