"""Who evaluates: what objectives do wrong, take too long over, or are killed in the middle of."""

import contextlib
import importlib
import importlib.util
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs

needs.package("optuna")

from rmsprop.search import workers  # noqa: E402
from rmsprop.search.objective import Function  # noqa: E402
from rmsprop.search.workers import (  # noqa: E402
    Event,
    Here,
    Processes,
    Result,
    Workers,
    _Worker,
    evaluated,
)

# What an objective may return, raise and report


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Unreadable:
    def __repr__(self) -> str:
        raise RuntimeError("not even this")

    def __float__(self) -> float:
        raise RuntimeError("nor this")


def returns(value: Any) -> Callable[[Any, Any], Any]:
    return lambda config, report: value


def raises(error: BaseException) -> Callable[[Any, Any], Any]:
    def objective(config: Any, report: Any) -> Any:
        raise error

    return objective


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("nan"), "it returned nan"),
        (float("-inf"), "it returned -inf"),
        (np.float32("inf"), "it returned inf"),
        (None, "it must return a number; got NoneType None"),
        ("0.5", "it must return a number; got str '0.5'"),
        (1j, "it must return a number; got complex 1j"),
        (10**400, "it must return a number; got int 1000"),
        ([1.0], "it must return a number; got list [1.0]"),
        (np.ones(3), "it must return a number; got ndarray array([1., 1., 1.])"),
        (Unreadable(), "it must return a number; got Unreadable without words"),
    ],
)
def test_what_is_no_number_fails_the_trial(value: Any, why: str) -> None:
    event = evaluated(returns(value), 3, {}, lambda step, value: None)
    assert (event.number, event.kind) == (3, "failed")
    assert event.why.startswith(why)
    assert len(event.why) < 400


@pytest.mark.parametrize("value", [2, 2.0, True, np.float32(2), np.int64(2), np.array(2.0)])
def test_what_is_a_number_is_kept(value: Any) -> None:
    event = evaluated(returns(value), 3, {}, lambda step, value: None)
    assert event == Event(3, "done", float(value))
    more = evaluated(returns(Result(value, {"a": 1})), 3, {}, lambda step, value: None)
    assert more == Event(3, "done", float(value), {"a": 1})


def test_a_tensor_of_two_elements_fails_the_trial() -> None:
    torch = needs.package("torch")
    event = evaluated(returns(torch.ones(2)), 0, {}, lambda step, value: None)
    assert event.why.startswith("it must return a number; got Tensor")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            RuntimeError("no such width"),
            "RuntimeError: no such width (test_search_workers.py, line ",
        ),
        (SystemExit(3), "SystemExit: 3 ("),
        (MemoryError(), "MemoryError:  ("),
        (RecursionError("deep"), "RecursionError: deep ("),
        (Speechless(), "Speechless: without words ("),
        (RuntimeError("x" * 10**6), "RuntimeError: xxx"),
    ],
)
def test_what_an_objective_raises_fails_the_trial(error: BaseException, why: str) -> None:
    event = evaluated(raises(error), 3, {}, lambda step, value: None)
    assert (event.number, event.kind) == (3, "failed")
    assert event.why.startswith(why)
    assert len(event.why) < 400


def test_ctrl_c_is_not_a_failure() -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluated(raises(KeyboardInterrupt()), 3, {}, lambda step, value: None)


@pytest.mark.parametrize(
    ("step", "value", "said"),
    [
        (0.5, 1.0, "a step that is a whole number, 0 or more; got 0.5"),
        (-1, 1.0, "0 or more; got -1"),
        (True, 1.0, "0 or more; got True"),
        ("1", 1.0, "0 or more; got '1'"),
        (None, 1.0, "0 or more; got None"),
        (float("nan"), 1.0, "0 or more; got nan"),
        (float("inf"), 1.0, "0 or more; got inf"),
        (2**40, 1.0, "0 or more"),
        (1, "a", "a value that is a number; got 'a'"),
        (1, None, "a value that is a number; got None"),
        (1, 10**400, "a value that is a number; got 1000"),
    ],
)
def test_a_wrong_report_is_told_to_the_objective(step: Any, value: Any, said: str) -> None:
    here = Here(lambda config, report: report(step, value))
    here.submit(0, {})
    (event,) = here.wait(1)
    assert event.kind == "failed"
    assert said in event.why


