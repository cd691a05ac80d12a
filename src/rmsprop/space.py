"""What is searched: ranges and choices of named numbers, on the scale that suits each."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rmsprop.rule import Rule, near

Array = np.ndarray[Any, np.dtype[np.float64]]

SCALES = ("log", "log1m", "linear")
COUNT = 64
MOST = 100_000
"""Combinations of a grid."""
# A rate of decay is known by its distance from 1: 0.9 averages 10 steps, 0.99 a hundred.
_SCALE = {
    "lr": "log", "eps": "log", "weight_decay": "log", "decay": "log1m", "momentum": "log1m",
    "initial_scale": "log", "clip_value": "log", "clip_norm": "log", "clip_global_norm": "log",
}  # fmt: skip
_IDLE = {  # what does not enter the arithmetic
    "none": ("decay", "eps", "eps_in_sqrt", "centered", "initial_scale"),
    "sum": ("decay", "centered"),
}
NUMBERS = tuple(_SCALE)
"""The numbers of a `Rule`, which a range can run over."""
_FORM = "name=low:high, name=low:high:scale:count, or name=value,value,..."


@dataclass(frozen=True)
class Range:
    """A number between two ends.

    Parameters
    ----------
    name
        What it is called.
    low, high
        The ends, both included; finite, low below high.
    scale
        Where equal steps are equal: "log" (ratios; needs a low above 0), "log1m" (ratios of 1 - value; needs
        a high below 1) or "linear". None takes the one that suits a number of `Rule` of that name (log for
        lr, eps and others; log1m for decay and momentum), and linear for any other.
    count
        How many values stand for the range on a grid.

    Raises
    ------
    ValueError
        For an empty or reversed range, or one that its scale cannot hold.

    Examples
    --------
    >>> Range("lr", 1e-3, 1e-1, count=3).values().tolist()
    [0.001, 0.01, 0.1]
    >>> Range("decay", 0.9, 0.999, count=3).values().round(4).tolist()
    [0.9, 0.99, 0.999]
    """

    name: str
    low: float
    high: float
    scale: str | None = None
    count: int = COUNT

    def __post_init__(self) -> None:
        scale = _SCALE.get(self.name, "linear") if self.scale is None else self.scale
        object.__setattr__(self, "scale", scale)
        text = f"{self.low:g}:{self.high:g}"
        if scale not in SCALES:
            raise ValueError(
                f"the scale of {self.name} is one of {', '.join(SCALES)}; got {scale!r}"
            )
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"the range of {self.name} must have finite ends; got {text}")
        if not math.isfinite(self.high - self.low):
            raise ValueError(f"the range of {self.name} is too wide for floats; got {text}")
        if not self.low < self.high:
            raise ValueError(
                f"the range of {self.name} must run from low to a higher end; got {text}"
            )
        if scale == "log" and self.low <= 0:
            raise ValueError(
                f"a log range of {self.name} must begin above 0; got {text}: begin higher, "
                f"or write {text}:linear"
            )
        if scale == "log1m" and self.high >= 1:
            raise ValueError(
                f"a log1m range of {self.name} must end below 1; got {text}: end lower, "
                f"or write {text}:linear"
            )
        if self.count < 2:
            raise ValueError(f"{self.name} needs a count of 2 values or more; got {self.count}")

    def values(self) -> Array:
        """`count` values at equal steps on the scale, the ends exact."""
        found = [float(f"{x:.12g}") for x in self.at(np.linspace(0.0, 1.0, self.count))]
        found[0], found[-1] = self.low, self.high
        return np.array(found)

    def at(self, places: Any) -> Array:
        """The values at places from 0 (low) to 1 (high) along the scale.

        Examples
        --------
        >>> float(Range("lr", 1e-4, 1e-2).at(0.5).round(6))
        0.001
        """
        low, high = self._scaled(self.low), self._scaled(self.high)
        x = low + (high - low) * np.asarray(places, dtype=np.float64)
        if self.scale == "log":
            x = np.exp(x)
        elif self.scale == "log1m":
            x = -np.expm1(-x)
        return np.clip(x, self.low, self.high)  # which rounding can miss by a bit

    def place(self, value: float) -> float:
        """Where a value lies on the scale: 0 at low, 1 at high; the inverse of `at`.

        Examples
        --------
        >>> round(Range("decay", 0.9, 0.999).place(0.99), 6)
        0.5
        """
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def _scaled(self, value: float) -> float:
        if self.scale == "log":
            return math.log(value) if value > 0 else -math.inf
        if self.scale == "log1m":
            return -math.log1p(-value) if value < 1 else math.inf
        return value

    def __str__(self) -> str:
        return f"{self.name}={self.low:g}:{self.high:g}:{self.scale}"


@dataclass(frozen=True)
class Choice:
    """One of some values: numbers, truth values or words.

    Raises
    ------
    ValueError
        For no value, or one that stands twice.

    Examples
    --------
    >>> Choice("centered", (False, True)).values
    (False, True)
    """

    name: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise ValueError(f"{self.name} has no value to choose: write {_FORM}")
        for k, value in enumerate(self.values):
            if not isinstance(value, bool | int | float | str):
                raise TypeError(
                    f"a value of {self.name} must be a number, a truth value or a word; got {value!r}"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"a value of {self.name} must be finite; got {value}")
            if value in self.values[:k]:
                raise ValueError(f"{self.name} has the value {value!r} twice")

    def __str__(self) -> str:
        return f"{self.name}={','.join(_word(value) for value in self.values)}"


Dimension = Range | Choice
Space = tuple[Dimension, ...]


def parse(text: str, count: int = COUNT) -> Dimension:
    """The range or choice that a text such as lr=1e-5:1:log:256 or centered=true,false describes.

    Parameters
    ----------
    text
        name=low:high, with :scale and :count if wanted; or name=value,value,...
    count
        Of a range that does not say.

    Raises
    ------
    ValueError
        Where it has another form, and as `Range` and `Choice`.

    Examples
    --------
    >>> parse("lr=1e-5:1")
    Range(name='lr', low=1e-05, high=1.0, scale='log', count=64)
    >>> parse("decay=0.9,0.99")
    Choice(name='decay', values=(0.9, 0.99))
    """
    name, equals, rest = text.partition("=")
    name, rest = name.strip(), rest.strip()
    if not (equals and name and rest):
        raise ValueError(f"write {_FORM}; got {text!r}")
    if ":" not in rest:
        return Choice(name, tuple(_value(word.strip()) for word in rest.split(",") if word.strip()))
    low, high, *more = rest.split(":")
    scale = more.pop(0) or None if more else None
    if scale is not None and scale.isdigit() and not more:  # the scale left out
        scale, more = None, [scale]
    try:
        count = int(more.pop(0)) if more else count
        ends = float(low), float(high)
    except ValueError:
        raise ValueError(f"write {_FORM}; got {text!r}") from None
    if more:
        raise ValueError(f"write {_FORM}; got {text!r}")
    return Range(name, *ends, scale, count)


def space_of(given: Any) -> Space:
    """The space that a user describes: texts for `parse`, ranges and choices, or a dict of them by name.

    Parameters
    ----------
    given
        A sequence of texts, `Range`s and `Choice`s; or {name: value}, with for value a text ("1e-5:1:log"),
        a `Range`, a `Choice`, a pair of floats (a range) or a list of values (a choice).

    Raises
    ------
    TypeError, ValueError
        For what is none of these, a name that stands twice, or nothing at all.

    Examples
    --------
    >>> [str(d) for d in space_of({"lr": "1e-3:1", "width": [16, 32], "noise": (0.0, 0.5)})]
    ['lr=0.001:1:log', 'width=16,32', 'noise=0:0.5:linear']
    """
    if isinstance(given, Mapping):
        found = [_named(str(name), value) for name, value in given.items()]
    elif isinstance(given, str):
        found = [parse(text) for text in given.split()]
    elif isinstance(given, Iterable):
        found = [d if isinstance(d, Range | Choice) else parse(d) for d in given]
    else:
        raise TypeError(
            f"a space is a dict of ranges by name, or texts such as lr=1e-5:1; got {given!r}"
        )
    if not found:
        raise ValueError(f"the space is empty: write {_FORM}")
    names = [d.name for d in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} stands twice in the space")
        if name == "seed":
            raise ValueError("seed is not searched: each trial is given seeds of its own")
        if name.startswith("1-"):
            raise ValueError(
                f"a name must not begin with 1-, as searches call distances from 1; got {name!r}"
            )
    return tuple(found)


def grid_of(space: Space) -> list[dict[str, Any]]:
    """Every combination, the last dimension fastest; of a range its `count` values.

    Examples
    --------
    >>> grid_of(space_of("a=1,2 b=x,y"))[:3]
    [{'a': 1, 'b': 'x'}, {'a': 1, 'b': 'y'}, {'a': 2, 'b': 'x'}]
    """
    size = math.prod(d.count if isinstance(d, Range) else len(d.values) for d in space)
    if size > MOST:
        raise ValueError(
            f"a grid has at most {MOST:,} combinations; got {size:,}: name fewer values, as "
            "name=value,value or name=low:high:scale:count"
        )
    found: list[dict[str, Any]] = [{}]
    for d in space:
        values = d.values().tolist() if isinstance(d, Range) else d.values
        found = [config | {d.name: value} for config in found for value in values]
    return found


def drawn(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """A combination drawn at random, uniform on each scale.

    Examples
    --------
    >>> config = drawn(space_of("lr=1e-3:1 centered=true,false"), np.random.default_rng(0))
    >>> 1e-3 <= config["lr"] <= 1, config["centered"] in (True, False)
    (True, True)
    """
    return {
        d.name: float(d.at(rng.random()))
        if isinstance(d, Range)
        else d.values[rng.integers(len(d.values))]
        for d in space
    }


def check_rule(space: Space, rule: Rule) -> None:
    """Raise ValueError or TypeError for what this rule cannot take: an unknown name, a value out of range.

    Examples
    --------
    >>> check_rule(space_of("lr=1e-3:1"), Rule())
    >>> check_rule(space_of("momentum=0,1.5"), Rule())
    Traceback (most recent call last):
    ValueError: momentum must be a number in [0, 1]; got 1.5
    """
    for d in space:
        known = rule.to_dict()
        if d.name not in known:
            raise ValueError(f"the rule has no {d.name!r}{near(d.name, known)}")
        if isinstance(d, Range) and d.name not in NUMBERS:
            raise ValueError(f"{d.name} is a switch: write {d.name}=true,false; got {d}")
        if d.name in _IDLE.get(rule.second_moment, ()):
            raise ValueError(f"{d.name} does nothing in this optimizer: leave it out")
    for config in corners(space):
        rule.replace(**config)


def corners(space: Space) -> list[dict[str, Any]]:
    """The combinations of ends and choices: what must be valid for all to be.

    Examples
    --------
    >>> corners(space_of("lr=0.1:1 centered=true"))
    [{'lr': 0.1, 'centered': True}, {'lr': 1.0, 'centered': True}]
    """
    return grid_of(tuple(replace(d, count=2) if isinstance(d, Range) else d for d in space))


def from_dict(plain: Mapping[str, Any]) -> Dimension:
    """The range or choice that `to_dict` described.

    Examples
    --------
    >>> from_dict({"name": "a", "values": [1, 2]})
    Choice(name='a', values=(1, 2))
    """
    return Choice(plain["name"], tuple(plain["values"])) if "values" in plain else Range(**plain)


def to_dict(dimension: Dimension) -> dict[str, Any]:
    """A range or choice, ready for JSON.

    Examples
    --------
    >>> to_dict(Choice("a", (1, 2)))
    {'name': 'a', 'values': [1, 2]}
    """
    if isinstance(dimension, Choice):
        return {"name": dimension.name, "values": list(dimension.values)}
    return {k: getattr(dimension, k) for k in ("name", "low", "high", "scale", "count")}


def _named(name: str, value: Any) -> Dimension:
    if isinstance(value, Range | Choice):
        return replace(value, name=name)
    if isinstance(value, str):
        return parse(f"{name}={value}")
    if isinstance(value, tuple) and len(value) == 2 and all(type(v) is float for v in value):
        return Range(name, *value)
    if isinstance(value, Sequence):
        return Choice(name, tuple(value))
    raise TypeError(
        f"{name} must be a text such as '1e-5:1:log', a pair of floats (a range) or a list of values; "
        f"got {value!r}"
    )


def _value(word: str) -> Any:
    words = {"true": True, "false": False}
    if word.lower() in words:
        return words[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)
