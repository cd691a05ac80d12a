"""The picture of a response map: the outcome over two numbers of the rule, a panel for each competitor."""

from typing import Any

import numpy as np
from matplotlib import cm, colors, patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.ndimage import median_filter

from rmsprop.compare_surfaces import SMALLEST
from rmsprop.maps.cells import within
from rmsprop.plots import COLORS
from rmsprop.plots_scales import label_axis, literal, short
from rmsprop.space import Range
from rmsprop.verdict import Unit

Study = dict[str, Any]
Map = dict[str, Any]
Array = np.ndarray[Any, Any]
Box = tuple[float, float, float, float]

COLUMNS = 3
LEVELS = 8
SMOOTHED = 32  # cells along each axis from which on contours are of medians of 5 x 5
WIDTH, HEIGHT = 4.3, 4.0  # inches of a panel
FLOOR = 1e-16  # of the start's height: what lies below is rounding, and has the last colour
STAR = COLORS[0]
_FINE = 256  # cells along an axis from which on an outline need not follow their edges
_HALO = [patheffects.withStroke(linewidth=2.5, foreground="white")]


def response_map(study: Study) -> Figure:
    """A panel for each competitor on one scale of colours, where what is brighter is better.

    Parameters
    ----------
    study
        From `maps.surface_map` or `maps.task_map`.

    Returns
    -------
    Figure
        With contours of equal outcome, the best cell, the region as good as it, where runs diverged, and
        where the frameworks' defaults lie.

    Examples
    --------
    >>> from rmsprop.entries import entries
    >>> from rmsprop.maps import surface_map
    >>> from rmsprop.surfaces import SURFACES
    >>> lr, decay = Range("lr", 1e-3, 1, count=8), Range("decay", 0.9, 0.999, count=8)
    >>> study = surface_map(SURFACES["booth"], entries(["rmsprop", "adam"], []), lr, decay, steps=50)
    >>> len(response_map(study).axes)  # two panels and the scale of colours
    3
    """
    maps = study["maps"]
    columns = 2 if len(maps) == 4 else min(COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    size = (WIDTH * columns + 1.2 + 1.2 * (columns == 1), (HEIGHT + 0.3) * rows + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    norm, extend = _norm(study)
    scale = cm.ScalarMappable(norm, "viridis" if _outcome(study) == "score" else "viridis_r")
    x, y = Range(**study["x"]), Range(**study["y"])
    for ax, one in zip(axes.flat, maps, strict=False):
        cells, edges = _mesh(ax, one, x, y, norm, scale.get_cmap())
        taken = _words(ax, study, one, x, y, bool(_lost(one).all()))
        _contours(ax, edges, cells, norm)
        _region(ax, edges, within(one), colors="black", linewidths=1.5)
        _defaults(ax, one["dialects"], x, y, taken)
    for ax in axes.flat[len(maps) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        label_axis(ax.yaxis, y)
    for k in range(columns):  # the last of its column
        ax = axes[(len(maps) - 1 - k) // columns, k]
        label_axis(ax.xaxis, x)
        ax.tick_params(axis="x", labelbottom=True)
    bar = figure.colorbar(
        scale, ax=axes, label=_outcome_name(study), extend=extend, pad=0.02, aspect=30
    )
    _tick_bar(bar, study, norm)
    figure.legend(
        handles=_legend(study), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    figure.suptitle(literal(_title(study)), fontsize=12)
    return figure


def outcome_text(study: Study, value: float) -> str:
    """An outcome for people.

    Examples
    --------
    >>> outcome_text({"settings": {"outcome": "loss"}}, 0.000123)
    '0.00012'
    >>> outcome_text({"settings": {"outcome": "steps"}}, 1234.0)
    '1,234'
    """
    if _outcome(study) == "score":
        return Unit(study["task"]["kind"]).score(value)
    if _outcome(study) == "steps":
        return f"{value:,.0f}"
    if value <= SMALLEST:
        return "0"
    return f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:.2g}"


def share(part: float) -> str:
    """A part of the map in per cent, a small one in one digit.

    Examples
    --------
    >>> share(0.123), share(0.00012), share(0.0)
    ('12%', '0.01%', '0%')
    """
    return f"{100 * part:.0f}%" if part >= 0.01 else f"{100 * part:.1g}%"


def _outcome(study: Study) -> str:
    return study["settings"]["outcome"]


def _outcome_name(study: Study) -> str:
    settings = study["settings"]
    if "task" not in study:
        if settings["outcome"] != "steps":
            end = settings["outcome"] == "final"
            when = "after the last step" if end else "over the last tenth"
            return f"height above the minimum {when}"
        bounded = study["surface"]["minimum"] is not None
        return "steps to the target" if bounded else "steps to leave the domain"
    if settings["outcome"] == "steps":
        return f"steps to {Unit(study['task']['kind']).score(settings['target'])} on validation"
    return "validation " + ("loss" if settings["outcome"] == "loss" else study["task"]["metric"])


def _title(study: Study) -> str:
    settings = study["settings"]
    if "task" in study:
        seeds = f", mean of {settings['seeds']} seeds" if settings["seeds"] > 1 else ""
        return f"{study['task']['name']}, {study['task']['epochs']} epochs{seeds}"
    starts = len(settings["starts"])
    several = f", {starts} starts" if starts > 1 else ""
    several += f", {settings['seeds']} draws of the noise" if settings["seeds"] > 1 else ""
    return f"{study['surface']['name']}, {settings['steps']:,} steps{several}"


def _norm(study: Study) -> tuple[colors.Normalize, Any]:
    """The scale that all panels share: over decades for what is above 0 and spans them."""
    cells = np.concatenate([_cells(one).ravel() for one in study["maps"]])
    cells = cells[np.isfinite(cells)]
    if not cells.size:
        return colors.Normalize(0.0, 1.0), "neither"
    low, high = float(cells.min()), float(cells.max())
    bottom, top = low, high
    start = study["maps"][0].get("start")
    if _outcome(study) == "score":
        # The worst scores have no end, as an R^2 below 0: what is worse than the start is all one colour.
        bottom = max(low, min(start["score"], float(np.median(cells))))
    elif _outcome(study) != "steps":
        height = start["loss"] if isinstance(start, dict) else start
        top = min(high, 10 * height)  # runs that ran away would take all colours
        bottom = max(low, FLOOR * height)
    if not bottom < top:
        top = bottom + (abs(bottom) or 1.0)
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max"}.get(
        (low < bottom, high > top), "both"
    )
    decades = _outcome(study) != "score" and bottom > 0 and top > 10 * bottom
    return (colors.LogNorm if decades else colors.Normalize)(bottom, top, clip=True), extend


def _cells(one: Map) -> Array:
    return np.asarray(one[one["outcome"]], dtype=np.float64)


def _tick_bar(bar: Any, study: Study, norm: colors.Normalize) -> None:
    """Numbers as people write them, where powers of ten would be too few."""
    if _outcome(study) == "score" and study["task"]["kind"] != "regression":
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}%"))
    elif isinstance(norm, colors.LogNorm) and (norm.vmax or 0.0) < 1000 * (norm.vmin or 0.0):
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())


def _mesh(
    ax: Axes, one: Map, x: Range, y: Range, norm: colors.Normalize, colours: colors.Colormap
) -> tuple[Array, list[Array]]:
    """The cells in colours, those without an outcome grey; they, and the edges between them."""
    cells = _cells(one)
    edges = [_edges(np.linspace(0.0, 1.0, n)) for n in (x.count, y.count)]
    ax.set_facecolor("0.87")
    ax.pcolormesh(*edges, cells, norm=norm, cmap=colours, rasterized=True, lw=0)
    lost = _lost(one)
    if lost.any():
        _hatch(ax, edges, lost)
    ax.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]])
    return cells, edges


