"""Task + many Rules -> as many Runs: what `rmsprop.train.train` does for each, for all at once."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from rmsprop.data import batches
from rmsprop.kernels import threads as kernel_threads
from rmsprop.kernels.element import flags_of
from rmsprop.learners import split_of
from rmsprop.models import MLP
from rmsprop.models.checks import checked_count
from rmsprop.models.layers import Array
from rmsprop.rule import Rule
from rmsprop.run import Run, finite
from rmsprop.schedules import named
from rmsprop.stacked.mlp import StackedMLP, elements_of
from rmsprop.stacked.optimizer import StackedOptimizer
from rmsprop.tasks import OwnTask, Task

Progress = Callable[[int, int], Any]

# Numbers that a part of the copies may hold: 74 copies of digits-mlp. An update took 15us with 9 copies,
# 12.1us with 74 and 14.7us with 300: NumPy's calls, some 30 a step, must not outweigh their work, nor threads
# wait for each other between them; and more copies fall out of the caches.
STACK_ELEMENTS = 2**20


def can_stack(task: Any) -> bool:
    """Whether `train_many` can train a task: its model is an `rmsprop.models.MLP`.

    Parameters
    ----------
    task
        A `rmsprop.tasks.Task`, or an `OwnTask`, which builds a model for being asked.

    Examples
    --------
    >>> can_stack(Task.of("digits")), can_stack(Task.of("digits-cnn"))
    (True, False)
    """
    if isinstance(task, Task):
        return task.network == "mlp" and task.framework == "numpy"
    return isinstance(task, OwnTask) and type(task.build(0)) is MLP


def train_many(
    task: Any,
    rules: Iterable[Rule],
    *,
    seed: int = 0,
    schedule: str = "constant",
    warm_up: int = 0,
    steps: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Run]:
    """Train a task's network once with each rule, all at once.

    The copies see the same mini-batches from the same start, as `rmsprop.train.train` deals them to one.
    Rules of the same switches are trained as one `StackedMLP`, in parts that fit the caches. The bits of a
    copy depend neither on the others nor on the threads; they are those of `train` wherever BLAS multiplies a
    matrix among others as it does alone, as OpenBLAS was found to do.

    Parameters
    ----------
    task
        A `rmsprop.tasks.Task` or `OwnTask` whose model is an `rmsprop.models.MLP`: see `can_stack`.
    rules
        One for each run; `lr` is where the schedule starts.
    seed, schedule, warm_up, steps
        As `rmsprop.train.train`; the same for all.
    threads
        The most to use; None is Numba's number (`numba.set_num_threads`).
    progress
        Called, by one thread at a time, after each epoch of each part with the updates done by now, over all
        copies, and those there are; of a copy that has stopped all count as done.

    Returns
    -------
    list of Run
        One for each rule, in their order: what `train` returns for it, to rounding. `seconds` is the run's
        share of the time of the whole. A copy that meets a loss that is not finite stops there; others go on.

    Raises
    ------
    ValueError
        Without rules, for a task that cannot be stacked, settings out of range, and data that do not fit the
        model.
    TypeError
        For rules that are not Rules, and counts that are not whole.

    Examples
    --------
    >>> task = Task.of("moons", epochs=20)
    >>> runs = train_many(task, [Rule(lr=lr) for lr in (0.001, 0.01, 0.1)])
    >>> [run.rule["lr"] for run in runs], runs[1].test_score > 0.85
    ([0.001, 0.01, 0.1], True)
    """
    rules = _checked_rules(rules)
    checked_count("seed", seed, 0)
    checked_count("warm_up", warm_up, 0)
    model = _model(task, seed)
    workers = _workers(threads)
    total = task.epochs * task.steps_per_epoch if steps is None else checked_count("steps", steps)
    plan = _Plan(schedule, warm_up, total)
    plan.rates(rules)  # refuses a schedule that does not fit before anything is trained
    runs = [Run(task.name, rule.to_dict(), schedule, seed) for rule in rules]
    with threadpool_limits(1, user_api="blas"), np.errstate(all="ignore"):
        room = _Room.of(task, model, seed, plan)
        room.begin(runs)
        _compile(rules, model.dtype)
        told = _Told(progress, len(runs) * total)
        parts = _parts(rules, runs, _most(model, task.batch_size), workers)
        together = min(workers, len(parts))
        _go([_Part(room, *part, together, told) for part in parts], together, told)
        for run in runs:
            _judge(run)
    return runs


def _checked_rules(rules: Iterable[Rule]) -> list[Rule]:
    rules = list(rules)
    if not rules:
        raise ValueError("rules must be one Rule or more; got none: give one for each run")
    for rule in rules:
        if not isinstance(rule, Rule):
            raise TypeError(f"rules must be Rules; got {rule!r}: pass Rule(lr=0.01)")
    return rules


def _model(task: Any, seed: int) -> MLP:
    """The start of all copies, or an error."""
    model = None
    if isinstance(task, Task) and can_stack(task):
        model = task.model(seed)
    elif isinstance(task, OwnTask):
        model = task.build(seed)
    if type(model) is not MLP:
        what = getattr(task, "name", None) or type(task).__name__
        raise ValueError(
            f"only an rmsprop.models.MLP can be trained as many copies at once, and {what} is "
            "another model: call rmsprop.train.train for each rule, or use network='mlp'"
        )
    return model


def _workers(threads: int | None) -> int:
    most = kernel_threads.threads() if threads is None else checked_count("threads", threads)
    return 1 if kernel_threads.INTERPRETED else most


def _compile(rules: Sequence[Rule], dtype: Any) -> None:
    """So that no first step is timed with the compilation of its kernel."""
    for rule in {flags_of(rule): rule for rule in rules}.values():
        p = np.zeros((1, 1), dtype)
        StackedOptimizer([rule], [0, 1], dtype).step(p, p.copy(), np.zeros(1))


def _most(model: MLP, batch_size: int) -> int:
    """How many copies a part may hold."""
    return max(1, STACK_ELEMENTS // elements_of(model, batch_size))


def _parts(
    rules: list[Rule], runs: list[Run], most: int, workers: int
) -> list[tuple[list[Rule], list[Run]]]:
    """Rules of the same switches with their runs, so many at a time that all threads have the same to do."""
    rounds = -(-len(rules) // (most * workers))
    size = -(-len(rules) // (rounds * workers))
    groups: dict[int, list[int]] = {}
    for k, rule in enumerate(rules):
        groups.setdefault(flags_of(rule), []).append(k)
    found = []
    for members in groups.values():
        for share in np.array_split(members, -(-len(members) // size)):
            found.append(([rules[k] for k in share], [runs[k] for k in share]))
    return found


def _go(parts: list["_Part"], workers: int, told: "_Told") -> None:
    if workers == 1:
        for part in parts:
            part.train()
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(part.train) for part in parts]
        try:
            for future in futures:
                future.result()
        except BaseException:  # Ctrl-C too: the others end after the step under way
            told.stopped.set()
            for future in futures:
                future.cancel()
            raise


def _judge(run: Run) -> None:
    """Whether it diverged, as `rmsprop.train` says."""
    first, last = run.train_loss[0], run.train_loss[-1]
    grew = first is None or last is None or last > first * (1 + 1e-5)
    run.diverged = grew or not run.finite


class _Told:
    """How far all parts together are, for whoever watches; and whether they are to stop."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total, self.done = progress, total, 0
        self.lock, self.stopped = threading.Lock(), threading.Event()

    def add(self, updates: int) -> None:
        """Count what a part has done since it last told."""
        with self.lock:
            self.done += updates
            if self.progress is not None:
                self.progress(self.done, self.total)


