"""The pictures of a study, each a Matplotlib figure; none opens a window or keeps global state."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rmsprop import files
from rmsprop.simulate import grid
from rmsprop.surfaces import Surface

# Okabe and Ito's colours, which colour-blind readers can tell apart; RMSprop comes first.
COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6D3B")
STYLES = ("-", "--", "-.", ":")
FORMATS = ("png", "svg", "pdf")
HUGE = 1e200  # on a log axis; with its margins Matplotlib overflows soon after

Entries = Sequence[dict[str, Any]]


def style(k: int) -> dict[str, Any]:
    """The colour and dash of the k-th competitor."""
    return {"color": COLORS[k % len(COLORS)], "ls": STYLES[k // len(COLORS) % len(STYLES)]}


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as .png, .svg or .pdf, as a whole or not at all.

    Raises ValueError for another ending.
    """
    check_ending(path)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def check_ending(path: str | Path, formats: Sequence[str] = FORMATS) -> None:
    """Raise ValueError for a file name with another ending than these."""
    if Path(path).suffix.lstrip(".") not in formats:
        endings = ", ".join("." + f for f in formats)
        raise ValueError(f"a picture ends in {endings}; got {Path(path).name!r}")


# Tasks


def loss_curves(entries: Entries) -> Figure:
    """Training and validation loss over steps: the median over seeds, in a band from least to most."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name in zip(axes, ("train_loss", "validation_loss"), strict=True):
        for k, e in enumerate(entries):
            _band(ax, e, name, k)
        ax.set(xlabel="step", yscale="log", title=name.replace("_", " "))
        tidy(ax)
    axes[0].set_ylabel("loss")
    _legend(figure, axes[0])
    return figure


def score_curves(entries: Entries, metric: str, target: float | None) -> Figure:
    """The validation score over steps, with the target marked."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    scores = [
        s
        for e in entries
        for run in e["runs"]
        for s in run["validation_score"][1:]
        if s is not None
    ]
    for ax, title in zip(axes, ("validation " + metric, "the same, enlarged"), strict=True):
        for k, e in enumerate(entries):
            _band(ax, e, "validation_score", k)
        if target is not None:
            ax.axhline(target, color="0.4", lw=0.8, ls=":", label="target")
        ax.set(xlabel="step", title=title)
        tidy(ax)
    if scores:
        top = max(scores)
        axes[1].set_ylim(
            np.quantile(scores, 0.1), top + 0.1 * (top - np.quantile(scores, 0.1) + 1e-9)
        )
    _legend(figure, axes[0])
    return figure


def _band(ax: Axes, e: dict[str, Any], name: str, k: int) -> None:
    runs = [run for run in e["runs"] if not run["diverged"]]
    if not runs:
        return
    values = np.array([[math.nan if x is None else x for x in run[name]] for run in runs])
    steps = runs[0]["steps"]
    ax.plot(steps, np.nanmedian(values, axis=0), label=e["label"], lw=1.6, **style(k))
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    ax.fill_between(steps, low, high, color=style(k)["color"], alpha=0.15, lw=0)