def _lost(one: Map) -> Array:
    """The cells of which a run diverged."""
    return np.isnan(_cells(one)) & (np.asarray(one["diverged"]) > 0)


def _words(ax: Axes, study: Study, one: Map, x: Range, y: Range, lost: bool) -> list[Box]:
    """The title with the best cell, which is starred; where no label may stand for that."""
    taken: list[Box] = []
    best = one["best"]
    if best is None:
        text = "every cell diverged" if lost else "no cell arrives"
    else:
        at = (x.place(best["x"]), y.place(best["y"]))
        ax.plot(*at, marker="*", ms=16, mfc=STAR, mec="white", mew=1.0, ls="none", zorder=6,
                clip_on=False)  # fmt: skip
        taken.append((at[0] - 0.03, at[1] - 0.03, at[0] + 0.03, at[1] + 0.03))
        text = (
            f"best {outcome_text(study, best['outcome'])} at "
            f"{x.name} {short(best['x'])}, {y.name} {short(best['y'])}\n"
            f"{share(one['tunability'])} of the map within 5% of the best's gain"
        )
    ax.set_title(literal(one["label"]), fontsize=11, fontweight="bold", pad=32)
    ax.annotate(literal(text), (0.5, 1), xycoords="axes fraction", xytext=(0, 4),
                textcoords="offset points", ha="center", va="bottom", fontsize=9)  # fmt: skip
    return taken


