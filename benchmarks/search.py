"""What a search adds to each trial: its own time over Optuna's, with trials kept in memory and in SQLite.

The objective is nothing but a number, so that all is overhead: drawing the values (multivariate TPE, or at
random), keeping them, and the claim by which each trial is one process's.  Beside it runs Optuna's own
`study.optimize` with the same sampler and storage.  No target is set: a trial that trains a network takes a
hundred times as long.

    python benchmarks/search.py [--quick] [--json [FILE]]
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from rmsprop.search.loop import run_trials
from rmsprop.search.objective import Function
from rmsprop.search.storage import open_storage
from rmsprop.search.study import Study
from rmsprop.search.workers import Here
from rmsprop.space import space_of
from tables import Report, main
from timing import Times

OURS, OPTUNA = "ours", "Optuna's optimize"
SPACE = space_of("lr=1e-5:1 decay=0.5:0.999 eps=1e-10:1e-2 centered=true,false")


def nothing(config: dict[str, Any], report: Callable[[int, float], None]) -> float:
    return abs(config["lr"] - 0.01)


def ours(method: str, trials: int, where: Path | None) -> None:
    study = Study(open_storage(where), "overhead", SPACE, method=method)
    run_trials(study, Here(Function(nothing)), trials)


def theirs(method: str, trials: int, where: Path | None) -> None:
    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("1-decay", 1e-3, 0.5, log=True)
        trial.suggest_float("eps", 1e-10, 1e-2, log=True)
        trial.suggest_categorical("centered", [True, False])
        return abs(trial.suggest_float("lr", 1e-5, 1, log=True) - 0.01)

    url = None if where is None else f"sqlite:///{where}"
    sampler: BaseSampler = RandomSampler(seed=0)
    if method == "tpe":
        sampler = TPESampler(multivariate=True, seed=0)
    optuna.create_study(storage=url, sampler=sampler).optimize(objective, trials)


def measure(report: Report) -> None:
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    trials = 12 if report.quick else 60
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(10**6))

        def run(search: Callable[..., None], method: str, kept: bool) -> Callable[[], None]:
            def call() -> None:
                search(method, trials, Path(folder) / f"{next(numbers)}.db" if kept else None)

            return call

        for method in ("random", "tpe"):
            for kept, place in ((False, "in memory"), (True, "in SQLite")):
                runs = {OURS: run(ours, method, kept), OPTUNA: run(theirs, method, kept)}
                times = report.race(runs, 5)
                each = Times({k: t / trials for k, t in times.seconds.items()}, times.others)
                report.table(f"a trial of {trials}, {method}, {place}", each, OURS)


if __name__ == "__main__":
    main("search", __doc__, measure)
