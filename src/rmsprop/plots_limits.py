"""The pictures of `rmsprop.limits`: for each experiment the curves, and what every run came to."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rmsprop.limits.study import CEILING, HELPS, HURTS
from rmsprop.plots import style

_MARKS = {HELPS: "#00734F", HURTS: "#B00020"}  # of a verdict; a cure without effect stays grey


def limit(found: dict[str, Any]) -> Figure:
    """One limitation: a row of two pictures for each of its parts.

    Left the curves, medians over seeds in a band from least to most; right a dot for each seed with the
    mean and its 95% interval, and the verdict on each cure.
    """
    parts = found["parts"]
    heights = [0.5 * len(p["variants"]) + 1.6 for p in parts]
    figure = Figure(figsize=(11, sum(heights) + 0.2), layout="constrained")
    axes = figure.subplots(
        len(parts), 2, squeeze=False, gridspec_kw={"height_ratios": heights, "wspace": 0.04}
    )
    for (left, right), p in zip(axes, parts, strict=True):
        _curves(left, p)
        _values(right, p)
    return figure


def _curves(ax: Axes, p: dict[str, Any]) -> None:
    for k, v in enumerate(p["variants"]):
        curve, color = v["curve"], style(k)["color"]
        marker = {"marker": ".", "ms": 4} if len(curve["x"]) < 30 else {}
        ax.plot(
            curve["x"], curve["median"], lw=1.5, label=v["label"], zorder=3, **marker, **style(k)
        )
        ax.fill_between(curve["x"], curve["low"], curve["high"], color=color, alpha=0.13, lw=0)
    ax.set_title(p["name"], loc="left", fontsize=11, fontweight="bold")
    ax.set(xlabel="step", ylabel=p["curve"]["name"])
    if p["curve"]["log"]:
        _log(ax.yaxis, [x for v in p["variants"] for x in v["curve"]["median"]])
    ax.grid(alpha=0.25, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _values(ax: Axes, p: dict[str, Any]) -> None:
    variants, measured = p["variants"], p["measure"]
    factor = 100 if measured["percent"] else 1
    for k, v in enumerate(variants):
        color, mean = style(k)["color"], v["summary"]
        ax.plot([factor * x for x in v["values"]], [k] * len(v["values"]), ls="none", marker="o", ms=5,
                color=color, alpha=0.3, mew=0)  # fmt: skip
        ax.plot([factor * mean["low"], factor * mean["high"]], [k, k], color=color, lw=2.2)
        ax.plot(factor * mean["mean"], k, marker="|", ms=15, mew=2.6, color=color)
        for text, mark, row in _verdicts(p["comparisons"], v["label"]):
            ax.annotate(text, (1.015, k), xycoords=("axes fraction", "data"), fontsize=8.5, va="center",
                        xytext=(0, -11 * row), textcoords="offset points", color=mark,
                        annotation_clip=False)  # fmt: skip
    ax.set_yticks(range(len(variants)), [v["label"] for v in variants], fontsize=9.5)
    for label, k in zip(ax.get_yticklabels(), range(len(variants)), strict=True):
        label.set_color(style(k)["color"])
    ax.set_ylim(len(variants) - 0.5, -0.5)
    better = "right" if measured["higher_is_better"] else "left"
    unit = ", %" if measured["percent"] else ""
    ax.set_xlabel(f"{measured['name']}{unit}   (better to the {better})")
    if measured["log"]:
        _log(ax.xaxis, [x for v in variants for x in v["values"]])
    ax.grid(axis="x", alpha=0.25, lw=0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)


def _verdicts(comparisons: Sequence[dict[str, Any]], label: str) -> list[tuple[str, str, int]]:
    """(text, colour, line) of each different verdict on the cure of this label, and against what."""
    own = [c for c in comparisons if c["cure"] == label]
    found = [(c["verdict"], _MARKS.get(c["verdict"], "0.4")) for c in own]
    texts = list(dict.fromkeys(found))
    if len(own) == 1 and len({c["against"] for c in comparisons}) > 1:
        texts.append((f"against {own[0]['against']}", "0.4"))
    return [(text, color, row) for row, (text, color) in enumerate(texts)]


def _log(axis: Any, values: Sequence[float]) -> None:
    """A log axis where all is above 0, and within what it can show; else one that is linear around 0."""
    inside = [x for x in values if abs(x) < CEILING]
    if min(inside, default=0) <= 0:
        axis.axes.set(**{f"{axis.axis_name}scale": "symlog"})
        return
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    if max(inside) < 30 * min(inside):  # too few powers of ten to read a value from
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())