def sensitivity(entries: Entries, ylabel: str, log: bool = False) -> Figure:
    """What each learning rate of the search gave; the chosen one is ringed, divergence is a cross below."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    ax = figure.subplots()
    for k, e in enumerate(entries):
        rows = [row for row in e["search"] if row["mean"] is not None]
        if not rows:
            continue
        x, y = [row["lr"] for row in rows], [row["mean"] for row in rows]
        ax.plot(x, y, label=e["label"], marker="o", ms=3, lw=1.4, **style(k))
        at = next((row["mean"] for row in rows if row["lr"] == e["lr"]), None)
        if at is not None:
            ax.plot(
                e["lr"],
                at,
                marker="o",
                ms=10,
                mfc="none",
                mew=1.6,
                ls="none",
                color=style(k)["color"],
            )
    ax.set(xscale="log", xlabel="learning rate", ylabel=ylabel)
    if log:
        ax.set_yscale("log")
    ax.margins(y=0.08 + 0.02 * len(entries))  # room below for the crosses
    for k, e in enumerate(entries):
        lost = [row["lr"] for row in e["search"] if row["diverged"]]
        ax.plot(
            lost,
            [0.03 + 0.035 * k] * len(lost),
            marker="x",
            ms=5,
            ls="none",
            color=style(k)["color"],
            transform=ax.get_xaxis_transform(),
        )
    tidy(ax)
    _legend(figure, ax)
    return figure


def effective_rates(entries: Entries) -> Figure | None:
    """Effective learning rates of each weight array: the median, in a band from 10% to 90%."""
    shown = [(k, e) for k, e in enumerate(entries) if e["runs"] and e["runs"][0].get("rates")]
    if not shown:
        return None
    paths = list(dict.fromkeys(p for _, e in shown for p in e["runs"][0]["rates"]))
    columns = min(4, len(paths))
    rows = math.ceil(len(paths) / columns)
    figure = Figure(figsize=(9, 0.6 + 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, path in itertools.zip_longest(axes.flat, paths):
        if path is None:
            ax.set_axis_off()
            continue
        for k, e in shown:
            run = e["runs"][0]
            values = np.array(
                [[math.nan if q is None else q for q in row] for row in run["rates"].get(path, [])]
            )
            if values.size:
                steps = run["steps"][1 : 1 + len(values)]
                ax.plot(steps, values[:, 1], label=e["label"], lw=1.4, **style(k))
                ax.fill_between(
                    steps, values[:, 0], values[:, 2], color=style(k)["color"], alpha=0.15, lw=0
                )
        ax.set(title=path, yscale="log")
        tidy(ax)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    figure.supylabel("effective learning rate", fontsize=10)
    _legend(figure, axes[0, 0])
    return figure


def predictions(images: Any, labels: Any, classes: Sequence[str], examples: Any) -> Figure:
    """Test images with what the model says: the first ten, then the first ten mistakes."""
    rows = math.ceil(len(examples) / 10)
    figure = Figure(figsize=(9, 1.35 * rows), layout="constrained")
    axes = figure.subplots(rows, 10, squeeze=False)
    for ax, example in itertools.zip_longest(axes.flat, examples):
        ax.set_axis_off()
        if example is None:
            continue
        k, predicted = example
        ax.imshow(images[k], cmap="gray_r", interpolation="nearest")
        right = predicted == labels[k]
        text = classes[predicted] if right else f"{classes[predicted]}, not {classes[labels[k]]}"
        ax.set_title(text, fontsize=9, color="0.15" if right else "#B00020", parse_math=False)
    return figure


# Surfaces


def surface_overview(surface: Surface, entries: Entries) -> Figure:
    """The paths on the contours; heights, effective learning rates and averages over steps."""
    figure = Figure(figsize=(11, 8.4), layout="constrained")
    axes = figure.subplots(2, 2)
    draw_paths(axes[0, 0], surface, entries)
    _heights(axes[0, 1], entries, surface.minimum is not None)
    _pairs(axes[1, 0], entries, "rates", "effective learning rate", surface.dim)
    _pairs(axes[1, 1], entries, "v", "average of squared gradients, v", surface.dim)
    _legend(figure, axes[0, 0])
    return figure


def draw_paths(ax: Axes, surface: Surface, entries: Entries, ends: bool = True) -> None:
    """Contours, log-spaced above the minimum, with minima and the paths, whose ends are marked."""
    (left, right), (low, high) = surface.domain
    if surface.dim == 1:
        xs = np.linspace(left, right, 400)
        ax.plot(xs, grid(surface, xs, [0.0])[0], color="0.6", lw=1.2)
        ax.set(xlabel="x", ylabel=surface.formula)
    else:
        _contours(ax, surface)
        ax.set(xlim=(left, right), ylim=(low, high), xlabel="x", ylabel="y")
    for k, e in enumerate(entries):
        if e["path"] is None:
            continue
        xy = np.array([[math.nan if a is None else a for a in p] for p in e["path"]["positions"]])
        if surface.dim == 1:
            with np.errstate(all="ignore"):
                xy[:, 1] = [surface.value(x, 0.0) for x in xy[:, 0]]
            ax.set(
                xlim=(left, right),
                ylim=(None, max(surface.value(left, 0), surface.value(right, 0))),
            )
        over: dict[str, Any] = {"zorder": 4 - k / 100}  # RMSprop, the first, lies on top
        ax.plot(*xy.T, label=e["label"], lw=1.5, marker=".", ms=2.5, alpha=0.9, **style(k), **over)
        if ends:
            ax.plot(*xy[-1], marker="o", ms=6, mec="white", color=style(k)["color"], **over)
    for k, point in enumerate(surface.minima):
        at = point if surface.dim == 2 else (point[0], surface.value(*point))
        ax.plot(*at, marker="*", ms=14, mfc="gold", mec="0.2", ls="none", zorder=5,
                label="" if k else "minimum")  # fmt: skip
    formula = f": {surface.formula}" if len(surface.formula) < 50 else ""
    ax.set_title(surface.name + formula, fontsize=11)


def _contours(ax: Axes, surface: Surface) -> None:
    (left, right), (low, high) = surface.domain
    xs, ys = np.linspace(left, right, 300), np.linspace(low, high, 300)
    z = grid(surface, xs, ys)
    z[~np.isfinite(z)] = math.nan  # a surface of one's own may be undefined in places
    if not np.nanmin(z, initial=math.inf) < np.nanmax(z, initial=-math.inf):
        return  # flat: it has no contours
    if surface.minimum is None:
        levels: Any = np.linspace(float(np.nanmin(z)), float(np.nanmax(z)), 25)
        norm: Any = None
        shown = ax.contour(xs, ys, z, levels=levels, cmap="coolwarm", linewidths=0.7)
        label = "f"
    else:
        z = z - surface.minimum
        top = float(np.nanmax(z))
        levels = np.geomspace(top * 1e-5, top, 22)
        norm = colors.LogNorm(levels[0], levels[-1])
        shown = ax.contour(xs, ys, z, levels=levels, norm=norm, cmap="viridis", linewidths=0.7)
        label = "f" if surface.minimum == 0 else "f above its minimum"
    bar = ax.figure.colorbar(shown, ax=ax, label=label, shrink=0.9)
    if surface.minimum is not None:
        decades = 10.0 ** np.arange(math.ceil(math.log10(levels[0])), math.log10(levels[-1]))
        bar.set_ticks(decades.tolist(), labels=[f"{x:g}" for x in decades])
        bar.ax.minorticks_off()


def _heights(ax: Axes, entries: Entries, above_minimum: bool) -> None:
    for k, e in enumerate(entries):
        if e["path"] is None:
            continue
        values = np.array(
            [[math.nan if x is None else x for x in row] for row in e["path"]["heights"]]
        )
        steps = np.flatnonzero(~np.isnan(values).all(axis=0))  # until the last one diverged
        values = np.clip(values[:, steps], -HUGE, HUGE)
        ax.plot(steps, np.nanmedian(values, axis=0), lw=1.4, label=e["label"], **style(k))
        if len(values) > 1:
            low, high = np.nanquantile(values, [0.1, 0.9], axis=0)
            ax.fill_between(steps, low, high, color=style(k)["color"], alpha=0.15, lw=0)
    ax.set(xlabel="step")
    ax.set_title("f above its minimum" if above_minimum else "f", fontsize=11)
    ax.set_yscale("log" if above_minimum else "symlog")
    tidy(ax)


def _pairs(ax: Axes, entries: Entries, name: str, title: str, dim: int) -> None:
    """Both coordinates of each competitor: x solid, y dotted."""
    for k, e in enumerate(entries):
        if e["path"] is None or (name == "v" and e["rule"]["second_moment"] == "none"):
            continue
        values = np.array([[math.nan if a is None else a for a in p] for p in e["path"][name]])
        values = np.clip(values, -HUGE, HUGE)
        for axis, line in zip(range(dim), ("-", ":"), strict=False):
            ax.plot(values[:, axis], lw=1.3, ls=line, color=style(k)["color"])
    note = " (x solid, y dotted)" if dim == 2 else ""
    ax.set(xlabel="step", yscale="log")
    ax.set_title(title + note, fontsize=11)
    tidy(ax)


def animation(surface: Surface, entries: Entries, path: str | Path, frames: int = 60) -> None:
    """Write the growing paths as a GIF, as a whole or not at all."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    ax = figure.subplots()
    draw_paths(ax, surface, entries, ends=False)
    moving = [line for line in ax.lines if len(np.atleast_1d(line.get_xdata())) > 1][
        -len(entries) :
    ]
    full = [np.array(line.get_xydata()) for line in moving]
    heads = [ax.plot(*xy[0], marker="o", ms=7, mec="white", color=line.get_color())[0]
             for line, xy in zip(moving, full, strict=True)]  # fmt: skip
    ax.legend(fontsize=8, loc="upper right")
    longest = max(len(xy) for xy in full)
    title = ax.get_title()

    def draw(frame: int) -> list[Any]:
        now = round((longest - 1) * (frame / (frames - 1)) ** 2)  # paths begin fast and end slowly
        for line, head, xy in zip(moving, heads, full, strict=True):
            line.set_data(*xy[: now + 1].T)
            head.set_data(*xy[min(now, len(xy) - 1)][:, None])
        ax.set_title(f"{title}   step {now}")
        return [*moving, *heads]

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with files.replacing(path) as temporary:
        FuncAnimation(figure, draw, frames=frames).save(
            temporary, writer=PillowWriter(fps=15), dpi=80
        )


def tidy(ax: Axes) -> None:
    ax.grid(alpha=0.25, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False
        )
