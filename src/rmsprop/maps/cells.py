"""The cells of a map: which is best, which are as good, and where the frameworks' defaults lie."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rmsprop.dialects import DIALECTS
from rmsprop.entries import Entry
from rmsprop.rule import Rule
from rmsprop.space import Range

Array = np.ndarray[Any, Any]

CLOSE = 0.95
"""The part of what the best cell gains that makes a cell as good as the best."""
DECADES = 16.0  # of gain: what lies below 1e-16 of the start's height is rounding
_FRAMEWORKS = {"torch": "PyTorch", "keras": "Keras", "optax": "Optax", "tf1": "TensorFlow 1"}


def within(found: dict[str, Any]) -> Array:
    """Which cells of a map are as good as its best: those that gain at least 95% of what that gains.

    ::

        height:  log10(start / height)  >=  0.95 * log10(start / least height)     (at most 16 decades)
        loss:    start - loss           >=  0.95 * (start - least loss)            of a task
        score:   score - start          >=  0.95 * (highest score - start)
        steps:   1 / steps              >=  0.95 / least steps

    Their share of all cells, each of which has the same area on the scales of the axes, is the map's
    tunability. Where the best is no better than the start, none is.

    Parameters
    ----------
    found
        One of `study["maps"]`: its `outcome`, the array of that name and `start`: of a surface the height of
        the start, of a task its loss and score.

    Returns
    -------
    array
        (rows, columns), bool.

    Examples
    --------
    >>> within({"outcome": "loss", "loss": np.array([[1e-10, 5e-10, 1e-9, np.nan]]), "start": 1.0}).tolist()
    [[True, False, False, False]]
    >>> within({"outcome": "steps", "steps": np.array([[100.0, 105.0, 106.0]])}).tolist()
    [[True, True, False]]
    >>> within({"outcome": "score", "score": np.array([[0.9, 0.87, 0.8]]), "start": {"score": 0.1}}).tolist()
    [[True, True, False]]
    """
    gain = _gain(found)
    there = np.isfinite(gain)
    if not there.any():
        return there
    return np.where(there, gain, -np.inf) >= max(CLOSE * gain[there].max(), np.finfo(float).tiny)


def _gain(found: dict[str, Any]) -> Array:
    """How much better than the start each cell is; nan where it diverged."""
    outcome = found["outcome"]
    cells = np.asarray(found[outcome], dtype=np.float64)
    if outcome == "steps":
        return 1 / cells
    start = found["start"]
    if outcome == "score":
        return cells - start["score"]
    if isinstance(start, dict):
        return start["loss"] - cells
    return np.minimum(math.log10(start) - np.log10(cells), DECADES)


def best_of(found: dict[str, Any], x: Range, y: Range) -> dict[str, Any] | None:
    """The best cell, of several that nearest to their middle; None where all diverged.

    Examples
    --------
    >>> axes = Range("lr", 0.1, 1.0, count=3), Range("decay", 0.5, 0.9, count=2)
    >>> best_of({"outcome": "loss", "loss": np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 4.0]])}, *axes)["x"]
    1.0
    """
    cells = found[found["outcome"]]
    if not np.isfinite(cells).any():
        return None
    extreme = np.nanmax(cells) if found["outcome"] == "score" else np.nanmin(cells)
    ties = np.argwhere(cells == extreme)
    i, j = (int(k) for k in ties[((ties - ties.mean(axis=0)) ** 2).sum(axis=1).argmin()])
    return {
        "x": float(x.values()[j]),
        "y": float(y.values()[i]),
        "outcome": float(cells[i, j]),
        "row": i,
        "column": j,
        "at_edge": i in (0, y.count - 1) or j in (0, x.count - 1),
    }


def marks_of(
    e: Entry, x: Range, y: Range, outcome: Callable[[Rule], float]
) -> list[dict[str, Any]]:
    """Where the frameworks' defaults lie on the axes; None along one for which there is no default.

    Parameters
    ----------
    e
        Only RMSprop has marks.
    x, y
        The axes.
    outcome
        What a rule comes to: asked for the whole of a framework's defaults, as its other settings too may
        differ from those of the map.

    Examples
    --------
    >>> from rmsprop.entries import entry
    >>> axes = Range("lr", 1e-4, 1.0), Range("decay", 0.5, 0.999)
    >>> marks_of(entry("rmsprop"), *axes, lambda rule: rule.eps)[0]
    {'label': 'PyTorch', 'x': 0.01, 'y': 0.99, 'outcome': 1e-08}
    >>> marks_of(entry("adam"), *axes, lambda rule: rule.eps)
    []
    """
    marks = []
    for name, label in _FRAMEWORKS.items() if e.is_rmsprop else ():
        fields = DIALECTS[name].fields
        rule = Rule.from_dialect(name, **({} if "lr" in fields else {"lr": e.rule.lr}))
        at = [
            None if a.name == "lr" and "lr" not in fields else getattr(rule, a.name) for a in (x, y)
        ]
        inside = [v is None or a.low <= v <= a.high for v, a in zip(at, (x, y), strict=True)]
        if all(inside) and at != [None, None]:
            found = outcome(rule) if "lr" in fields else math.nan
            mark = {"label": label, "x": at[0], "y": at[1]}
            marks.append(mark | {"outcome": found if math.isfinite(found) else None})
    return marks
