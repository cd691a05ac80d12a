"""Trials of a small network trained together, as one batched computation."""

import time
from typing import Any

from rmsprop.run import Run
from rmsprop.search.objective import FinalObjective, TaskObjective
from rmsprop.search.workers import Config, Diverged, Event
from rmsprop.stacked import can_stack, train_many

MOST = 256
"""Trials of a batch, which end together: so many are lost when the search is killed."""


def fits(evaluate: Any) -> bool:
    """Whether the trials of an objective can be trained together."""
    if isinstance(evaluate, FinalObjective):
        return fits(evaluate.task)
    return isinstance(evaluate, TaskObjective) and can_stack(evaluate.made)


class Stack:
    """Trains all that it is given at once, over all cores; nothing is reported or pruned.

    Parameters
    ----------
    evaluate
        An objective that `fits`.
    """

    size = MOST

    def __init__(self, evaluate: TaskObjective | FinalObjective):
        self._evaluate = evaluate
        self._waiting: list[tuple[int, Config]] = []

    def submit(self, number: int, config: Config) -> None:
        self._waiting.append((number, config))

    def wait(self, seconds: float) -> list[Event]:
        if not self._waiting:
            time.sleep(seconds)
            return []
        batch, self._waiting = self._waiting, []
        if isinstance(self._evaluate, FinalObjective):
            return _final(self._evaluate, batch)
        return _trials(self._evaluate, batch)

    def answer(self, number: int, prune: bool) -> None:
        raise AssertionError("nothing is reported")

    def close(self) -> None:
        self._waiting.clear()


def _trials(objective: TaskObjective, batch: list[tuple[int, Config]]) -> list[Event]:
    rules = [objective.rule_of(config) for _, config in batch]
    by_seed = [
        train_many(objective.of_split(k), rules, seed=seed, schedule=objective.schedule)
        for k, seed in enumerate(objective.seeds)
    ]
    runs: list[list[Run]] = [list(each) for each in zip(*by_seed, strict=True)]
    return [
        _ended(number, objective, of_trial)
        for (number, _), of_trial in zip(batch, runs, strict=True)
    ]


def _final(objective: FinalObjective, batch: list[tuple[int, Config]]) -> list[Event]:
    found = []
    for seed in sorted({int(config["of_seed"]) for _, config in batch}):
        group = [(n, config) for n, config in batch if int(config["of_seed"]) == seed]
        rules = [objective.rule_of(config) for _, config in group]
        task, schedule = objective.made(seed), objective.task.schedule
        runs = train_many(task, rules, seed=seed, schedule=schedule)
        found += [_ended(n, objective, run) for (n, _), run in zip(group, runs, strict=True)]
    return found


def _ended(number: int, objective: Any, runs: Any) -> Event:
    try:
        found = objective.result(runs)
    except Diverged as error:
        return Event(number, "pruned", more=error.more | {"diverged": True})
    return Event(number, "done", found.value, found.more)
