"""What is made small or large: the score of a task on its validation split, or the user's own function."""

import inspect
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rmsprop import statistics
from rmsprop.rule import Rule
from rmsprop.run import Moment, Run
from rmsprop.search.workers import Config, Diverged, Pruned, Report, Result
from rmsprop.settings import Settings, make_task
from rmsprop.tasks import Task
from rmsprop.train import train
from rmsprop.user_code import find, load_module


@dataclass(frozen=True)
class TaskObjective:
    """The mean score on the validation split over some seeds, of a rule with the values of a trial.

    Attributes
    ----------
    task
        A task, or the settings that name one, which is then made where it is needed.
    rule
        What the values of a trial replace fields of.
    schedule
        Of the learning rate.
    seeds
        Of the start and the mini-batches: the same for every trial.
    splits
        Seeds of the split of the data, one for each of `seeds`; empty keeps the task's own.
    """

    task: Task | Settings
    rule: Rule
    schedule: str = "cosine"
    seeds: tuple[int, ...] = (0,)
    splits: tuple[int, ...] = ()

    def __getstate__(self) -> Config:
        return _plain(self)

    @cached_property
    def made(self) -> Any:
        """The task."""
        return make_task(self.task) if isinstance(self.task, Settings) else self.task

    def of_split(self, k: int) -> Any:
        """The task with the k-th split of the data."""
        return replace(self.made, split_seed=self.splits[k]) if self.splits else self.made

    def rule_of(self, config: Config) -> Rule:
        """The rule with these values."""
        return self.rule.replace(**config)

    def __call__(self, config: Config, report: Report) -> Result:
        rule = self.rule_of(config)

        def tell(moment: Moment) -> None:
            if moment.measured and not moment.run.finite:
                return
            if moment.measured and moment.step < moment.steps:
                report(len(moment.run.steps) - 1, self.value_of(moment.run))

        runs = []
        for k, seed in enumerate(self.seeds):
            callbacks = [tell] if k == 0 else []  # pruned by the first, as those of others compare
            run = train(
                self.of_split(k), rule, seed=seed, schedule=self.schedule, callbacks=callbacks
            )
            runs.append(run)
            if run.diverged:
                break
        return self.result(runs)

    def value_of(self, run: Run) -> float:
        """The score on the validation split; without one, the loss with a minus."""
        score, loss = run.validation_score[-1], run.validation_loss[-1]
        if score is not None:
            return score
        return math.nan if loss is None else -loss

    def result(self, runs: list[Run]) -> Result:
        """What a trial came to; raises Diverged where a run did."""
        more = {
            "scores": [self.value_of(run) for run in runs],
            "loss": statistics.mean([run.validation_loss[-1] for run in runs]),
            "seconds": sum(run.seconds[-1] for run in runs),
        }
        if any(run.diverged for run in runs) or not all(math.isfinite(x) for x in more["scores"]):
            raise Diverged({"seconds": more["seconds"]})
        return Result(math.fsum(more["scores"]) / len(runs), more)


@dataclass(frozen=True)
class FinalObjective:
    """One final run of a config and a seed: on the validation split and, once, on the test split.

    Attributes
    ----------
    task
        With the rule, the schedule and the splits; its seeds are not used.
    configs
        Which are tried, by the number that a trial names.
    """

    task: TaskObjective
    configs: tuple[Config, ...]

    def rule_of(self, config: Config) -> Rule:
        """The rule of a trial."""
        return self.task.rule_of(self.configs[int(config["config"])])

    def made(self, seed: int) -> Any:
        """The task of a seed."""
        made = self.task.made
        return replace(made, split_seed=seed) if self.task.splits else made

    def __call__(self, config: Config, report: Report) -> Result:
        seed, rule = int(config["of_seed"]), self.rule_of(config)
        return self.result(train(self.made(seed), rule, seed=seed, schedule=self.task.schedule))

    def result(self, run: Run) -> Result:
        """What the run came to."""
        if run.diverged:
            raise Diverged({})
        return Result(self.task.value_of(run), {"test": run.test_score, "seconds": run.seconds[-1]})


@dataclass(frozen=True)
class Function:
    """The user's function f(config, report) -> float, itself or as module:function.

    Attributes
    ----------
    function
        The function, or where it is: "package.module:f" or "path/to/file.py:f".
    seed
        What config["seed"] is, where the trial says nothing else.

    Examples
    --------
    >>> Function(lambda config, report: config["x"] ** 2)({"x": 3.0}, lambda step, value: None)
    9.0
    """

    function: Any
    seed: int = 0

    def __getstate__(self) -> Config:
        return _plain(self)

    @cached_property
    def made(self) -> Any:
        """The function."""
        if not isinstance(self.function, str):
            return self.function
        where, _, name = self.function.rpartition(":")
        return find(load_module(where), name, " of (config, report)")

    def check(self) -> "Function":
        """Itself, if it can be called as f(config, report); TypeError or ValueError otherwise."""
        made = self.made
        if not callable(made):
            raise TypeError(f"the objective must be a function f(config, report); got {made!r}")
        try:
            signature = inspect.signature(made)
        except (TypeError, ValueError):  # of some builtins there is none
            return self
        try:
            signature.bind({}, None)
        except TypeError:
            raise TypeError(
                f"the objective must take two arguments, f(config, report); {self.label} takes {signature}"
            ) from None
        return self

    @property
    def label(self) -> str:
        """What it is called."""
        if isinstance(self.function, str):
            return self.function
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, config: Config, report: Report) -> Any:
        return self.made({"seed": self.seed} | config, report)


@dataclass(frozen=True)
class FinalFunction:
    """The user's function with the values of a config, and a seed of its own."""

    function: Function
    configs: tuple[Config, ...]

    def __call__(self, config: Config, report: Report) -> Any:
        values = self.configs[int(config["config"])] | {"seed": int(config["of_seed"])}
        return self.function(values, _ignore)


def _plain(objective: Any) -> Config:
    """What is sent to another process: without what was made from it, which is made anew there."""
    return {key: value for key, value in vars(objective).items() if key != "made"}


def _ignore(step: int, value: float) -> None:
    """A final run is not pruned."""


def takes_nothing(where: str) -> bool:
    """Whether file.py:name is a function without arguments: one that makes a task, not an objective."""
    file, _, name = where.rpartition(":")
    function = find(load_module(file), name)
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


__all__ = [
    "Diverged",
    "FinalFunction",
    "FinalObjective",
    "Function",
    "Pruned",
    "TaskObjective",
    "takes_nothing",
]