@dataclass(frozen=True)
class _Plan:
    """The schedule that each rule follows from its own learning rate."""

    schedule: str
    warm_up: int
    steps: int

    def rates(self, rules: Sequence[Rule]) -> Callable[[int], Array]:
        """The learning rates (C,) at a step, from 0."""
        # A grid has the same learning rate many times.
        lrs, where = np.unique([rule.lr for rule in rules], return_inverse=True)
        plans = [named(self.schedule, lr, self.steps, self.warm_up) for lr in lrs.tolist()]
        if self.schedule == "constant" and not self.warm_up:
            constant = lrs[where]
            return lambda step: constant
        return lambda step: np.array([plan(step) for plan in plans])[where]


@dataclass(frozen=True)
class _Room:
    """What all parts share, to look at: the start, the data, and how they are dealt."""

    model: MLP
    seed: int
    plan: _Plan
    batch_size: int
    splits: dict[str, tuple[Array, Array]] = field(repr=False)

    @classmethod
    def of(cls, task: Any, model: MLP, seed: int, plan: _Plan) -> "_Room":
        stack, dataset = StackedMLP(model, 1), task.dataset
        found = {
            name: split_of(dataset, name) for name in ("train", "sample", "validation", "test")
        }
        splits = {name: stack.checked(split.x, split.y) for name, split in found.items()}
        return cls(model, seed, plan, task.batch_size, splits)

    def begin(self, runs: Sequence[Run]) -> None:
        """Record the start, which is the same for all."""
        stack = StackedMLP(self.model, 1)
        (train_loss,), _ = stack.judge(*self.splits["sample"])
        (loss,), (score,) = stack.judge(*self.splits["validation"])
        for run in runs:
            run.add(0, 0.0, train_loss, loss, score)