def test_reports_of_numpy_are_taken() -> None:
    seen: list[Event] = []
    step, value = np.array([2]), np.array([0.5], np.float32)
    here = Here(lambda config, report: report(step[0], value[0]) or 1.0)
    here.on_report = lambda event: bool(seen.append(event))
    here.submit(7, {})
    assert here.wait(1) == [Event(7, "done", 1.0)]
    assert seen == [Event(7, "report", 0.5, {"step": 2})]


# Time


def endless(config: Any, report: Any) -> float:
    while True:
        with contextlib.suppress(Exception):  # who lets everything pass is stopped all the same
            time.sleep(10)


def test_a_trial_here_ends_at_its_time_limit_and_the_next_is_fresh() -> None:
    objective = lambda config, report: endless(config, report) if config["hang"] else 1.0  # noqa: E731
    before = signal.getsignal(signal.SIGALRM)
    here = Here(objective, seconds=0.2)
    events = []
    for number, hang in enumerate((True, False, True)):
        here.submit(number, {"hang": hang})
        events += here.wait(1)
    assert [event.kind for event in events] == ["failed", "done", "failed"]
    assert events[0].why == "it took longer than the time limit of 0.2 s"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_alarm_that_rings_as_the_trial_ends_stops_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = workers.evaluated

    def slow(*args: Any) -> Event:
        found = real(*args)
        endless({}, None)
        return found

    monkeypatch.setattr(workers, "evaluated", slow)
    here = Here(returns(1.0), seconds=0.1)
    here.submit(0, {})
    (event,) = here.wait(1)
    assert event.kind == "failed"


def test_an_objective_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(TypeError, match=r"cannot be sent to another process.*or use jobs=1"):
        Processes(lambda config, report: 1.0, 2)


# Processes. One file serves all the tests: a process loads it, and what it needs, once.