def _edges(centres: Array) -> Array:
    """The ends of cells around their centres."""
    half = (centres[1] - centres[0]) / 2
    return np.append(centres - half, centres[-1] + half)


def _contours(ax: Axes, edges: list[Array], cells: Array, norm: colors.Normalize) -> None:
    """Lines of equal outcome, at equal steps of the scale of colours."""
    centres = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    none = np.isnan(cells)
    place = np.where(none, 1.0, np.asarray(norm(cells)))
    if min(cells.shape) >= SMOOTHED:
        # Where runs jump about, each cell would have a contour of its own.
        place = median_filter(place, size=5, mode="nearest")
    place = np.ma.masked_array(place, none)
    levels = np.linspace(0.0, 1.0, LEVELS + 2)[1:-1]
    if not none.all():
        levels = levels[(levels > place.min()) & (levels < place.max())]
        if levels.size:
            ax.contour(*centres, place, levels=levels, colors="white", linewidths=0.7, alpha=0.65)


def _region(ax: Axes, edges: list[Array], mask: Array, **look: Any) -> None:
    """The outline of cells."""
    if mask.any() and not mask.all():
        ax.contour(*_fine(edges, mask), levels=[0.5], **look)


def _hatch(ax: Axes, edges: list[Array], mask: Array) -> None:
    """Lines across cells."""
    found = ax.contourf(*_fine(edges, mask), levels=[0.5, 1.5], colors="none", hatches=["////"])
    found.set_edgecolor("0.55")
    found.set_linewidth(0.0)


