"""A study: what is searched, and its trials, each of which one process has at a time and none loses."""

import contextlib
import itertools
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna.exceptions import (
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from rmsprop.rule import near
from rmsprop.search.owners import at_it, is_gone, new_owner
from rmsprop.search.storage import HEARTBEAT, RETRIES, alone
from rmsprop.search.values import suggested
from rmsprop.space import Space, from_dict, grid_of, to_dict

METHODS = ("tpe", "random", "grid")
STARTUP = 10
"""Trials that TPE draws at random before it has something to learn from."""
OWNER, FAILURE, MORE, PLAN = "owner", "failure", "more", "rmsprop"
PLACE = "place"
"""Of a trial: the how-manieth of the budget it is. A trial that is tried again keeps its place, and with it
its draws; each place counts once, whatever a restart of the database in the middle of things has doubled."""
LOSSES, FIRST = "losses", "first"
_HISTORY = "retry_history"  # Optuna's name for the numbers that a trial had before


class Study:
    """The trials of one search, shared by every process that opens it.

    Parameters
    ----------
    storage
        From `storage.open_storage`.
    name
        Of the study in its storage.
    space
        What is searched.
    method
        "tpe" (multivariate), "random", or "grid": every combination once.
    direction
        "minimize" or "maximize".
    seed
        Of the draws: trial k draws from a stream of its own, whoever runs it.
    about
        What else must be the same for whoever goes on with it, ready for JSON.

    Raises
    ------
    ValueError
        For a study of this name that searches something else, and an unknown method.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        space: Space,
        *,
        method: str = "tpe",
        direction: str = "minimize",
        seed: int = 0,
        about: dict[str, Any] | None = None,
    ):
        if method not in METHODS:
            raise ValueError(f"no method is named {method!r}{near(method, METHODS)}")
        self.name, self.space, self.method, self.seed = name, space, method, seed
        self.grid = grid_of(space) if method == "grid" else None
        plan = {
            "space": [to_dict(d) for d in space],
            "direction": direction,
            "method": method,
            "seed": seed,
            "about": about or {},
        }
        with alone(storage, name):
            self.optuna = optuna.create_study(
                storage=storage,
                study_name=name,
                direction=StudyDirection[direction.upper()],
                load_if_exists=True,
                pruner=optuna.pruners.NopPruner(),
            )
            known = self.optuna.user_attrs.get(PLAN)
            new = known is None and not self.optuna.get_trials(deepcopy=False)
            if new and self.optuna.direction.name.lower() == direction:
                self.optuna.set_user_attr(PLAN, plan)
            elif known != plan:
                raise ValueError(_differs(name, known, plan))
        self.storage = self.optuna._storage  # with Optuna's cache in front
        self._id = storage.get_study_id_from_name(name)
        self._first = self.optuna.user_attrs.get(FIRST, 0)
        self._running: set[int] = set()
        self._seen: set[int] = set()
        self._owner = new_owner()

    @classmethod
    def open(cls, storage: BaseStorage, name: str | None = None) -> "Study":
        """The study of that name, as it was made; without a name the only one that is no final runs.

        Raises ValueError where there is none, or several.
        """
        plans = {
            s.study_name: s.user_attrs[PLAN]
            for s in storage.get_all_studies()
            if PLAN in s.user_attrs
        }
        if name is None:
            main = [n for n, plan in plans.items() if "configs" not in plan["about"]]
            if len(main) > 1:
                raise ValueError(f"name one of the studies (--study): {', '.join(main)}")
            name = main[0] if main else ""
        if name not in plans:
            known = near(name, list(plans)) if plans else ": there are no studies of rmsprop here"
            raise ValueError(f"no study is named {name!r}{known}" if name else f"no study{known}")
        plan = plans[name]
        options = {key: plan[key] for key in ("direction", "method", "seed", "about")}
        return cls(storage, name, tuple(from_dict(d) for d in plan["space"]), **options)

    def trials(self) -> list[FrozenTrial]:
        """Those that count: one for each place, without the lost ones that were tried again."""
        places: dict[Any, FrozenTrial] = {}
        for trial in sorted(self._candidates(), key=_standing):
            places.setdefault(trial.user_attrs.get(PLACE, f"number {trial.number}"), trial)
        return sorted(places.values(), key=lambda trial: trial.number)

    def _candidates(self) -> list[FrozenTrial]:
        found = self.optuna.get_trials(deepcopy=False)
        again = {k for trial in found for k in trial.system_attrs.get(_HISTORY, ())}
        return [t for t in found if t.number >= self._first and t.number not in again]

    def _has_rival(self, trial: FrozenTrial) -> bool:
        """Whether its place is another's, as where the database did a thing and its reply was lost."""
        place = trial.user_attrs.get(PLACE)
        return place is not None and any(
            other.user_attrs.get(PLACE) == place and _standing(other) < _standing(trial)
            for other in self._candidates()
            if other.state is not TrialState.FAIL and other.number != trial.number
        )

    def begin(self) -> None:
        """Forget what was dealt where all of it failed: the objective will have been mended since."""
        with alone(self.storage_behind, self.name):
            self._first = self.optuna.user_attrs.get(FIRST, 0)
            found = self.trials()
            if found and all(trial.state is TrialState.FAIL for trial in found):
                self._first = len(self.optuna.get_trials(deepcopy=False))
                self.optuna.set_user_attr(FIRST, self._first)

    def claim(self, budget: int) -> Trial | None:
        """The next trial, now ours; None where the budget of trials has been dealt out."""
        with alone(self.storage_behind, self.name):
            self._first = self.optuna.user_attrs.get(FIRST, 0)
            trial_id = self._waiting()
            while trial_id is None:
                found = self.trials()
                if len(found) >= budget:
                    return None
                taken = {trial.user_attrs.get(PLACE) for trial in found}
                trial_id = self._dealt(next(k for k in itertools.count() if k not in taken))
            self._running.add(trial_id)
        self._beat(trial_id)
        frozen = self.storage.get_trial(trial_id)
        # As Optuna's own loop does: else TPE would know the trials of its first draw only, for ever.
        self.optuna._thread_local.cached_all_trials = None
        self.optuna.sampler = self._sampler(frozen.user_attrs.get(PLACE, frozen.number))
        return Trial(self.optuna, trial_id)

    def _waiting(self) -> int | None:
        """A trial that was put back or lost, now ours."""
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            with contextlib.suppress(UpdateFinishedTrialError):
                if self._has_rival(trial):
                    self._withdraw(trial._trial_id)
                elif self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    self.storage.set_trial_user_attr(trial._trial_id, OWNER, self._owner)
                    return trial._trial_id
        return None

    def _dealt(self, place: int) -> int | None:
        """A new trial of a place, ours; None where another was quicker.

        Which the lock forbids, but a server that is restarted forgets its locks. And where it was our own,
        of which the server could not tell us any more, that is the trial.
        """
        template = optuna.create_trial(
            state=TrialState.RUNNING,
            user_attrs={OWNER: self._owner, PLACE: place},
            system_attrs={} if self.grid is None else {"fixed_params": self.grid[place]},
        )
        trial_id = self.storage.create_new_trial(self._id, template)
        there = [t for t in self._candidates() if t.user_attrs.get(PLACE) == place]
        first = min((t for t in there if t.state is not TrialState.FAIL), key=_standing)
        if first._trial_id == trial_id:
            return trial_id
        self._withdraw(trial_id)
        return first._trial_id if first.user_attrs.get(OWNER) == self._owner else None

    def _withdraw(self, trial_id: int) -> None:
        self.storage.set_trial_user_attr(trial_id, FAILURE, "another has its place")
        self.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    @property
    def storage_behind(self) -> BaseStorage:
        """The storage without Optuna's cache."""
        return getattr(self.storage, "_backend", self.storage)

    def config(self, trial: Trial) -> dict[str, Any]:
        """The values of a trial by name: from the grid, drawn, or as it had them before it was lost."""
        return {d.name: suggested(trial, d, self.grid is not None) for d in self.space}

    def _sampler(self, place: int) -> BaseSampler:
        """A sampler with the stream of this place: a search that is gone on with repeats no draw."""
        seed = (self.seed * 1_000_003 + place) % 2**32
        if self.method != "tpe":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # multivariate, since Optuna 2.2
            return TPESampler(multivariate=True, n_startup_trials=STARTUP, seed=seed)

    # How a trial ends.

    def complete(self, trial: Trial, value: float, more: dict[str, Any]) -> None:
        """Keep its value, and what else there is to know; on disk when this returns."""
        self._end(trial, TrialState.COMPLETE, MORE, more, [value])

    def prune(self, trial: Trial, more: dict[str, Any]) -> None:
        """It was stopped early, or diverged."""
        last = self.storage.get_trial(trial._trial_id).intermediate_values
        value = last[max(last)] if last else math.nan
        values = [value] if math.isfinite(value) and not more.get("diverged") else None
        self._end(trial, TrialState.PRUNED, MORE, more, values)

    def fail(self, trial: Trial, why: str) -> None:
        """The objective failed; the search goes on without it."""
        self._end(trial, TrialState.FAIL, FAILURE, why)

    def lose(self, trial_id: int, why: str) -> None:
        """Its process or machine is gone: it is tried again, with the same values, by whoever comes first."""
        self._again(trial_id, why, 1)

    def put_back(self, trial: Trial) -> None:
        """We stop before it has ended: the next who comes begins it anew."""
        self._again(trial._trial_id, "it was put back", 0)

    def _again(self, trial_id: int, why: str, losses: int) -> None:
        """End a trial, and have one without its reports in its place."""
        with alone(self.storage_behind, self.name):
            trial = self.storage.get_trial(trial_id)
            losses += trial.user_attrs.get(LOSSES, 0)
            if not trial.state.is_finished():
                # The new one first: we may be killed between the two.
                if losses <= RETRIES and not self._is_followed(trial):
                    self.optuna.add_trial(_follower(trial, losses))
                with contextlib.suppress(UpdateFinishedTrialError):
                    self.storage.set_trial_user_attr(trial_id, FAILURE, why)
                    self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        self._running.discard(trial_id)

    def _is_followed(self, trial: FrozenTrial) -> bool:
        found = self.optuna.get_trials(deepcopy=False)
        return self._has_rival(trial) or any(
            trial.number in other.system_attrs.get(_HISTORY, ()) for other in found
        )

    def _end(
        self,
        trial: Trial,
        state: TrialState,
        key: str,
        more: Any,
        values: Sequence[float] | None = None,
    ) -> None:
        # Another process may have taken us for dead: then the trial is theirs, and ours is dropped. And where
        # the reply of the database was lost, the trial has ended already.
        with contextlib.suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(trial._trial_id, key, more)
            self.storage.set_trial_state_values(trial._trial_id, state, values)
        self._running.discard(trial._trial_id)

    # Signs of life.

    @contextlib.contextmanager
    def heartbeats(self) -> Iterator[None]:
        """While the block runs, others see that our trials are alive; those it leaves running are lost."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(HEARTBEAT):
                for trial_id in list(self._running):
                    self._beat(trial_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            with at_it(self._owner):
                yield
        finally:
            stop.set()
            thread.join()

    def _beat(self, trial_id: int) -> None:
        storage = self.storage_behind
        if isinstance(storage, RDBStorage):
            # Without patience: the next one comes soon, and who ends waits for this one.
            with contextlib.suppress(SQLAlchemyError, StorageInternalError):
                RDBStorage.record_heartbeat(storage, trial_id)

    def rescue(self) -> bool:
        """Put the trials of processes that are gone back; whether trials of others are still under way."""
        storage = self.storage_behind
        silent = storage._get_stale_trial_ids(self._id) if isinstance(storage, RDBStorage) else []
        under_way = False
        for trial in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial_id = trial._trial_id
            if trial_id in self._running:
                continue
            owner = trial.user_attrs.get(OWNER, "")
            if owner == self._owner or is_gone(owner):
                self.lose(trial_id, "its process is gone")
            elif trial_id in silent:
                self.lose(trial_id, "its machine gives no sign of life")
            else:
                under_way = True
                if trial_id not in self._seen:  # of one that never gave a sign the time begins now
                    self._seen.add(trial_id)
                    self._beat(trial_id)
        return under_way


def _standing(trial: FrozenTrial) -> tuple[int, float, int]:
    """Which of several in one place counts, lowest first: the first that ended well, else one under way."""
    ended = trial.datetime_complete.timestamp() if trial.datetime_complete else math.inf
    kind = 2 if trial.state is TrialState.FAIL else int(not trial.state.is_finished())
    return kind, ended if kind == 0 else 0.0, trial.number


def _follower(trial: FrozenTrial, losses: int) -> FrozenTrial:
    """The same trial, to be begun anew."""
    system = trial.system_attrs
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={k: v for k, v in trial.user_attrs.items() if k == PLACE} | {LOSSES: losses},
        system_attrs={"failed_trial": trial.number}
        | system
        | {_HISTORY: [*system.get(_HISTORY, ()), trial.number]},
    )


def _differs(name: str, known: Any, plan: dict[str, Any]) -> str:
    remedy = "take another name (--study) or folder (--out), or ask for what it searches"
    if known is None:
        return f"the study {name!r} was not made by rmsprop tune: {remedy}"
    for key in ("space", "direction", "method", "seed"):
        if known[key] != plan[key]:
            what = _words(known["space"]) if key == "space" else known[key]
            asked = _words(plan["space"]) if key == "space" else plan[key]
            return f"the study {name!r} has the {key} {what}, not {asked}: {remedy}"
    theirs, ours = known["about"], plan["about"]
    keys = sorted(k for k in theirs | ours if theirs.get(k) != ours.get(k))
    text = "; ".join(f"{k} {theirs.get(k)!r}, not {ours.get(k)!r}" for k in keys)
    return f"the study {name!r} was begun with {text}: {remedy}"


def _words(space: list[dict[str, Any]]) -> str:
    return " ".join(str(from_dict(d)) for d in space)
