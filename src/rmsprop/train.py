"""The one training loop: Task + Rule -> Run."""

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from rmsprop.data import Dataset, batches
from rmsprop.models import MLP
from rmsprop.numpy import Optimizer, State
from rmsprop.reference import denominator
from rmsprop.rule import Rule
from rmsprop.schedules import named
from rmsprop.tasks import Task

QUANTILES = (0.1, 0.5, 0.9)


@dataclass
class Run:
    """The plain record of one training: what was run, the curves, the figures.

    Attributes
    ----------
    task, rule, schedule, seed
        What was run. The seed draws the start and the order of the mini-batches.
    steps
        Updates made at each measurement: the start, and the end of each epoch.
    train_loss, validation_loss, validation_score
        At those moments: on the mini-batches of the epoch (at the start: on the training split), and on the
        validation split. None where not finite.
    seconds
        Time spent training up to then, without the measurements.
    test_loss, test_score
        On the test split, at the end; None for a run that diverged.
    diverged
        Whether a loss was not finite, or the training loss ended above where it started.
    rates
        With `details`: for each weight array, the quantiles .1, .5 and .9 of the effective learning rates (lr
        over the denominator) after each epoch.
    examples
        With `details`, for images: test rows to show, as [index, predicted label].
    """

    task: str
    rule: dict[str, Any]
    schedule: str
    seed: int
    steps: list[int] = field(default_factory=list)
    train_loss: list[float | None] = field(default_factory=list)
    validation_loss: list[float | None] = field(default_factory=list)
    validation_score: list[float | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    test_loss: float | None = None
    test_score: float | None = None
    diverged: bool = False
    rates: dict[str, list[list[float | None]]] | None = None
    examples: list[list[int]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def train(
    task: Task, rule: Rule, *, seed: int = 0, schedule: str = "constant", details: bool = False
) -> Run:
    """Train the task's network with a rule, and measure it as it goes.

    Parameters
    ----------
    task
        Data, network, batch size and epochs.
    rule
        The update; its `lr` is where the schedule starts.
    seed
        Draws the start and the order of the mini-batches: the same for every rule.
    schedule
        `"constant"`, or `"cosine"`: from `rule.lr` to 0 over the whole run.
    details
        Also record effective learning rates, and examples of predictions for images.

    Returns
    -------
    Run
        A run that meets a loss that is not finite stops there.

    Raises
    ------
    ValueError
        For an unknown schedule, and as the task's data and network.

    Examples
    --------
    >>> run = train(Task.of("moons", epochs=20), Rule(lr=0.01))
    >>> run.diverged, run.test_score > 0.85
    (False, True)
    """
    # BLAS sums in another order with another number of threads; with one, a run has the same bits alone and
    # among others. An epoch of MNIST took .8 s so, and with two threads 9 s, both on two busy cores.
    with threadpool_limits(1, user_api="blas"):
        return _train(task, rule, seed, schedule, details)


def _train(task: Task, rule: Rule, seed: int, schedule: str, details: bool) -> Run:
    dataset, model = task.dataset, task.model(seed)
    plan = named(schedule, rule.lr, task.epochs * task.steps_per_epoch)
    optimizer = Optimizer(rule, learning_rate=plan)
    _warm_up(rule)
    run = Run(task.name, rule.to_dict(), schedule, seed)
    rates: dict[str, list[list[float | None]]] = {}
    rng = np.random.default_rng(seed)
    _measure(run, dataset, model, 0, 0.0, model.loss(dataset.train.x, dataset.train.y))
    for _ in range(task.epochs):
        start = time.perf_counter()
        loss = _epoch(dataset, model, optimizer, task.batch_size, rng)
        spent = run.seconds[-1] + time.perf_counter() - start
        _measure(run, dataset, model, optimizer.step_count, spent, loss)
        if details:
            _record_rates(rates, optimizer, plan(optimizer.step_count - 1))
        if run.train_loss[-1] is None or run.validation_loss[-1] is None:
            break
    _finish(run, dataset, model)
    if details:
        run.rates = rates or None
        run.examples = _examples(dataset, model)
    return run


def _warm_up(rule: Rule) -> None:
    """Compile the kernel before the clock starts."""
    p = {"w": np.zeros(1, np.float32)}
    Optimizer(rule).update(p, p)


def _epoch(
    dataset: Dataset, model: MLP, optimizer: Optimizer, batch_size: int, rng: np.random.Generator
) -> float:
    """One pass over the training split; the mean loss over its rows."""
    x, y = dataset.train.x, dataset.train.y
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for rows in batches(len(x), batch_size, rng):
            loss, grads = model.loss_and_grads(x[rows], y[rows])
            optimizer.update(model.params, grads)
            total += loss * len(rows)
    return total / len(x)


def _measure(
    run: Run, dataset: Dataset, model: MLP, steps: int, seconds: float, train_loss: float
) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        loss = model.loss(dataset.validation.x, dataset.validation.y)
        score = model.score(dataset.validation.x, dataset.validation.y)
    run.steps.append(steps)
    run.seconds.append(seconds)
    run.train_loss.append(_finite(train_loss))
    run.validation_loss.append(_finite(loss))
    run.validation_score.append(_finite(score) if math.isfinite(loss) else None)


def _finish(run: Run, dataset: Dataset, model: MLP) -> None:
    first, last = run.train_loss[0], run.train_loss[-1]
    # A rate too small to move anything ends where it started, but for the rounding of two means in float32.
    grew = first is None or last is None or last > first * (1 + 1e-5)
    run.diverged = grew or run.validation_loss[-1] is None
    if not run.diverged:
        run.test_loss = _finite(model.loss(dataset.test.x, dataset.test.y))
        run.test_score = _finite(model.score(dataset.test.x, dataset.test.y))


def _record_rates(
    rates: dict[str, list[list[float | None]]], optimizer: Optimizer, lr: float
) -> None:
    state: State = optimizer.state
    for path, v in state.slots.get("v", {}).items():
        m = state.slots["m"][path] if "m" in state.slots else v
        with np.errstate(all="ignore"):
            found = np.quantile(lr / denominator(optimizer.rule, v, m, state.step), QUANTILES)
        rates.setdefault(path, []).append([_finite(q) for q in found])


def _examples(dataset: Dataset, model: MLP) -> list[list[int]] | None:
    """The first ten test rows and the first ten mistakes, with what the model says."""
    if dataset.images is None:
        return None
    predicted = model.predict(dataset.test.x)
    wrong = np.flatnonzero(predicted != dataset.test.y)
    first = range(min(10, len(predicted)))
    return [[k, int(predicted[k])] for k in [*first, *wrong[wrong >= 10][:10].tolist()]]


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