def _fine(edges: list[Array], mask: Array) -> tuple[Array, Array, Array]:
    """A mask with each cell repeated, so that a contour of it follows the edges of few, large cells."""
    ny, nx = mask.shape
    times = [-(-_FINE // n) for n in (nx, ny)]
    fine = np.repeat(np.repeat(mask.astype(float), times[1], axis=0), times[0], axis=1)
    middles = []
    for edge, n, k in zip(edges, (nx, ny), times, strict=True):
        fences = np.linspace(edge[0], edge[-1], n * k + 1)
        middles.append((fences[1:] + fences[:-1]) / 2)
        middles[-1][[0, -1]] = edge[[0, -1]]  # up to the border
    return middles[0], middles[1], fine


def _defaults(ax: Axes, marks: list[dict[str, Any]], x: Range, y: Range, taken: list[Box]) -> None:
    """Points, and lines where a framework has no default for one axis; those at one place have one label."""
    groups: dict[tuple[Any, Any], list[str]] = {}
    for mark in marks:
        groups.setdefault((mark["x"], mark["y"]), []).append(mark["label"])
    points = {at: who for at, who in groups.items() if None not in at}
    for px, py in points:
        at = (x.place(px), y.place(py))
        ax.plot(*at, marker="o", ms=7, mfc="white", mec="black", mew=1.3, ls="none", zorder=5,
                clip_on=False)  # fmt: skip
        taken.append((at[0] - 0.02, at[1] - 0.02, at[0] + 0.02, at[1] + 0.02))
    for (px, py), who in points.items():
        _label(ax, ", ".join(who), _around(x.place(px), y.place(py)), taken)
    for (px, py), who in groups.items():
        if px is None:
            ax.axhline(y.place(py), color="black", lw=1.2, ls="--", zorder=4)
            _label(ax, ", ".join(who), _beside(y.place(py), along_x=True), taken)
        elif py is None:
            ax.axvline(x.place(px), color="black", lw=1.2, ls="--", zorder=4)
            _label(ax, ", ".join(who), _beside(x.place(px), along_x=False), taken)


Spot = tuple[float, float, str, str]  # x, y, and which side of the text is there


def _around(px: float, py: float) -> list[Spot]:
    away = 0.025
    return [
        (px + away, py + away, "left", "bottom"),
        (px + away, py - away, "left", "top"),
        (px - away, py + away, "right", "bottom"),
        (px - away, py - away, "right", "top"),
        (px, py + 2 * away, "center", "bottom"),
        (px, py - 2 * away, "center", "top"),
        (px + away, py + 4 * away, "left", "bottom"),
        (px - away, py - 4 * away, "right", "top"),
    ]


def _beside(place: float, along_x: bool) -> list[Spot]:
    """Along a line, above and below it (or right and left), from one end to the other."""
    away = 0.02
    along = (0.02, 0.98, 0.25, 0.75, 0.5)
    sides = ("left", "right", "left", "right", "center")
    if along_x:
        return [
            (a, place + sign * away, side, va)
            for sign, va in ((1, "bottom"), (-1, "top"))
            for a, side in zip(along, sides, strict=True)
        ]
    ends = ("bottom", "top", "bottom", "top", "center")
    return [
        (place + sign * away, a, ha, va)
        for sign, ha in ((1, "left"), (-1, "right"))
        for a, va in zip(along, ends, strict=True)
    ]


def _label(ax: Axes, text: str, spots: list[Spot], taken: list[Box]) -> None:
    """Write a text at the first of the spots that is free and inside, in a line or else in several."""
    found = []
    for lines in (text, text.replace(", ", ",\n")):
        rows = lines.split("\n")
        size = 0.0185 * max(map(len, rows)), 0.042 * len(rows)  # of a panel, at 9 points
        boxes = [(_box(spot, *size), spot, lines) for spot in spots]
        found += [(box, *rest) for box, *rest in boxes if min(box) >= 0 and max(box) <= 1]
    free = [place for place in found if not any(_overlap(place[0], other) for other in taken)]
    box, (px, py, ha, va), lines = (free or found or boxes)[0]
    taken.append(box)
    ax.text(px, py, lines, ha=ha, va=va, fontsize=9, zorder=7, path_effects=_HALO)  # type: ignore[arg-type]


def _box(spot: Spot, width: float, height: float) -> Box:
    px, py, ha, va = spot
    left = px - {"left": 0.0, "center": 0.5, "right": 1.0}[ha] * width
    low = py - {"bottom": 0.0, "center": 0.5, "top": 1.0}[va] * height
    return left, low, left + width, low + height


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(study: Study) -> list[Any]:
    maps = study["maps"]
    found: list[Any] = []
    if any(one["best"] for one in maps):
        found.append(
            Line2D([], [], marker="*", ms=13, mfc=STAR, mec="white", ls="none", label="best cell")
        )
        found.append(Line2D([], [], color="black", lw=1.5, label="within 5% of the best"))
    if any(one["dialects"] for one in maps):
        found.append(Line2D([], [], marker="o", ms=7, mfc="white", mec="black", ls="none",
                            label="where frameworks have their defaults"))  # fmt: skip
    if any(_lost(one).any() for one in maps):
        found.append(
            Patch(facecolor="0.87", edgecolor="0.55", hatch="////", lw=0, label="diverged")
        )
    if any((np.isnan(_cells(one)) & ~_lost(one)).any() for one in maps):
        found.append(Patch(facecolor="0.87", label="never arrives"))
    return found


__all__ = ["outcome_text", "response_map"]
