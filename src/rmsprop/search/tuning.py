"""`rmsprop.tune`: a search, its finalists over several seeds, and what they come to on unseen data."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna

from rmsprop.entries import Entry, entry
from rmsprop.environment import describe
from rmsprop.ledger import key_of
from rmsprop.search import results
from rmsprop.search.loop import Progress, run_trials
from rmsprop.search.objective import (
    FinalFunction,
    FinalObjective,
    Function,
    TaskObjective,
    takes_nothing,
)
from rmsprop.search.priors import prior
from rmsprop.search.storage import open_storage
from rmsprop.search.study import METHODS, Study
from rmsprop.search.workers import Config, Evaluate, Here, Processes, Workers
from rmsprop.settings import Settings, make_entry, make_task
from rmsprop.space import Choice, Space, check_rule, grid_of, space_of

TRIALS = 60
FINALISTS = 5
SEEDS, SEEDS_OF_LARGE, LARGE = 10, 5, 20_000
FIRST_SEARCH_SEED = 1000
"""Far from the seeds of final runs, which are not to be those that the choice was made by."""
WORTH_PRUNING = 5  # trials that end before others are compared with them
KEPT = 75.0  # per cent that go on at a report; with the median three quarters of all trials were pruned


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
        counts = ("trials", "seeds", "search_seeds", "jobs")
        for name in counts:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a whole number, 1 or more; got {value!r}")
        if type(self.finalists) is not int or self.finalists < 0:
            raise ValueError(f"finalists must be a whole number, 0 or more; got {self.finalists!r}")
        if self.time_limit is not None and not 0 < self.time_limit < math.inf:
            raise ValueError(f"time_limit must be seconds above 0; got {self.time_limit!r}")
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {self.method!r}")


def tune(
    objective: Any,
    space: Any = None,
    *,
    optimizer: str | Entry | None = None,
    schedule: str = "cosine",
    direction: str = "minimize",
    storage: Any = None,
    study: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Search for the settings that make an objective small, or a task's validation score large.

    Parameters
    ----------
    objective
        A task: its name, the path of data, a `Task` or `Settings`; then the trials are scored on the
        validation split, and the finalists are measured on the test split too. Or a function
        f(config, report) -> float, or where it is, "module:f" or "path/to/file.py:f". Its config holds the
        values by name, and "seed"; report(step, value) may be called as it goes, and then a trial that does
        worse than three quarters of those before is pruned (an exception: let it pass).
    space
        {"lr": "1e-5:1:log", "width": [16, 32], "noise": (0.0, 0.5)}, or texts as lr=1e-5:1; as in
        `space.space_of`. Of a task None takes what suits the optimizer: lr and eps log-uniform, 1 - decay
        log-uniform, and the place of eps, centering and momentum as switches.
    optimizer
        Of a task: rmsprop (the default), a dialect or another optimizer, as `entries.entry` reads it or made
        it; fields that it sets are not searched.
    schedule
        Of a task's learning rate.
    direction
        Of a function: "minimize" or "maximize".
    storage, study
        Where trials are kept as they end (a file that ends in .db, or postgresql://USER@HOST/DATABASE), and
        under which name. The same call then goes on where a killed one stopped, and several processes or
        machines can be at it together. None keeps them in memory.
    progress
        As in `ledger.run_all`.
    **options
        method: "tpe" (multivariate), "random" or "grid". trials: in all, default 60, of a grid its size.
        finalists: how many of the best get final runs, default 5. seeds: final runs of each, default 10 (5
        from 20,000 rows on). search_seeds: runs that a trial of a task is the mean of, default 1. first_seed:
        of these, by default 1000, as final runs have the seeds from 0. splits:
        whether each seed also splits the data anew. prune: whether to stop hopeless trials, default true.
        seed: of the draws. jobs: processes; 1 stays in this one, unless apart is true. time_limit: seconds
        that a trial may take. ray: "auto" or the address of a Ray cluster. stack: whether small networks of a
        grid or a random search are trained together, as one, default true.

    Returns
    -------
    dict
        Ready for JSON and `report_search.write`: "winner" with its "config", "value" and what to paste; the
        "trials", the "finalists" with intervals, and "sentence".

    Raises
    ------
    TypeError, ValueError
        For a space, an objective or options out of range, a study that searches something else, and where the
        first five trials all fail.
    ConnectionError
        Where the database does not answer.
    ModuleNotFoundError
        Where Optuna, or what else is asked for, is not installed.

    Examples
    --------
    >>> from rmsprop.search import tune
    >>> found = tune(lambda config, report: (config["x"] - 0.3) ** 2, {"x": (0.0, 1.0)}, trials=30)
    >>> abs(found["winner"]["config"]["x"] - 0.3) < 0.1
    True
    """
    began = time.perf_counter()
    chosen = Options(**options)
    plan = _plan(objective, space, optimizer, schedule, direction, chosen)
    kept = Study(
        open_storage(storage),
        study or plan.name,
        plan.space,
        method=chosen.method,
        direction=plan.direction,
        seed=chosen.seed,
        about=plan.about,
    )
    budget = len(kept.grid) if kept.grid is not None else chosen.trials or TRIALS
    pruner = None
    if chosen.prune:
        pruner = optuna.pruners.PercentilePruner(KEPT, WORTH_PRUNING, plan.warm_up)
    workers = _workers(plan, plan.objective, chosen)
    run_trials(kept, workers, budget, pruner=pruner, progress=progress)
    searched = time.perf_counter() - began
    ranked = results.ranked(kept)
    configs = [trial["config"] for trial in ranked[: chosen.finalists]]
    finals = _finals(plan, kept, configs, chosen, progress)
    found = results.summary(plan, kept, ranked, finals, chosen, budget)
    timing = {"search_seconds": searched, "seconds": time.perf_counter() - began}
    return found | describe((*results.PACKAGES,)) | timing


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


