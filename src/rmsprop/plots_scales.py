"""Axes on the scales of `rmsprop.space`: where the ticks stand, and how a number is written."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator

from rmsprop.space import Choice, Dimension, Range

MOST_TICKS = 7


def dimension_of(kept: dict[str, Any]) -> Dimension:
    """The range or choice that `space.to_dict` wrote.

    Examples
    --------
    >>> dimension_of({"name": "centered", "values": [False, True]})
    Choice(name='centered', values=(False, True))
    """
    return Choice(kept["name"], tuple(kept["values"])) if "values" in kept else Range(**kept)


def short(value: Any) -> str:
    """A value in four digits; of one just below 1, three of its distance from 1.

    Examples
    --------
    >>> [short(x) for x in (0.00123456, 0.9995412, 1e-8, 64, True, "relu")]
    ['0.001235', '0.999541', '1e-08', '64', 'true', 'relu']
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        near_one = 0.9 < value < 1
        return f"{1 - float(f'{1 - value:.3g}'):.12g}" if near_one else f"{value:.4g}"
    return str(value)


def words(config: dict[str, Any]) -> str:
    """A config in one line.

    Examples
    --------
    >>> words({"lr": 0.01, "centered": True})
    'lr 0.01, centered true'
    """
    return ", ".join(f"{name} {short(value)}" for name, value in config.items())


def literal(text: str) -> str:
    """A text that Matplotlib shows as it is: it takes what stands between dollars for mathematics.

    Examples
    --------
    >>> print(literal("$x$"))
    \\$x\\$
    """
    return text.replace("$", r"\$")


def ticks(d: Range) -> list[float]:
    """Values of a range to write beside its axis, round ones where they are enough.

    Examples
    --------
    >>> ticks(Range("lr", 1e-4, 1.0)), ticks(Range("decay", 0.9, 0.9999))
    ([0.0001, 0.001, 0.01, 0.1, 1.0], [0.9, 0.99, 0.999, 0.9999])
    >>> ticks(Range("decay", 0.5, 0.99)), ticks(Range("x", 0.0, 1.0))
    ([0.5, 0.8, 0.9, 0.95, 0.98, 0.99], [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    """
    if d.scale == "linear":
        steps = MaxNLocator(MOST_TICKS - 1).tick_values(d.low, d.high)
        found = [float(f"{x:.12g}") for x in steps]
    elif d.scale == "log":
        found = _round_ones(d.low, d.high)
    else:
        # What is left to 1 in round numbers; its far end may be 1 itself, or above it.
        found = [float(f"{1 - x:.12g}") for x in reversed(_round_ones(1 - d.high, 1 - d.low))]
    room = 1e-6  # of the ends, which rounding may have moved
    inside = [x for x in found if -room <= d.place(x) <= 1 + room]
    return inside if len(inside) > 1 else [d.low, d.high]


def _round_ones(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers, all or every second or third; where they are few, 2 and 5 too."""
    first = math.floor(math.log10(low) + 1e-9)
    last = math.ceil(math.log10(high) - 1e-9)
    powers = range(first, last + 1)
    whole = [k for k in powers if low <= 10.0**k * (1 + 1e-9) and 10.0**k <= high * (1 + 1e-9)]
    if len(whole) > 3:
        step = -(-len(whole) // MOST_TICKS)
        return [float(f"1e{k}") for k in whole[::step]]

    def between(*digits: str) -> list[float]:
        found = [float(f"{digit}e{k}") for k in powers for digit in digits]
        return [x for x in found if low * (1 - 1e-9) <= x <= high * (1 + 1e-9)]

    found = between("1", "2", "5")
    if len(whole) == 3 and len(found) > MOST_TICKS:
        return between("1")
    return found if len(found) > 2 else between("1", "1.5", "2", "3", "5", "7")


def places(d: Dimension, values: Any) -> np.ndarray[Any, Any]:
    """Where values stand along an axis from 0 to 1.

    Examples
    --------
    >>> places(Choice("n", (1, 2, 4)), [1, 4]).tolist(), places(Range("x", 0.0, 2.0), [1.0]).tolist()
    ([0.0, 1.0], [0.5])
    """
    if isinstance(d, Range):
        return np.array([d.place(value) for value in values], dtype=np.float64)
    last = max(1, len(d.values) - 1)
    middle = 0.5 if len(d.values) == 1 else 0.0
    return np.array([middle + d.values.index(value) / last for value in values], dtype=np.float64)


def marks(d: Dimension, values: Sequence[Any] | None = None) -> list[tuple[float, str]]:
    """Where the ticks of a dimension stand along an axis from 0 to 1, and what is written beside them.

    Parameters
    ----------
    d
        The dimension.
    values
        Which have a tick; default round ones, and of a choice all.

    Examples
    --------
    >>> marks(Choice("centered", (False, True)))
    [(0.0, 'false'), (1.0, 'true')]
    """
    shown = values or (ticks(d) if isinstance(d, Range) else d.values)
    labels = [literal(label_of(value)) for value in shown]
    return list(zip(places(d, shown).tolist(), labels, strict=True))


def label_axis(axis: Axis, d: Dimension, values: Sequence[Any] | None = None) -> None:
    """Ticks, at these values or as in `marks`, and the name of an axis from 0 to 1 that shows a dimension."""
    found = marks(d, values)
    axis.set_ticks([at for at, _ in found], labels=[text for _, text in found])
    axis.set_label_text(literal("learning rate, lr" if d.name == "lr" else d.name))


def label_of(value: Any) -> str:
    """A tick's value, all of its digits.

    Examples
    --------
    >>> label_of(0.99999), label_of(1e-5), label_of(False)
    ('0.99999', '1e-05', 'false')
    """
    return f"{value:.12g}" if isinstance(value, float) else short(value)
