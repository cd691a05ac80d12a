"""The one training loop: Task + Rule -> Run, with checkpoints that it goes on from bit for bit."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from rmsprop import signals
from rmsprop.checkpoint import Keeper
from rmsprop.data import batches
from rmsprop.data.inputs import description
from rmsprop.learners import Arrays, Learner, part_of
from rmsprop.reference import denominator
from rmsprop.rule import Rule
from rmsprop.run import Moment, Run, finite
from rmsprop.schedules import named
from rmsprop.signals import Interrupted

__all__ = ["Interrupted", "Moment", "Run", "train"]

QUANTILES = (0.1, 0.5, 0.9)
Callback = Callable[[Moment], Any]


def train(
    task: Any,
    rule: Rule,
    *,
    seed: int = 0,
    schedule: str = "constant",
    warm_up: int = 0,
    steps: int | None = None,
    patience: int | None = None,
    details: bool = False,
    folder: str | Path | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train a task's network with a rule, and measure it as it goes.

    Parameters
    ----------
    task
        `rmsprop.tasks.Task`, `OwnTask`, or any object with their `name`, `epochs`, `batch_size`,
        `steps_per_epoch`, `to_dict` and `learner`.
    rule
        The update; its `lr` is where the schedule starts.
    seed
        Draws the start and the order of the mini-batches: the same for every rule.
    schedule
        One of `schedules.NAMES`: "constant", or "cosine", from `rule.lr` to 0 over the whole run, and others.
    warm_up
        Steps over which the learning rate first rises to `rule.lr`.
    steps
        Updates to make, in place of the task's epochs.
    patience
        Stop after so many epochs without a better validation score (a lower loss, where there is no score);
        then the best epoch's parameters are put back. None goes on to the end and keeps the last.
    details
        Also record effective learning rates, and examples of predictions for images.
    folder
        Where checkpoints go, to `folder/checkpoints`; and at the end `model.safetensors` and `run.json`. Then
        Ctrl-C and SIGTERM end the run after the step under way, with a checkpoint. None keeps nothing.
    resume
        Go on from the newest whole checkpoint in `folder`, to the same bits as if nothing had happened.
        Otherwise checkpoints that are there are moved aside, to `checkpoints.bak`.
    checkpoint_seconds, checkpoint_steps
        Least time between checkpoints within an epoch (longer where writing them would take over a twentieth
        of it), and updates between them. One is also written after each epoch.
    callbacks
        Called with a `Moment` after each update and each measurement; a true return ends the run.

    Returns
    -------
    Run
        A run that meets a loss that is not finite stops there.

    Raises
    ------
    ValueError
        For settings out of range, as the task's data and network, and for checkpoints of another run.
    Interrupted
        A KeyboardInterrupt, after a checkpoint was written, where there is a folder.
    OSError
        Where the result cannot be written. A checkpoint that cannot be written is a UserWarning, and the run
        goes on.

    Examples
    --------
    >>> from rmsprop.tasks import Task
    >>> run = train(Task.of("moons", epochs=20), Rule(lr=0.01))
    >>> run.diverged, run.test_score > 0.85
    (False, True)
    """
    _check_counts(1, steps=steps, patience=patience, checkpoint_steps=checkpoint_steps)
    _check_counts(0, seed=seed, warm_up=warm_up)
    if not 0 <= checkpoint_seconds < math.inf:
        raise ValueError(f"checkpoint_seconds must be 0 or more; got {checkpoint_seconds}")
    if resume and folder is None:
        raise ValueError("resume needs the folder in which the checkpoints are")
    # BLAS sums in another order with another number of threads; with one, a run has the same bits alone and
    # among others. An epoch of MNIST took .8 s so, and with two threads 9 s, both on two busy cores.
    with threadpool_limits(1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
        loop = Loop(task, rule, seed, schedule, warm_up, steps, patience, details)
        if folder is None:
            for moment in loop:
                _tell(callbacks, moment)
            return loop.run
        with contextlib.closing(Keeper(folder, checkpoint_seconds, checkpoint_steps)) as keeper:
            if not resume:
                keeper.set_aside()
            elif found := keeper.newest(loop.settings):
                loop.load(*found)
            _go(loop, keeper, callbacks)
    return loop.run


def _check_counts(least: int, **counts: Any) -> None:
    for name, value in counts.items():
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            raise ValueError(f"{name} must be a whole number, {least} or more; got {value!r}")


def _go(loop: "Loop", keeper: Keeper, callbacks: Sequence[Callback]) -> None:
    """Train to the end, and keep what is to be kept."""
    with signals.deferred() as stopped:
        for moment in loop:
            _tell(callbacks, moment)
            lost = not math.isfinite(moment.loss)  # no place to go on from
            if not lost and (moment.measured or stopped() or keeper.due(moment.step)):
                keeper.checkpoint(loop.arrays(), loop.header())
            if moment.measured:
                keeper.record(loop.run.to_dict())
            if stopped():
                raise Interrupted(f"stopped after step {moment.step} of {moment.steps}")
    keeper.finish(loop.learner.arrays(), loop.about(), loop.run.to_dict())


def _tell(callbacks: Sequence[Callback], moment: Moment) -> None:
    wishes = [callback(moment) for callback in callbacks]
    if any(wishes) and moment.step < moment.steps:
        moment.run.stopped = "callback"


@dataclass
class Position:
    """Where a run is.

    Attributes
    ----------
    order
        State of the generator that shuffles, at the start of this epoch.
    step
        Updates made.
    batch, rows, loss
        Of this epoch: mini-batches done, their rows, and the sum of the loss over these.
    seconds
        Time spent in updates.
    """

    order: Any
    step: int = 0
    batch: int = 0
    rows: int = 0
    loss: float = 0.0
    seconds: float = 0.0


class Loop:
    """A run under way: iterating trains, and yields after each update and each measurement.

    Between two moments nothing moves: `arrays` and `header` then hold all that `load` needs for going on.
    """

    def __init__(
        self,
        task: Any,
        rule: Rule,
        seed: int,
        schedule: str,
        warm_up: int,
        steps: int | None,
        patience: int | None,
        details: bool,
    ):
        self.task, self.patience, self.details = task, patience, details
        self.steps = steps or task.epochs * task.steps_per_epoch
        self.plan = named(schedule, rule.lr, self.steps, warm_up)
        self.learner: Learner = task.learner(rule, self.plan, seed)
        self.run = Run(task.name, rule.to_dict(), schedule, seed)
        self.rng = np.random.default_rng(seed)
        self.at = Position(self.rng.bit_generator.state)
        self.best: tuple[Arrays, dict[str, Any]] | None = None
        self.settings = {
            "task": {k: v for k, v in task.to_dict().items() if k != "data_dir"},  # data may move
            "rule": rule.to_dict(),
            "seed": seed,
            "schedule": schedule,
            "warm_up": warm_up,
            "steps": self.steps,
            "patience": patience,
            "details": details,
        }

    def __iter__(self) -> Iterator[Moment]:
        if not self.run.steps:
            self._measure(self.learner.measure("sample")[0])
        # An epoch that is begun is measured, also where a checkpoint was written after its last update.
        while self.at.batch or (self._goes_on() and self.run.finite):
            for rows in self._rest_of_epoch():
                if not self._goes_on():
                    break
                loss = self._step(rows)
                yield self._moment(loss, measured=False)
                if not math.isfinite(loss):
                    break
            mean_loss = self._end_epoch()
            yield self._moment(mean_loss, measured=True)
        self._finish()

    def _goes_on(self) -> bool:
        return self.at.step < self.steps and self.run.stopped is None

    def _rest_of_epoch(self) -> Iterator[np.ndarray]:
        self.rng.bit_generator.state = self.at.order
        dealt = batches(self.learner.rows, self.task.batch_size, self.rng)
        return (rows for k, rows in enumerate(dealt) if k >= self.at.batch)

    def _step(self, rows: np.ndarray) -> float:
        at, began = self.at, time.perf_counter()
        loss = self.learner.step(rows)
        at.seconds += time.perf_counter() - began
        at.step += 1
        at.batch += 1
        at.rows += len(rows)
        at.loss += loss * len(rows)
        return loss

    def _moment(self, loss: float, *, measured: bool) -> Moment:
        lr = self.plan(self.at.step - 1)
        return Moment(self.at.step, self.steps, loss, lr, measured, self.run, self.learner)

    def _end_epoch(self) -> float:
        """Measure, and get ready for the next epoch; the mean loss of this one."""
        at, run = self.at, self.run
        mean_loss = at.loss / at.rows
        self._measure(mean_loss)
        self.at = Position(self.rng.bit_generator.state, at.step, seconds=at.seconds)
        if self.details:
            self._record_rates()
        if self.patience is not None and at.step < self.steps and run.stopped is None:
            since = len(run.steps) - 1 - run.best
            run.stopped = "early" if since >= self.patience else None
        return mean_loss

    def _measure(self, train_loss: float) -> None:
        loss, score = self.learner.measure("validation")
        self.run.add(self.at.step, self.at.seconds, train_loss, loss, score)
        if self.patience is not None and self.run.best == len(self.run.steps) - 1:
            self.best = self.learner.arrays(), self.learner.header()

    def _record_rates(self) -> None:
        averages = getattr(self.learner, "averages", dict)()
        rule = Rule.from_dict(self.run.rule)
        for path, (v, m) in averages.items():
            with np.errstate(all="ignore"):
                rates = self.plan(self.at.step - 1) / denominator(rule, v, m, self.at.step)
                found = np.quantile(rates, QUANTILES)
            self.run.rates = self.run.rates or {}
            self.run.rates.setdefault(path, []).append([finite(q) for q in found])

    def _finish(self) -> None:
        run = self.run
        if self.best is not None:
            self.learner.load(*self.best)
        first, last = run.train_loss[0], run.train_loss[-1]
        # A rate too small to move anything ends where it started, but for float32's rounding.
        grew = first is None or last is None or last > first * (1 + 1e-5)
        run.diverged = grew or not run.finite
        if run.finite:
            loss, score = self.learner.measure("test")
            run.test_loss, run.test_score = finite(loss), finite(score)
        if self.details:
            run.examples = _examples(self.learner)

    def about(self) -> dict[str, Any]:
        """What is to be known of the model, ready for JSON: its settings, its data but for the rows."""
        dataset = getattr(self.learner, "dataset", None)
        return {"settings": self.settings, "data": dataset and description(dataset)}

    def arrays(self) -> Arrays:
        """Copies of every array that going on needs."""
        best = {} if self.best is None else {f"best/{k}": a for k, a in self.best[0].items()}
        return {f"now/{k}": a for k, a in self.learner.arrays().items()} | best

    def header(self) -> dict[str, Any]:
        """The rest of it, ready for JSON."""
        return {
            "step": self.at.step,
            "settings": self.settings,
            "position": asdict(self.at),
            "run": self.run.to_dict(),
            "learner": self.learner.header(),
            "best": None if self.best is None else self.best[1],
        }

    def load(self, arrays: Arrays, header: dict[str, Any]) -> None:
        """Go on from what `arrays` and `header` returned."""
        self.learner.load(part_of(arrays, "now/"), header["learner"])
        if header["best"] is not None:
            self.best = part_of(arrays, "best/"), header["best"]
        self.run, self.at = Run(**header["run"]), Position(**header["position"])


def _examples(learner: Any) -> list[list[int]] | None:
    """The first ten test rows and the first ten mistakes, with what the model says."""
    dataset = getattr(learner, "dataset", None)
    if dataset is None or dataset.images is None or dataset.kind == "regression":
        return None
    z = learner.scores(dataset.test.x)
    predicted = z.argmax(1) if dataset.kind == "multiclass" else (z[:, 0] > 0).astype(int)
    wrong = np.flatnonzero(predicted != dataset.test.y)
    first = range(min(10, len(predicted)))
    return [[k, int(predicted[k])] for k in [*first, *wrong[wrong >= 10][:10].tolist()]]