class _Part:
    """Some copies by rules of the same switches: one stack, trained to the end.

    Copies whose loss is not finite are recorded where they stop, and leave the stack when the epoch ends.
    """

    def __init__(self, room: _Room, rules: list[Rule], runs: list[Run], workers: int, told: _Told):
        self.room, self.rules, self.runs = room, rules, runs
        self.workers, self.told = workers, told
        self.step, self.seconds = 0, 0.0

    def train(self) -> None:
        """All epochs, and the test split at the end."""
        room = self.room
        # Made here and not before: the parts that wait need no memory.
        self.stack = StackedMLP(room.model, len(self.runs))
        self.optimizer = StackedOptimizer(self.rules, self.stack.starts, self.stack.dtype)
        self.rates = room.plan.rates(self.rules)
        rng = np.random.default_rng(room.seed)
        with np.errstate(all="ignore"):  # each thread has its own
            self._drop([run.finite for run in self.runs])
            while self.runs and self.step < room.plan.steps and not self.told.stopped.is_set():
                before, copies = self.step, len(self.runs)
                self._epoch(batches(len(room.splits["train"][0]), room.batch_size, rng))
                stopped = (copies - len(self.runs)) * (room.plan.steps - self.step)
                self.told.add(copies * (self.step - before) + stopped)
            if self.runs:
                losses, scores = self.stack.judge(*room.splits["test"])
                for run, loss, score in zip(self.runs, losses, scores, strict=True):
                    run.test_loss, run.test_score = finite(loss), finite(score)
        del self.stack, self.optimizer

    def _epoch(self, dealt: Iterable[Array]) -> None:
        """One pass over the training rows, or what is left of the steps, and its measurement."""
        x, y = self.room.splits["train"]
        sums, going, seen = np.zeros(len(self.runs)), np.ones(len(self.runs), bool), 0
        for rows in dealt:
            if self.step == self.room.plan.steps or not going.any() or self.told.stopped.is_set():
                break
            began = time.perf_counter()
            losses = self.stack.descend(x[rows], y[rows])
            self.optimizer.step(self.stack.flat, self.stack.flat_grads, self.rates(self.step))
            self.step += 1
            seen += len(rows)
            sums += losses * len(rows)
            self.seconds += (time.perf_counter() - began) / (len(self.runs) * self.workers)
            ended = going & ~np.isfinite(losses)
            if ended.any():
                self._record(np.flatnonzero(ended), sums / seen)
                going &= ~ended
        self._drop(going)
        if self.runs:
            self._record(None, sums[going] / seen)
            self._drop([run.finite for run in self.runs])

    def _record(self, which: Array | None, train_losses: Array) -> None:
        """Measure these copies, or all, on the validation rows."""
        stack = self.stack if which is None else self.stack.part(which)
        losses, scores = stack.judge(*self.room.splits["validation"])
        for j, c in enumerate(range(len(self.runs)) if which is None else which.tolist()):
            self.runs[c].add(self.step, self.seconds, train_losses[c], losses[j], scores[j])

    def _drop(self, going: Sequence[bool] | Array) -> None:
        """Go on with these copies alone."""
        which = np.flatnonzero(going)
        if len(which) == len(self.runs):
            return
        self.runs, self.rules = [self.runs[c] for c in which], [self.rules[c] for c in which]
        self.stack.keep(which)
        self.optimizer.keep(which)
        self.rates = self.room.plan.rates(self.rules)
