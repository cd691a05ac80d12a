"""The search: trials are claimed, handed to those who evaluate, and kept as they end."""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import Trial, TrialState

from rmsprop.search.study import FAILURE, Study
from rmsprop.search.workers import Event, Workers

HOPELESS = 5
"""So many failures and no success end a search: something is wrong with the objective."""
LOOK = 1.0  # seconds between looks at what other processes do
RESCUE = 10.0  # seconds between looks for lost trials while we have some ourselves

Progress = Callable[[int, int, str], None]


class AllFailed(ValueError):
    """No trial succeeded; the message says how the last one failed."""


def run_trials(
    study: Study,
    workers: Workers,
    budget: int,
    *,
    pruner: BasePruner | None = None,
    progress: Progress | None = None,
    what: str = "trials",
) -> None:
    """Evaluate until the study has `budget` trials, its own and those of other processes.

    Parameters
    ----------
    study
        Whose trials; others may be at it too.
    workers
        Who evaluate; closed at the end, whatever happens.
    budget
        How many trials the study is to have in all.
    pruner
        Decides at each report whether a trial goes on; None never stops one.
    progress, what
        As in `ledger.run_all`.

    Raises
    ------
    AllFailed
        When five trials failed and none succeeded, or all where they are fewer.
    KeyboardInterrupt
        On Ctrl-C; the trials under way are put back.
    """
    study.begin()
    study.optuna.pruner = pruner or NopPruner()
    search = _Search(study, workers, budget, progress, what)
    if hasattr(workers, "on_report"):
        workers.on_report = search.prunes  # type: ignore[attr-defined]
    with contextlib.closing(workers), study.heartbeats():
        try:
            search.run()
        except BaseException:
            for trial in search.running.values():
                study.put_back(trial)
            raise


class _Search:
    def __init__(
        self, study: Study, workers: Workers, budget: int, progress: Progress | None, what: str
    ):
        self.study, self.workers, self.budget = study, workers, budget
        self._progress, self._what = progress, what
        self.running: dict[int, Trial] = {}
        self._steps: dict[int, set[int]] = {}
        self._failed = 0

    def run(self) -> None:
        self._tell()
        looked = time.monotonic()
        self.study.rescue()
        while True:
            self._hand_out()
            if not self.running:
                if not self.study.rescue() and not self._hand_out():
                    return self._check()
                if not self.running:
                    time.sleep(LOOK)  # others are at the last ones, which may come back to us
                    self._tell()
                continue
            for event in self.workers.wait(LOOK):
                self._handle(event)
            if time.monotonic() - looked > RESCUE:
                looked = time.monotonic()
                self.study.rescue()

    def _hand_out(self) -> bool:
        """Give each worker that is free a trial; whether there was one."""
        found = False
        while len(self.running) < self.workers.size:
            trial = self.study.claim(self.budget)
            if trial is None:
                break
            found = True
            self.running[trial.number] = trial
            self._steps[trial.number] = set()
            self.workers.submit(trial.number, self.study.config(trial))
        return found

    def _handle(self, event: Event) -> None:
        if event.number not in self.running:
            return
        if event.kind == "report":
            self.workers.answer(event.number, self.prunes(event))
            return
        trial = self.running[event.number]
        if event.kind == "done":
            self.study.complete(trial, event.value, event.more)
        elif event.kind == "pruned":
            self.study.prune(trial, event.more)
        elif event.kind == "lost":
            self.study.lose(trial._trial_id, event.why)
        else:
            self.study.fail(trial, event.why)
        del self.running[event.number], self._steps[event.number]
        self._tell()
        self._give_up(event)

    def prunes(self, event: Event) -> bool:
        """Keep what was reported; whether the trial is to end."""
        trial, step = self.running[event.number], event.more["step"]
        if step in self._steps[event.number]:
            return False  # the first counts
        self._steps[event.number].add(step)
        if math.isnan(event.value):
            return False  # which Optuna's pruners cannot compare
        try:
            trial.report(event.value, step)
        except UpdateFinishedTrialError:  # another took us for dead, and has it now
            return True
        return trial.should_prune()

    def _give_up(self, event: Event) -> None:
        if event.kind == "lost":  # it is tried again
            return
        if event.kind != "failed":
            self._failed = -1
        elif self._failed >= 0:
            self._failed += 1
        if self._failed >= HOPELESS and all(
            t.state in (TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING)
            for t in self.study.trials()
        ):
            raise AllFailed(
                f"the first {self._failed} {self._what} all failed; the last: {event.why}"
            )

    def _check(self) -> None:
        found = failures(self.study)
        if found and len(found) == len(self.study.trials()):
            raise AllFailed(f"all {len(found)} {self._what} failed; the last: {found[-1]['why']}")

    def _tell(self) -> None:
        if self._progress is not None:
            done = sum(t.state.is_finished() for t in self.study.trials())
            self._progress(min(done, self.budget), self.budget, self._what)


def failures(study: Study) -> list[dict[str, Any]]:
    """The trials that failed, and why."""
    return [
        {"number": t.number, "why": t.user_attrs.get(FAILURE, "unknown")}
        for t in study.trials()
        if t.state is TrialState.FAIL
    ]
