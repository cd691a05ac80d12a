"""The loops that the experiments share: a network on digits, and a plain descent of one's own gradient.

Run k of an experiment draws all that it draws from seed k, whatever the number of runs, so that the runs of
two settings are pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from rmsprop.data import Dataset, batches, load
from rmsprop.models import MLP
from rmsprop.optimizer import Optimizer
from rmsprop.rule import Rule
from rmsprop.schedules import Constant, Schedule
from rmsprop.simulate import path
from rmsprop.surfaces import Surface

Array = np.ndarray[Any, np.dtype[Any]]

FIRST_SEARCH_SEED = 1000
SEARCH_SEEDS = 3
SURFACE_RATES = 33
BATCH = 32
EPOCHS = 15
HIDDEN = (64,)


@cache
def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, split once."""
    return load("digits")


def epoch_steps() -> int:
    """Mini-batches of a pass over the training split."""
    return -(-len(digits().train) // BATCH)


@dataclass(frozen=True)
class Fit:
    """What one training gave: the mean loss of each epoch's mini-batches, and figures at the end."""

    losses: list[float]
    validation_loss: float
    test_loss: float
    test_accuracy: float


def fit(
    rule: Rule,
    seed: int,
    schedule: Schedule | None = None,
    *,
    hidden: Sequence[int] = HIDDEN,
    activation: str = "relu",
    epochs: int = EPOCHS,
    prepare: Callable[[MLP], None] | None = None,
    corrupt: Callable[[Array, int], Array] | None = None,
) -> Fit:
    """Train a network on digits.

    Parameters
    ----------
    rule, schedule
        The update, and its learning rate where that is not `rule.lr`.
    seed
        Draws the start and the order of the mini-batches.
    hidden, activation, epochs
        The network, and how long.
    prepare
        Changes the weights before the first step.
    corrupt
        (training inputs, seed) -> other inputs.

    Examples
    --------
    >>> found = fit(Rule(lr=0.003), seed=0, epochs=3)
    >>> len(found.losses), found.test_accuracy > 0.8
    (3, True)
    """
    data = digits()
    x, y = data.train.x, data.train.y
    if corrupt is not None:
        x = corrupt(x, seed)
    model = network(seed, hidden, activation)
    if prepare is not None:
        prepare(model)
    optimizer, rng = Optimizer(rule, learning_rate=schedule), np.random.default_rng(seed)
    losses = []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(epochs):
            total = 0.0
            for rows in batches(len(x), BATCH, rng):
                loss, grads = model.loss_and_grads(x[rows], y[rows])
                optimizer.update(model.params, grads)
                total += loss * len(rows)
            losses.append(total / len(x))
        return Fit(
            losses,
            model.loss(data.validation.x, data.validation.y),
            model.loss(data.test.x, data.test.y),
            model.score(data.test.x, data.test.y),
        )


def network(seed: int, hidden: Sequence[int] = HIDDEN, activation: str = "relu") -> MLP:
    """A new network for digits with weights drawn by this seed."""
    return MLP((64, *hidden, 10), activation=activation, seed=seed)


def best_rate(rates: Sequence[float], validation_loss: Callable[[float, int], float]) -> float:
    """The rate of the least mean validation loss, over seeds that the judged runs do not use.

    Examples
    --------
    >>> best_rate([0.1, 1.0, 10.0], lambda rate, seed: (rate - 2.0) ** 2)
    1.0
    """
    seeds = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + SEARCH_SEEDS)

    def mean(rate: float) -> float:
        found = np.mean([validation_loss(rate, seed) for seed in seeds])
        return float(np.nan_to_num(found, nan=np.inf))

    return min(rates, key=mean)


@lru_cache(maxsize=32)
def found_rate(rule: Rule, rates: Sequence[float], plan: Callable[[float], Schedule]) -> float:
    """`best_rate` of a rule on digits, along the schedule plan(rate)."""

    def loss(rate: float, seed: int) -> float:
        return fit(rule.replace(lr=rate), seed, plan(rate)).validation_loss

    return best_rate(rates, loss)


def starts(surface: Surface, seeds: Sequence[int]) -> Array:
    """(len(seeds), 2): a point of the domain for each seed."""
    (left, right), (bottom, top) = surface.domain
    draws = [np.random.default_rng([7, seed]).random(2) for seed in seeds]
    return np.array([left, bottom]) + np.array(draws) * [right - left, top - bottom]


def heights(
    surface: Surface, rule: Rule, seeds: Sequence[int], steps: int, schedule: Schedule | None = None
) -> Array:
    """(len(seeds), steps + 1): f above its minimum along paths, each from a start of its own.

    Examples
    --------
    >>> from rmsprop.surfaces import SURFACES
    >>> heights(SURFACES["sphere"], Rule(lr=0.1), range(3), 50).shape
    (3, 51)
    """
    begin = starts(surface, seeds)
    # Path k draws its noise from stream (seed, k): the first seed sets apart judged and searched paths.
    found = path(surface, rule, begin, steps, learning_rate=schedule, seed=seeds[0])
    with np.errstate(invalid="ignore"):
        return found.losses - (surface.minimum or 0.0)


def last_tenth(curves: Array) -> Array:
    """The geometric mean over the last tenth of each curve, as a path may end up or down a swing.

    Examples
    --------
    >>> last_tenth(np.array([[5.0] * 18 + [1.0, 100.0]])).round(6).tolist()
    [10.0]
    """
    tail = curves[:, -max(1, curves.shape[1] // 10) :]
    tail = np.clip(np.nan_to_num(tail, nan=np.inf), 1e-30, 1e12)
    return 10 ** np.log10(tail).mean(axis=1)


def surface_rate(
    surface: Surface, rule: Rule, steps: int, plan: Callable[[float], Schedule] = Constant
) -> float:
    """The learning rate of the least height, geometric mean of 5 starts that the judged paths do not use.

    `plan(lr)` makes the schedule.
    """
    seeds = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + 5)

    def height(lr: float) -> float:
        found = last_tenth(heights(surface, rule.replace(lr=lr), seeds, steps, plan(lr)))
        return float(np.log10(found).mean())

    return float(min(np.geomspace(1e-4, 1.0, SURFACE_RATES), key=height))


def descend(
    gradient: Callable[[Array, int], Array],
    rule: Rule,
    start: Array,
    steps: int,
    *,
    confine: tuple[float, float] | None = None,
) -> Array:
    """(steps + 1, *start.shape): where a rule goes under gradient(x, step), kept within `confine`.

    Examples
    --------
    >>> descend(lambda x, t: x, Rule.from_dialect("sgd", lr=0.5), np.array([4.0]), 2).tolist()
    [[4.0], [2.0], [1.0]]
    """
    params, optimizer = {"x": np.array(start, dtype=np.float64)}, Optimizer(rule)
    clip = None if confine is None else partial(np.clip, a_min=confine[0], a_max=confine[1])
    moments = [params["x"].copy()]
    for step in range(steps):
        optimizer.update(params, {"x": gradient(params["x"], step)})
        if clip is not None:
            params["x"][:] = clip(params["x"])
        moments.append(params["x"].copy())
    return np.array(moments)
