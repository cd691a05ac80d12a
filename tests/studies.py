"""Small studies in memory and in files, and what must hold of them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import needs

needs.package("optuna")

from optuna.storages import BaseStorage, RDBStorage  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from rmsprop.search.loop import run_trials  # noqa: E402
from rmsprop.search.storage import open_storage  # noqa: E402
from rmsprop.search.study import Study  # noqa: E402
from rmsprop.search.values import config_of  # noqa: E402
from rmsprop.search.workers import Here  # noqa: E402
from rmsprop.space import space_of  # noqa: E402

GRID = "a=0:3:linear:4 b=x,y"
Objective = Callable[[dict[str, Any], Any], Any]


@contextlib.contextmanager
def opener(file: Path) -> Iterator[Callable[[], BaseStorage]]:
    """Opens one SQLite file, as another process would each time."""
    with contextlib.ExitStack() as stack:

        def open_it() -> BaseStorage:
            found = open_storage(file)
            assert isinstance(found, RDBStorage)
            stack.callback(found.engine.dispose)
            return found

        yield open_it


def at(kept: BaseStorage | None, space: str = GRID, **options: Any) -> Study:
    options = {"method": "grid"} | options
    return Study(kept or open_storage(None), "s", space_of(space), **options)


def run(found: Study, objective: Objective, budget: int = 8, **options: Any) -> None:
    run_trials(found, Here(objective), budget, **options)


def score(config: dict[str, Any], report: Any) -> float:
    return sum(x if isinstance(x, float) else len(x) for x in config.values())


def configs(found: Study) -> list[dict[str, Any]]:
    return [config_of(found.space, t) for t in found.trials()]


def assert_grid_once(found: Study) -> None:
    assert found.grid is not None
    complete = [t for t in found.trials() if t.state is TrialState.COMPLETE]
    assert len(complete) == len(found.grid)
    assert sorted(map(str, configs(found))) == sorted(map(str, found.grid))
