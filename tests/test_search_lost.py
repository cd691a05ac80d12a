"""Trials whose process, machine or reply was lost: each is tried again, and counts once."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import needs

needs.package("optuna")

from optuna.exceptions import StorageInternalError  # noqa: E402
from optuna.storages import BaseStorage, RDBStorage  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from rmsprop.search import owners, storage, study  # noqa: E402
from rmsprop.search.loop import failures  # noqa: E402
from rmsprop.search.storage import open_storage  # noqa: E402
from rmsprop.search.study import OWNER, Study  # noqa: E402
from rmsprop.search.values import config_of  # noqa: E402
from studies import assert_grid_once, at, configs, opener, run, score  # noqa: E402


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], BaseStorage]]:
    with opener(tmp_path / "s.db") as found:
        yield found


@pytest.fixture
def kept(opened: Callable[[], BaseStorage]) -> BaseStorage:
    return opened()


class Power(BaseException):
    """The moment at which a process is no more."""


def test_a_lost_trial_is_tried_again_with_its_values_and_at_most_three_times(
    kept: BaseStorage,
) -> None:
    found = at(kept, "x=0:1", method="random")
    values = []
    for _ in range(4):
        trial = found.claim(1)
        assert trial is not None
        values.append(found.config(trial))
        trial.report(5.0, 3)
        found.lose(trial._trial_id, "killed")
        found.lose(trial._trial_id, "killed")  # said twice
    assert found.claim(1) is None
    assert len({str(v) for v in values}) == 1
    (only,) = found.trials()
    assert (only.state, only.number) == (TrialState.FAIL, 3)
    assert failures(found) == [{"number": 3, "why": "killed"}]


def test_a_trial_that_was_put_back_begins_without_its_reports(kept: BaseStorage) -> None:
    found = at(kept, "x=0:1", method="random")
    before: dict[str, Any] = {}
    for _ in range(6):  # more often than a trial may be lost
        trial = found.claim(1)
        assert trial is not None
        before = found.config(trial)
        assert kept.get_trial(trial._trial_id).intermediate_values == {}
        trial.report(5.0, 3)
        found.put_back(trial)
    run(found, lambda config, report: report(3, 1.0) or float(config == before), 1)
    (only,) = found.trials()
    assert only.values == [1.0]
    assert only.intermediate_values == {3: 1.0}


@pytest.mark.parametrize("moment", ["create_new_trial", "set_trial_state_values"])
def test_a_kill_between_the_steps_of_a_rescue_loses_nothing(
    opened: Callable[[], BaseStorage], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first = at(opened())
    trial = first.claim(8)
    assert trial is not None
    config = first.config(trial)
    rescuer = at(opened())

    def cut(*args: Any, **options: Any) -> Any:
        raise Power

    with monkeypatch.context() as patch:
        patch.setattr(rescuer.storage, moment, cut)
        with pytest.raises(Power):
            rescuer.lose(trial._trial_id, "killed")
    last = at(opened())
    run(last, score)
    assert_grid_once(last)
    assert configs(last).count(config) == 1
    assert len(last.optuna.get_trials()) == 9


@pytest.mark.parametrize("step", ["MORE", "value"])
def test_a_kill_between_the_steps_of_an_ending_keeps_the_trial_once(
    opened: Callable[[], BaseStorage], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = at(opened())
    real = first.storage.set_trial_state_values

    def cut(*args: Any, **options: Any) -> Any:
        if step == "value":
            real(*args, **options)
        raise Power

    trial = first.claim(8)
    assert trial is not None
    config = first.config(trial)
    with monkeypatch.context() as patch:
        patch.setattr(first.storage, "set_trial_state_values", cut)
        with pytest.raises(Power):
            first.complete(trial, 1.0, {"note": "first"})
    given = []
    last = at(opened())
    run(last, lambda c, report: given.append(c) or 0.0)
    assert_grid_once(last)
    assert (config in given) == (step == "MORE")
    values = [t.values for t in last.trials() if config_of(last.space, t) == config]
    assert values == [[0.0]] if step == "MORE" else [[1.0]]


def test_a_reply_that_was_lost_makes_no_second_trial_of_a_place(
    kept: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has done what was asked, and the connection breaks before it says so."""
    real, calls = RDBStorage._create_new_trial, itertools.count()

    def torn(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        if next(calls) in (2, 5):
            from sqlalchemy.exc import OperationalError

            reason = OperationalError("COMMIT", None, Exception("server closed the connection"))
            raise StorageInternalError from reason
        return found

    monkeypatch.setattr(type(kept), "_create_new_trial", storage.patient(torn))
    found = at(kept)
    given: list[Any] = []
    run(found, lambda config, report: given.append(config) or score(config, report))
    assert next(calls) == 10
    assert_grid_once(found)
    assert given == found.grid  # nor is one evaluated twice
    assert len(at(kept).trials()) == 8


def test_searches_whose_lock_was_forgotten_give_each_place_to_one(
    opened: Callable[[], BaseStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a server that is restarted while one of them has it."""
    shared = [at(opened(), "a=0:9:10 b=x,y,z") for _ in range(3)]
    given: list[str] = []
    errors: list[BaseException] = []

    def work(one: Study) -> None:
        try:
            run(one, lambda config, report: given.append(str(config)) or score(config, report), 30)
        except BaseException as error:
            errors.append(error)

    monkeypatch.setattr(study, "alone", lambda storage, name: contextlib.nullcontext())
    threads = [threading.Thread(target=work, args=(one,)) for one in shared]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_grid_once(shared[0])
    assert sorted(given) == sorted(map(str, shared[0].grid or []))


def test_what_may_pass_is_tried_again_and_what_may_not_is_raised() -> None:
    from sqlalchemy import exc

    kinds: list[Any] = [
        exc.OperationalError("SELECT 1", None, Exception("server closed the connection")),
        exc.InterfaceError("SELECT 1", None, Exception("connection already closed")),
        exc.PendingRollbackError("cannot reconnect until rolled back"),
    ]
    for cause in kinds:
        calls = itertools.count(1)

        def call(cause: Any = cause, calls: Any = calls) -> str:
            if next(calls) < 3:
                raise StorageInternalError from cause
            return "found"

        assert storage.patient(call)() == "found"
        assert next(calls) == 4

    def wrong() -> None:
        raise StorageInternalError from exc.ProgrammingError("SELEC", None, Exception("syntax"))

    with pytest.raises(StorageInternalError):
        storage.patient(wrong)()


def test_a_trial_of_a_machine_that_fell_silent_is_tried_again(
    opened: Callable[[], BaseStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "GRACE", 1)
    elsewhere = at(opened())
    lost = elsewhere.claim(8)
    assert lost is not None
    config = elsewhere.config(lost)
    elsewhere.storage.set_trial_user_attr(lost._trial_id, OWNER, "another-machine 1 abc")
    here = at(opened())
    assert here.rescue()  # it may be alive
    run(here, score)
    assert_grid_once(here)
    assert config in configs(here)
    # What it says when it comes back is not heard, and disturbs nobody.
    elsewhere.complete(lost, -100.0, {})
    elsewhere.fail(lost, "late")
    elsewhere.put_back(lost)
    assert_grid_once(at(opened()))
    assert min(t.values[0] for t in here.trials()) >= 0


def test_a_trial_that_never_gave_a_sign_of_life_is_tried_again(
    opened: Callable[[], BaseStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "GRACE", 1)
    monkeypatch.setattr(Study, "_beat", lambda self, trial_id: None)
    elsewhere = at(opened())
    lost = elsewhere.claim(8)
    assert lost is not None
    elsewhere.storage.set_trial_user_attr(lost._trial_id, OWNER, "another-machine 1 abc")
    monkeypatch.undo()
    monkeypatch.setattr(storage, "GRACE", 1)
    here = at(opened())
    run(here, score)
    assert_grid_once(here)


def test_a_trial_that_gives_signs_of_life_is_left_alone(
    opened: Callable[[], BaseStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "GRACE", 2)
    monkeypatch.setattr(study, "HEARTBEAT", 0.2)
    elsewhere, here = at(opened()), at(opened())
    with elsewhere.heartbeats():
        trial = elsewhere.claim(8)
        assert trial is not None
        elsewhere.storage.set_trial_user_attr(trial._trial_id, OWNER, "another-machine 1 abc")
        until = time.monotonic() + 3.2
        while time.monotonic() < until:
            assert here.rescue()
            time.sleep(0.2)
        elsewhere.complete(trial, 1.0, {})
    assert not here.rescue()


def test_a_report_on_a_trial_that_another_took_ends_it(opened: Callable[[], BaseStorage]) -> None:
    given = []

    def objective(config: dict[str, Any], report: Any) -> float:
        given.append(config)
        if len(given) == 1:
            at(opened()).lose(first.trials()[0]._trial_id, "taken for dead")
        report(0, 1.0)
        return score(config, report)

    first = at(opened())
    run(first, objective)
    assert_grid_once(first)
    assert len(given) == 9


@pytest.mark.parametrize("where", ["memory", "sqlite"])
def test_two_searches_in_threads_of_a_process_share_a_study(
    opened: Callable[[], BaseStorage], where: str
) -> None:
    memory = open_storage(None)
    given: list[Any] = []
    errors: list[BaseException] = []

    def objective(config: dict[str, Any], report: Any) -> float:
        given.append(config)
        time.sleep(0.05)
        return score(config, report)

    # Opened one by one: warnings, which the tests forbid, cannot be silenced in several threads at once.
    shared = [at(memory if where == "memory" else opened()) for _ in range(3)]

    def work(one: Study) -> None:
        try:
            run(one, objective)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in shared]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(given) == 8
    assert_grid_once(at(memory if where == "memory" else opened()))


def test_an_owner_of_another_machine_with_our_name_is_not_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two containers of one image: the same host name, and process ids of their own."""
    theirs = owners.new_owner().replace("-", "-0", 1).split(" ")
    assert not owners.is_gone(f"{theirs[0]} 4194304 {theirs[2]}")
    ours = owners.new_owner().split(" ")
    assert owners.is_gone(f"{ours[0]} 4194304 {ours[2]}")  # above every process id
    assert not owners.is_gone(f"{ours[0]} 1 {ours[2]}")