def _plan(
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
        return _plan_function(objective, space, direction)
    if direction != "minimize":
        raise ValueError("direction is for functions: the score of a task is maximized")
    return _plan_task(objective, space, optimizer, schedule, chosen)


def _is_function(objective: Any) -> bool:
    if isinstance(objective, str):
        file, colon, name = objective.rpartition(":")
        return bool(colon and file and name.isidentifier()) and not takes_nothing(objective)
    return callable(objective) and not hasattr(objective, "learner")


def _plan_function(objective: Any, space: Any, direction: str) -> Plan:
    if direction not in ("minimize", "maximize"):
        raise ValueError(f"direction must be minimize or maximize; got {direction!r}")
    if space is None:
        raise ValueError("name what is searched: {'x': '0:1'}, or on the command line x=0:1")
    function = Function(objective).check()
    about = {"objective": function.label}
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


def _workers(plan: Plan, evaluate: Any, chosen: Options) -> Workers:
    """Who evaluates: a Ray cluster, one batch, several processes, or this one."""
    if chosen.ray is not None:
        from rmsprop.search.cluster import Cluster

        return Cluster(evaluate, chosen.ray, seconds=chosen.time_limit)
    if chosen.stack and chosen.method != "tpe" and chosen.time_limit is None:
        from rmsprop.search.stack import Stack, fits

        if fits(evaluate):
            return Stack(evaluate)
    if chosen.jobs > 1 or chosen.apart:
        return Processes(evaluate, chosen.jobs, chosen.time_limit)
    return Here(evaluate, chosen.time_limit)


def _finals(
    plan: Plan, kept: Study, configs: Sequence[Config], chosen: Options, progress: Progress | None
) -> dict[str, Any] | None:
    """Several runs of each finalist, and of the optimizer as it is, with seeds that chose nothing."""
    if not configs:
        return None
    seeds = chosen.seeds or _default_seeds(plan)
    configs = list(configs)
    if plan.entry is not None:
        own = plan.entry.rule.to_dict()
        configs.append({d.name: own[d.name] for d in plan.space})
    evaluate: Evaluate
    if isinstance(plan.objective, TaskObjective):
        evaluate = FinalObjective(plan.objective, tuple(configs))
    else:
        evaluate = FinalFunction(plan.objective, tuple(configs))
    space = (
        Choice("config", tuple(range(len(configs)))),
        Choice("of_seed", tuple(range(seeds))),
    )
    about = plan.about | {"configs": configs}
    study = Study(
        kept.storage_behind,
        f"{kept.name} finals {key_of(about, seeds)[:8]}",
        space,
        method="grid",
        direction=plan.direction,
        about=about,
    )
    run_trials(
        study,
        _workers(plan, evaluate, chosen),
        len(grid_of(space)),
        progress=progress,
        what="final runs",
    )
    return results.final_runs(study, configs, seeds)


def _default_seeds(plan: Plan) -> int:
    rows = 0
    if isinstance(plan.objective, TaskObjective):
        rows = len(plan.objective.made.dataset.train)
    return SEEDS_OF_LARGE if rows >= LARGE else SEEDS