OBJECTIVE = """
import os, sys, time
from pathlib import Path

if os.environ.get("SLOW_TO_LOAD"):
    time.sleep(1.2)

def act(config, report):
    what = config["what"]
    if what == "hang":
        Path(config["file"]).write_text(str(os.getpid()))
        while True:
            time.sleep(10)
    if what == "swallow":
        try:
            raise SystemExit(3)
        except BaseException:
            return 4.0
    if what == "exit":
        sys.exit("over")
    if what == "vanish":
        os._exit(7)
    if what == "report":
        for step in range(5):
            report(step, 10.0 * step)
    if what == "misuse":
        report("one", 1.0)
    if what == "print":
        print("from the objective")
    return os.getpid()
"""


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("objective")
    (folder / "acting_objective.py").write_text(OBJECTIVE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        assert importlib.util.find_spec("acting_objective")
        yield importlib.import_module("acting_objective").act


def outcome(pool: Workers, number: int, config: dict[str, Any]) -> Event:
    """Submit one, and wait for its end."""
    pool.submit(number, config)
    return ended(pool, number)


def ended(pool: Workers, number: int) -> Event:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for event in pool.wait(0.2):
            if event.kind == "report":
                pool.answer(event.number, event.more["step"] == 2)
            else:
                assert event.number == number
                return event
    raise AssertionError("it did not end")


def held(file: Path) -> int:
    """The process that hangs."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if file.exists() and file.read_text():
            return int(file.read_text())
        time.sleep(0.02)
    raise AssertionError("it did not begin")


@pytest.mark.long
def test_a_process_is_kept_through_failures_and_replaced_when_it_dies(
    act: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = Processes(act, 1)
    try:
        first = outcome(pool, 0, {"what": "go"})
        assert first.kind == "done"
        assert first.value not in (0, os.getpid())
        assert outcome(pool, 1, {"what": "exit"}).why.startswith("SystemExit: over")
        assert outcome(pool, 2, {"what": "swallow"}).value == 4.0
        assert "0 or more; got 'one'" in outcome(pool, 3, {"what": "misuse"}).why
        assert outcome(pool, 4, {"what": "report"}).kind == "pruned"
        assert outcome(pool, 5, {"what": "print"}).value == first.value  # the same process still
        printed = capfd.readouterr()
        assert "from the objective" in printed.err
        assert printed.out == ""

        pool.submit(6, {"what": "hang", "file": str(tmp_path / "pid")})
        pid = held(tmp_path / "pid")
        os.kill(pid, signal.SIGKILL)
        lost = ended(pool, 6)
        assert lost.kind == "lost"
        assert lost.why == "its process was killed by signal 9, perhaps for want of memory"
        gone = outcome(pool, 7, {"what": "vanish"})
        assert (gone.kind, gone.why) == ("lost", "its process ended with code 7")
        again = outcome(pool, 8, {"what": "go"})
        assert again.kind == "done"
        assert again.value not in (first.value, pid)
    finally:
        pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(again.value), 0)


@pytest.mark.long
def test_a_process_that_hangs_is_killed_and_loading_is_no_trial_s_time(
    act: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_TO_LOAD", "1")
    pool = Processes(act, 1, seconds=1.0)
    try:
        assert outcome(pool, 0, {"what": "go"}).kind == "done"
        pool.submit(1, {"what": "hang", "file": str(tmp_path / "pid")})
        late = ended(pool, 1)
        assert (late.kind, late.why) == ("failed", "it took longer than the time limit of 1 s")
        with pytest.raises(ProcessLookupError):
            os.kill(held(tmp_path / "pid"), 0)
        assert outcome(pool, 2, {"what": "go"}).kind == "done"
    finally:
        pool.close()


@pytest.mark.long
def test_a_process_that_never_loads_is_given_up(act: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOADING", 0.2)
    monkeypatch.setenv("SLOW_TO_LOAD", "1")
    pool = Processes(act, 1, seconds=0.2)
    try:
        assert outcome(pool, 0, {"what": "go"}).why == "it took longer than the time limit of 0.2 s"
    finally:
        pool.close()


@pytest.mark.long
def test_two_that_die_together_are_both_lost(act: Any, tmp_path: Path) -> None:
    """The second dies while the first's death is being told: it once was forgotten, and the search hung."""
    pool = Processes(act, 2)
    try:
        for number in (0, 1):
            pool.submit(number, {"what": "hang", "file": str(tmp_path / f"pid{number}")})
        pids = [held(tmp_path / f"pid{number}") for number in (0, 1)]
        read = _Worker.read

        def slow(self: _Worker, ready: list[Any]) -> Any:
            found = read(self, ready)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.3)
            return found

        os.kill(pids[0], signal.SIGKILL)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Worker, "read", slow)
            first = pool.wait(10)
        events = [*first, *pool.wait(10)]
        assert sorted((event.number, event.kind) for event in events) == [(0, "lost"), (1, "lost")]
    finally:
        pool.close()


@pytest.mark.long
def test_an_objective_reports_from_threads_and_its_children_die_with_it(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        """
import os, subprocess, sys, threading, time

def threads(config, report):
    def tell(k):
        for j in range(9):
            report(10 * k + j, 1.0)
    each = [threading.Thread(target=tell, args=(k,)) for k in range(8)]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    return 1.0

def child(config, report):
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    with open(config["file"] + ".part", "w") as file:
        file.write(str(started.pid))
    os.replace(config["file"] + ".part", config["file"])
    time.sleep(300)
"""
    )
    pool = Processes(Function(f"{tmp_path}/busy.py:threads"), 1)
    try:
        pool.submit(0, {})
        reports, end = 0, time.monotonic() + 60
        while time.monotonic() < end:
            events = pool.wait(5)
            for event in events:
                if event.kind == "report":
                    reports += 1
                    pool.answer(0, False)
            if any(event.kind == "done" for event in events):
                break
        assert reports == 72
    finally:
        pool.close()
    pool = Processes(Function(f"{tmp_path}/busy.py:child"), 1)
    pool.submit(0, {"file": str(tmp_path / "child")})
    pid = held(tmp_path / "child")
    pool.close()
    end = time.monotonic() + 10
    while time.monotonic() < end and Path(f"/proc/{pid}").exists():
        if "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
            break  # dead, and waits for whoever adopted it
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()
