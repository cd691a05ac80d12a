"""The pictures of one training: curves, confusion, the worst mistakes."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rmsprop.plots import COLORS, tidy

MOST_LETTERS = 24  # of a class's name in a picture
MOST_CLASSES = 30  # of a confusion matrix with numbers in its cells


def curves(run: dict[str, Any], metric: str) -> Figure:
    """Loss on training and validation rows, and the validation score, over steps; the best one marked.

    Without a score there are no splits, and one loss is drawn.
    """
    scored = any(s is not None for s in run["validation_score"])
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    axes[0].plot(
        run["steps"], _numbers(run["validation_loss"]), color=COLORS[0], label="validation"
    )
    axes[0].set(xlabel="step", ylabel="loss", title="loss")
    axes[0].set_yscale("log" if any(run["validation_loss"]) else "linear")
    if scored:
        axes[0].plot(run["steps"], _numbers(run["train_loss"]), color=COLORS[1], label="training")
        axes[0].legend(frameon=False)
        values = _numbers(run["validation_score"])
        axes[1].plot(run["steps"], values, color=COLORS[0])
        best = run["best"]
        axes[1].plot(run["steps"][best], values[best], marker="o", ms=9, mfc="none", mec=COLORS[0])
        axes[1].set(xlabel="step", title=f"validation {metric}")
        seen = values[1:][np.isfinite(values[1:])]
        if seen.size:
            room = max(0.1 * (seen.max() - seen.min()), 0.002)
            axes[1].set_ylim(seen.min() - room, seen.max() + room)
            axes[1].ticklabel_format(axis="y", useOffset=False)
    for ax in axes:
        tidy(ax)
    return figure


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Rows are true classes, columns predicted ones; colour is the share of the row, mistakes in red."""
    counts = np.array(matrix)
    k = len(counts)
    side = min(9.0, 1.8 + 0.3 * k)
    figure = Figure(figsize=(side, side), layout="constrained")
    ax = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(k, dtype=bool), np.nan, shares)
    ax.imshow(np.where(np.eye(k, dtype=bool), shares, np.nan), cmap="Blues", vmin=0, vmax=1.4)
    ax.imshow(wrong, cmap="Reds", vmin=0, vmax=max(float(np.nanmax(wrong)) * 1.6, 1e-9))
    if k <= MOST_CLASSES:
        for (i, j), n in np.ndenumerate(counts):
            if n:
                ax.text(j, i, f"{n:,}", ha="center", va="center", fontsize=8)
    ticks = range(k)
    names = [_short(name) for name in classes]
    turn = 90 if k > 15 or max(map(len, names)) > 3 else 0
    ax.set_xticks(ticks, names, rotation=turn, parse_math=False)  # a class may be named "$"
    ax.set_yticks(ticks, names, parse_math=False)
    ax.set(xlabel="predicted", ylabel="true")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def mistakes(images: Any, worst: Sequence[Sequence[Any]], classes: Sequence[str]) -> Figure:
    """Test images that the model is surest of and wrong about."""
    columns = 10
    rows = math.ceil(len(worst) / columns)
    figure = Figure(figsize=(9, 1.45 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, mistake in itertools.zip_longest(axes.flat, worst):
        ax.set_axis_off()
        if mistake is None:
            continue
        k, predicted, true, p = mistake
        ax.imshow(images[k], cmap="gray_r", interpolation="nearest")
        title = (
            f"{_short(classes[int(predicted)])}, not {_short(classes[int(true)])}\n{100 * p:.0f}%"
        )
        ax.set_title(title, fontsize=8.5, color="#B00020", parse_math=False)
    return figure


def residuals(worst: Sequence[Sequence[float]]) -> Figure:
    """Predicted against true values of the rows with the largest errors."""
    figure = Figure(figsize=(4.2, 4), layout="constrained")
    ax = figure.subplots()
    rows = np.array(worst)
    ax.plot(rows[:, 2], rows[:, 1], ls="none", marker="o", color=COLORS[0])
    ends = [rows[:, 1:].min(), rows[:, 1:].max()]
    ax.plot(ends, ends, color="0.6", lw=1)
    ax.set(xlabel="true", ylabel="predicted")
    tidy(ax)
    return figure


def _short(name: str) -> str:
    """A name in one line that leaves room for the picture."""
    name = " ".join(name.split())
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 3] + "..."


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if x is None else x for x in values])
