"""What is searched and how: the arguments of `tune`, checked and understood."""

import math
from dataclasses import dataclass, field
from typing import Any

from rmsprop.entries import Entry, entry
from rmsprop.ledger import key_of
from rmsprop.search.objective import Function, TaskObjective, takes_nothing
from rmsprop.search.priors import prior
from rmsprop.search.study import METHODS
from rmsprop.settings import Settings, make_entry, make_task
from rmsprop.space import Space, check_rule, space_of
from rmsprop.tasks import Task

FINALISTS = 5
_COUNTS = ("trials", "seeds", "search_seeds", "jobs")
FIRST_SEARCH_SEED = 1000
"""Far from the seeds of final runs, which are not to be those that the choice was made by."""


@dataclass(frozen=True)
class Options:
    """How a search is made; the arguments of `tune` by the same names."""

    method: str = "tpe"
    trials: int | None = None
    finalists: int = FINALISTS
    seeds: int | None = None
    search_seeds: int | None = None
    first_seed: int = FIRST_SEARCH_SEED
    splits: bool = False
    prune: bool = True
    seed: int = 0
    jobs: int = 1
    time_limit: float | None = None
    apart: bool = False
    ray: str | None = None
    stack: bool = True

    def __post_init__(self) -> None:
        for least, names in ((1, _COUNTS), (0, ("finalists", "seed", "first_seed"))):
            for name in names:
                value = getattr(self, name)
                if value is not None and (type(value) is not int or value < least):
                    raise ValueError(
                        f"{name} must be a whole number, {least} or more; got {value!r}"
                    )
        if self.time_limit is not None and not 0 < self.time_limit < math.inf:
            raise ValueError(f"time_limit must be seconds above 0; got {self.time_limit!r}")
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {self.method!r}")


@dataclass(frozen=True)
class Plan:
    """What is searched, of a task or of a function.

    Attributes
    ----------
    name, label
        Of the study, and of the objective in sentences.
    objective
        What a trial evaluates.
    space
        What is searched.
    direction
        "maximize" for the score of a task.
    about
        What else decides the value of a trial, ready for JSON: who goes on with a study must have the same.
    entry
        Of a task, the optimizer with its own values; None for a function.
    warm_up
        Reports before a trial can be pruned.
    """

    name: str
    label: str
    objective: TaskObjective | Function
    space: Space
    direction: str
    about: dict[str, Any]
    entry: Entry | None = None
    warm_up: int = 0
    task: dict[str, Any] | None = field(default=None)


def plan_of(
    objective: Any,
    space: Any,
    optimizer: str | Entry | None,
    schedule: str,
    direction: str,
    chosen: Options,
) -> Plan:
    if _is_function(objective):
        if optimizer is not None or chosen.splits or chosen.search_seeds is not None:
            raise ValueError("optimizer, splits and search_seeds are for tasks, not for a function")
        return _plan_function(objective, space, direction, chosen)
    if direction != "minimize":
        raise ValueError("direction is for functions: the score of a task is maximized")
    return _plan_task(objective, space, optimizer, schedule, chosen)


def _is_function(objective: Any) -> bool:
    if isinstance(objective, str):
        file, colon, name = objective.rpartition(":")
        return bool(colon and file and name.isidentifier()) and not takes_nothing(objective)
    return callable(objective) and not hasattr(objective, "learner")


def _plan_function(objective: Any, space: Any, direction: str, chosen: Options) -> Plan:
    if direction not in ("minimize", "maximize"):
        raise ValueError(f"direction must be minimize or maximize; got {direction!r}")
    if space is None:
        raise ValueError("name what is searched: {'x': '0:1'}, or on the command line x=0:1")
    function = Function(objective, chosen.first_seed).check()
    about = {"objective": function.label, "search_seed": chosen.first_seed}
    return Plan(function.label, function.label, function, space_of(space), direction, about)


def _plan_task(
    objective: Any, space: Any, optimizer: str | Entry | None, schedule: str, chosen: Options
) -> Plan:
    source = Settings(objective) if isinstance(objective, str) else objective
    if isinstance(source, Settings):
        source_task = make_task(source)
        source = source if source.is_own else source_task
    else:
        source_task = source
    if not hasattr(source_task, "learner") or getattr(source_task, "metric", None) is None:
        raise TypeError(
            f"the objective must be a task or a function f(config, report); got {objective!r}"
        )
    base = _base(source_task, optimizer)
    dimensions = prior(base.rule, frozenset(base.given)) if space is None else space_of(space)
    check_rule(dimensions, base.rule)
    if twice := [d.name for d in dimensions if d.name in base.given]:
        raise ValueError(f"{', '.join(twice)} is set by the optimizer and searched: leave out one")
    if isinstance(source_task, Task):
        source_task.model(0)  # a network that does not fit the data is told before anything is kept
    if chosen.splits and not hasattr(source_task, "split_seed"):
        raise ValueError("splits needs a task whose data rmsprop splits, not one of your own")
    count = chosen.search_seeds or 1
    seeds = tuple(chosen.first_seed + k for k in range(count))
    task = TaskObjective(source, base.rule, schedule, seeds, seeds if chosen.splits else ())
    described = {k: v for k, v in source_task.to_dict().items() if k != "data_dir"}
    about = {
        "task": key_of(described),
        "optimizer": base.rule.to_dict(),
        "schedule": schedule,
        "search_seeds": count,
        "first_seed": chosen.first_seed,
        "splits": chosen.splits,
    }
    name = f"{source_task.name} {base.label}"
    warm_up = max(1, source_task.epochs // 4)
    return Plan(
        name, source_task.name, task, dimensions, "maximize", about, base, warm_up, described
    )


def _base(task: Any, optimizer: str | Entry | None) -> Entry:
    """The optimizer with the values that it has if nobody tunes it, clipped as the network needs."""
    if isinstance(optimizer, Entry):
        return optimizer
    named = entry(optimizer or "rmsprop")
    clipped = make_entry(Settings("", optimizer=optimizer or "rmsprop", lr=named.rule.lr), task)
    return Entry(named.label, clipped.rule, named.fixed, named.given)
