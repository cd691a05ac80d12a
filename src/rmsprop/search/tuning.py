"""`rmsprop.tune`: a search, its finalists over several seeds, and what they come to on unseen data."""

import contextlib
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.engine import make_url

from rmsprop.entries import Entry
from rmsprop.environment import describe
from rmsprop.ledger import key_of
from rmsprop.search import results
from rmsprop.search.loop import AllFailed, Progress, run_trials
from rmsprop.search.objective import FinalFunction, FinalObjective, TaskObjective
from rmsprop.search.plan import Options, Plan, plan_of
from rmsprop.search.storage import open_storage
from rmsprop.search.study import Study
from rmsprop.search.workers import Config, Evaluate, Here, Processes, Workers
from rmsprop.space import Choice

TRIALS = 60
SEEDS, SEEDS_OF_LARGE, LARGE = 10, 5, 20_000
WORTH_PRUNING = 5  # trials that end before others are compared with them
KEPT = 75.0  # per cent that go on at a report; with the median three quarters of all trials were pruned


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
        of these, default 1000, as final runs have the seeds from 0. splits: whether each seed also splits the
        data anew. prune: whether to stop hopeless trials, default true.
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
    plan = plan_of(objective, space, optimizer, schedule, direction, chosen)
    seeds = _final_seeds(plan, chosen)
    kept = Study(
        open_storage(storage),
        study or plan.name,
        plan.space,
        method=chosen.method,
        direction=plan.direction,
        seed=chosen.seed,
        about=plan.about,
    )
    budget = chosen.trials or TRIALS
    if kept.grid is not None:
        budget = len(kept.grid)
        if chosen.trials not in (None, budget):
            raise ValueError(
                f"a grid is searched as a whole, and this one has {budget} trials; got "
                f"trials={chosen.trials}: leave it out, or take method='random'"
            )
    pruner = None
    if chosen.prune:
        pruner = optuna.pruners.PercentilePruner(KEPT, WORTH_PRUNING, plan.warm_up)
    workers = _workers(plan, plan.objective, chosen)
    run_trials(kept, workers, budget, pruner=pruner, progress=progress)
    searched = time.perf_counter() - began
    ranked = results.ranked(kept)
    finals = _finals(plan, kept, _best(ranked, chosen.finalists), seeds, chosen, progress)
    found = results.summary(plan, kept, ranked, finals, chosen, budget)
    _check_kept(kept)
    timing = {"search_seconds": searched, "seconds": time.perf_counter() - began}
    return found | describe((*results.PACKAGES,)) | timing


def _best(ranked: list[dict[str, Any]], count: int) -> list[Config]:
    """The values of the best trials, each once."""
    found: list[Config] = []
    for trial in ranked:
        if len(found) < count and trial["config"] not in found:
            found.append(trial["config"])
    return found


def _check_kept(study: Study) -> None:
    """Say where the file of the trials has been deleted under us."""
    url = getattr(study.storage_behind, "url", None)
    if url is not None and make_url(url).get_backend_name() == "sqlite":
        file = make_url(url).database or ""
        if not Path(file).exists():
            warnings.warn(f"{file} was deleted meanwhile: its trials are lost", stacklevel=3)


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
    plan: Plan,
    kept: Study,
    configs: Sequence[Config],
    seeds: int,
    chosen: Options,
    progress: Progress | None,
) -> dict[str, Any] | None:
    """Several runs of each finalist, and of the optimizer as it is, with seeds that chose nothing."""
    if not configs:
        return None
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
    workers, budget = _workers(plan, evaluate, chosen), len(configs) * seeds
    with contextlib.suppress(AllFailed):  # the trials are worth a report all the same
        run_trials(study, workers, budget, progress=progress, what="final runs")
    return results.final_runs(study, configs, seeds)


def _final_seeds(plan: Plan, chosen: Options) -> int:
    """How many final runs each finalist gets; their seeds count from 0."""
    rows = 0
    if isinstance(plan.objective, TaskObjective):
        rows = len(plan.objective.made.dataset.train)
    seeds = chosen.seeds or (SEEDS_OF_LARGE if rows >= LARGE else SEEDS)
    if chosen.finalists and seeds > chosen.first_seed:
        raise ValueError(
            f"{seeds} final runs have the seeds below {seeds}, which must not be those of the search: take a "
            f"first_seed of {seeds} or more; got {chosen.first_seed}"
        )
    return seeds
