"""Learning-rate schedules: the step, counted from 0, in; the learning rate out.

A schedule is any callable of one integer.  Those here are frozen dataclasses, so that they print,
compare, pickle and go into a Run's record.  This module imports the standard library only.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Constant:
    """The same learning rate at every step.

    Parameters
    ----------
    lr
        The learning rate.

    Examples
    --------
    >>> Constant(0.1)(1000)
    0.1
    """

    lr: float

    def __call__(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class StepDecay:
    """A drop by `factor` every so many steps.

    ::

        lr * factor^floor(step / every)

    Parameters
    ----------
    lr
        The learning rate at the start.
    every
        Steps between two drops.
    factor
        What each drop multiplies the learning rate by.

    Raises
    ------
    ValueError
        Where `every` is not a whole number of steps, 1 or more.

    Examples
    --------
    >>> [StepDecay(0.1, every=10, factor=0.5)(step) for step in (0, 9, 10, 20)]
    [0.1, 0.1, 0.05, 0.025]
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _at_least_one("every", self.every)

    def __call__(self, step: int) -> float:
        return self.lr * self.factor ** (step // self.every)


@dataclass(frozen=True)
class ExponentialDecay:
    """The same drop as `StepDecay`, spread over all steps.

    ::

        lr * factor^(step / every)

    Parameters
    ----------
    lr
        The learning rate at the start.
    every
        Steps that a drop by `factor` takes.
    factor
        What `every` steps multiply the learning rate by.

    Raises
    ------
    ValueError
        Where `every` is not a whole number of steps, 1 or more.

    Examples
    --------
    >>> round(ExponentialDecay(0.1, every=10, factor=0.25)(5), 6)
    0.05
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _at_least_one("every", self.every)

    def __call__(self, step: int) -> float:
        return self.lr * self.factor ** (step / self.every)


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from lr down to `end` after `steps`, and `end` from there on.

    ::

        end + (lr - end) * (1 + cos(pi * min(step / steps, 1))) / 2

    Parameters
    ----------
    lr
        The learning rate at the start.
    steps
        Steps until `end` is reached.
    end
        The learning rate from there on.

    Raises
    ------
    ValueError
        Where `steps` is not a whole number of steps, 1 or more.

    Examples
    --------
    >>> [round(Cosine(0.1, steps=100)(step), 3) for step in (0, 50, 100, 200)]
    [0.1, 0.05, 0.0, 0.0]

    References
    ----------
    Loshchilov and Hutter, arXiv:1608.03983, without restarts.
    """

    lr: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _at_least_one("steps", self.steps)

    def __call__(self, step: int) -> float:
        turn = math.pi * min(step / self.steps, 1.0)
        return self.end + (self.lr - self.end) * (1 + math.cos(turn)) / 2


@dataclass(frozen=True)
class WarmUp:
    """A rise to the learning rate that `then` begins with, and then `then` from its start.

    ::

        (step + 1) / steps * then(0)      step < steps
        then(step - steps)                from there on

    The first step already moves: it has 1/steps of the rate.

    Parameters
    ----------
    steps
        Steps of the rise.
    then
        A schedule or a number.

    Raises
    ------
    ValueError
        Where `steps` is not a whole number of steps, 1 or more.

    Examples
    --------
    >>> [round(WarmUp(4, then=0.1)(step), 3) for step in (0, 1, 3, 4, 100)]
    [0.025, 0.05, 0.1, 0.1, 0.1]
    """

    steps: int
    then: Schedule | float

    def __post_init__(self) -> None:
        _at_least_one("steps", self.steps)

    def __call__(self, step: int) -> float:
        then = as_schedule(self.then)
        if step < self.steps:
            return then(0) * (step + 1) / self.steps
        return then(step - self.steps)


def as_schedule(lr: Schedule | float) -> Schedule:
    """A callable as it is; a number as `Constant`.

    Examples
    --------
    >>> as_schedule(0.1)
    Constant(lr=0.1)
    """
    return lr if callable(lr) else Constant(float(lr))


NAMES = ("constant", "cosine", "step", "exponential")


def named(name: str, lr: float, steps: int, warm_up: int = 0) -> Schedule:
    """The schedule of that name, for a run of `steps` of which the first `warm_up` rise to lr.

    Parameters
    ----------
    name
        "constant"; "cosine", from lr to 0; "step", a tenth after each third; "exponential", to a hundredth.
    lr
        The learning rate that the others start from.
    steps
        Of the whole run.
    warm_up
        Of these, how many rise to lr first; 0 for none.

    Raises
    ------
    ValueError
        For another name, or a warm-up that leaves no step.

    Examples
    --------
    >>> named("cosine", 0.1, 50)
    Cosine(lr=0.1, steps=50, end=0.0)
    >>> named("step", 0.1, 30, warm_up=3)
    WarmUp(steps=3, then=StepDecay(lr=0.1, every=9, factor=0.1))
    """
    if not 0 <= warm_up < max(steps, 1):
        raise ValueError(f"warm_up must be 0 or more and below the {steps} steps; got {warm_up}")
    rest = max(1, steps - warm_up)
    plans = {
        "constant": Constant(lr),
        "cosine": Cosine(lr, rest),
        "step": StepDecay(lr, every=-(-rest // 3)),
        "exponential": ExponentialDecay(lr, every=rest, factor=0.01),
    }
    if name not in plans:
        raise ValueError(f"schedule must be one of {', '.join(NAMES)}; got {name!r}")
    return WarmUp(warm_up, plans[name]) if warm_up else plans[name]


def _at_least_one(name: str, value: int) -> None:
    if not isinstance(value, numbers.Integral) or value < 1:  # NumPy's integers too
        raise ValueError(f"{name} must be a whole number of steps, 1 or more; got {value!r}")
