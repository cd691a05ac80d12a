"""The record of one training, and what is told of it while it is under way."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rmsprop.learners import Learner


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
        At those moments: on the mini-batches of the epoch (at the start: on at most 5,000 training rows), and
        on the validation split. None where not finite, or where there is no score.
    seconds
        Time spent training up to then, without the measurements.
    test_loss, test_score
        On the test split, at the end; None for a run whose loss is not finite.
    diverged
        Whether a loss was not finite, or the training loss ended above where it started.
    best
        The place in those lists of the best validation score (the lower loss where equal, or without a
        score). With patience, the final parameters are of that moment.
    stopped
        Why the run ended before its last step: "early", for want of patience, or "callback"; else None.
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
    best: int = 0
    stopped: str | None = None
    rates: dict[str, list[list[float | None]]] | None = None
    examples: list[list[int]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def add(
        self, steps: int, seconds: float, train_loss: float, loss: float, score: float | None
    ) -> None:
        """Record a measurement."""
        self.steps.append(steps)
        self.seconds.append(seconds)
        self.train_loss.append(finite(train_loss))
        self.validation_loss.append(finite(loss))
        self.validation_score.append(finite(score) if math.isfinite(loss) else None)
        last = len(self.steps) - 1
        if self._rank(last) > self._rank(self.best):
            self.best = last

    def _rank(self, k: int) -> tuple[float, float]:
        """What makes one measurement better than another."""
        score, loss = self.validation_score[k], self.validation_loss[k]
        return -math.inf if score is None else score, -math.inf if loss is None else -loss

    @property
    def finite(self) -> bool:
        """Whether the losses of the last measurement are finite."""
        return self.train_loss[-1] is not None and self.validation_loss[-1] is not None


@dataclass(frozen=True)
class Moment:
    """What a callback is told, after each update and after each measurement.

    Attributes
    ----------
    step, steps
        Updates made, and those of the whole run.
    loss
        Of the mini-batch of this update, before it; with `measured`, the mean of the epoch.
    lr
        The learning rate of this update.
    measured
        Whether an epoch has just ended, and `run` has its measurement.
    run, learner
        The record so far, and what is being trained: to look at.
    """

    step: int
    steps: int
    loss: float
    lr: float
    measured: bool
    run: Run
    learner: Learner


def finite(x: float | None) -> float | None:
    """A plain number, or None where it is not finite, as JSON has no infinity.

    Examples
    --------
    >>> finite(1.5), finite(math.inf)
    (1.5, None)
    """
    return float(x) if x is not None and math.isfinite(x) else None
