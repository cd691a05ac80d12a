"""The Surface: a function of two numbers with its gradient and all that a drawing needs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

Point = tuple[float, float]


@dataclass(frozen=True, repr=False)
class Surface:
    """A function of (x, y) to minimise, with its gradient, domain, start and known minima.

    Parameters
    ----------
    name
        A short name.
    value, gradient
        f(x, y) -> float, and (x, y) -> (df/dx, df/dy).
    domain
        ((x low, x high), (y low, y high)): what to draw.  Nothing confines an optimizer to it.
    start
        Where a drawing starts unless told otherwise.
    minima, minimum
        The points of the domain where f is least, and its value there; empty and None where f is
        unbounded below or they are unknown.
    formula
        f in one line of text, coefficients included, with `^` for powers.
    dim
        2; or 1 where f ignores y and df/dy is 0.
    noise
        s: the stochastic version adds u.(x, y), with u ~ N(0, s^2 I) drawn anew at each step, so
        its gradient is gradient(x, y) + u.  The simulator draws u; `value` and `gradient` lack it.
    jit
        Whether `numba.njit` can compile `value` and `gradient`.

    Raises
    ------
    ValueError
        For a domain, start, minima, dim or noise out of its range.

    Examples
    --------
    >>> from rmsprop.surfaces import SURFACES
    >>> SURFACES["booth"]
    Surface(booth: f(x, y) = (x + 2*y - 7)^2 + (2*x + y - 5)^2, minimum 0 at (1, 3))
    >>> SURFACES["booth"].gradient(0.0, 0.0)
    (-34.0, -38.0)
    """

    name: str
    value: Callable[[float, float], float]
    gradient: Callable[[float, float], Point]
    domain: tuple[Point, Point]
    start: Point
    minima: tuple[Point, ...]
    minimum: float | None
    formula: str
    dim: int = 2
    noise: float = 0.0
    jit: bool = True

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # frozen; lists, as JSON gives them, become tuples
        set_field(self, "domain", ranges_of(self.domain))
        set_field(self, "start", pair_of("start", self.start))
        set_field(self, "minima", tuple(pair_of("each of minima", point) for point in self.minima))
        if self.dim not in (1, 2):
            raise ValueError(f"dim must be 1 or 2, got {self.dim!r}: use 1 where f ignores y")
        if not 0 <= self.noise < math.inf:
            raise ValueError(
                f"noise must be finite and at least 0, got {self.noise!r}: it is a standard "
                "deviation, and 0 turns it off"
            )

    def __repr__(self) -> str:
        least = "" if self.minimum is None else f", minimum {self.minimum:.6g}"
        where = ", ".join(f"({x:.6g}, {y:.6g})" for x, y in self.minima)
        at = f" at {where}" if where else ""
        noise = f", noise {self.noise:g}" if self.noise else ""
        return f"Surface({self.name}: f(x, y) = {self.formula}{least}{at}{noise})"

    def with_noise(self, s: float) -> "Surface":
        """The same surface with gradient noise u ~ N(0, s^2 I), drawn anew at each step.

        Parameters
        ----------
        s
            Standard deviation of each component, in units of the gradient; finite, at least 0, or
            ValueError.

        Examples
        --------
        >>> from rmsprop.surfaces import SURFACES
        >>> SURFACES["sphere"].with_noise(0.5)
        Surface(sphere: f(x, y) = x^2 + y^2, minimum 0 at (0, 0), noise 0.5)
        """
        return replace(self, noise=s)

    def distance(self, x: float, y: float) -> float:
        """Euclidean distance from (x, y) to the nearest of `minima`; nan where there is none.

        Parameters
        ----------
        x, y
            A point.  Where `dim` is 1, y does not count.

        Examples
        --------
        >>> from rmsprop.surfaces import SURFACES
        >>> SURFACES["booth"].distance(4.0, 7.0)
        5.0
        """
        away = (math.hypot(x - a, 0.0 if self.dim == 1 else y - b) for a, b in self.minima)
        return min(away, default=math.nan)

    def contains(self, x: float, y: float) -> bool:
        """Whether the point (x, y) lies in the domain, edges included.

        Examples
        --------
        >>> from rmsprop.surfaces import SURFACES
        >>> SURFACES["booth"].contains(10.0, -10.5)
        False
        """
        (left, right), (bottom, top) = self.domain
        return left <= x <= right and bottom <= y <= top


def pair_of(what: str, pair: Any) -> Point:
    """Two finite floats out of what the user gave; `what` names it in the message of the ValueError."""
    try:
        a, b = map(float, pair)
    except (TypeError, ValueError):
        a = b = math.nan
    if not (math.isfinite(a) and math.isfinite(b)):
        raise ValueError(
            f"{what} must be two finite numbers, got {pair!r}: write them as (-1.5, 2.5)"
        )
    return a, b


def ranges_of(domain: Any) -> tuple[Point, Point]:
    """((x low, x high), (y low, y high)) out of what the user gave; ValueError where not in order."""
    try:
        (left, right), (bottom, top) = (pair_of("range", ends) for ends in domain)
        if left < right and bottom < top:
            return (left, right), (bottom, top)
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"domain must be two finite ranges, each from low to high, got {domain!r}: "
        "write it as ((-5, 5), (-5, 5))"
    )
