"""The ledger: what is finished is kept, half lines are not, and only what is missing is done."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rmsprop import ledger as module
from rmsprop.ledger import Interrupted, Ledger, key_of, run_all

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh():
    calls.clear()


def square(x: int) -> dict[str, Any]:
    calls.append(x)
    return {"x": x, "square": x * x}


def worker(folder: str) -> dict[str, Any]:
    """What a process is: its id, its threads, whether Ctrl-C reaches it; once another is there too."""
    import numba
    from threadpoolctl import threadpool_info

    Path(folder, str(os.getpid())).touch()
    end = time.monotonic() + 30
    while len(os.listdir(folder)) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    blas = max((lib["num_threads"] for lib in threadpool_info()), default=1)
    ignores = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return {"pid": os.getpid(), "numba": numba.get_num_threads(), "blas": blas, "ignores": ignores}


def fail(x: int) -> dict[str, Any]:
    if x == 2:
        raise ValueError(f"{x} cannot be done")
    return {"x": x}


def die(x: int) -> dict[str, Any]:
    if x == 2:
        time.sleep(0.5)  # after the others have ended
        os.kill(os.getpid(), signal.SIGKILL)
    return {"x": x}


def interrupted_at(limit: int) -> Any:
    def work(x: int) -> dict[str, Any]:
        if len(calls) == limit:
            raise KeyboardInterrupt
        return square(x)

    return work


def jobs(count: int) -> list[tuple[str, tuple[int]]]:
    return [(f"k{x}", (x,)) for x in range(count)]


def keys(path: Path) -> list[str]:
    return [json.loads(line)["key"] for line in path.read_text().splitlines()]


# The file


def test_a_run_is_on_disk_when_add_returns_and_comes_back(tmp_path):
    path = tmp_path / "deep" / "runs.jsonl"
    ledger = Ledger(path)
    record = {"score": 0.1 + 0.2, "none": None, "curve": [1.0, 1e-300], "text": "ä\u2028\n"}
    ledger.add("a", record)
    assert keys(path) == ["a"]
    again = Ledger(path, resume=True)
    assert again.get("a") == record  # bit for bit
    assert again.get("b") is None


def test_without_resume_the_old_runs_are_put_aside(tmp_path):
    path = tmp_path / "runs.jsonl"
    Ledger(path).add("a", {"x": 1})
    fresh = Ledger(path)
    assert fresh.get("a") is None
    assert path.read_text() == ""
    assert keys(path.with_suffix(".bak")) == ["a"]
    Ledger(path)  # a command that fails at once, again: the old runs stay
    assert keys(path.with_suffix(".bak")) == ["a"]


@pytest.mark.parametrize(
    "half",
    ['{"key": "c", "run": {"x"', '{"key": "c"}', "null", "[]", "7", '"c"', "\0\0\0", "{'key': 1}",
     '{"key": "c", "run": null}', "\ufffd\udcff"],
)  # fmt: skip
@pytest.mark.parametrize("newline", ["", "\n"])
def test_half_a_line_is_no_run_and_does_not_spoil_the_next(tmp_path, half, newline):
    path = tmp_path / "runs.jsonl"
    ledger = Ledger(path)
    ledger.add("a", {"x": 1})
    ledger.add("b", {"x": 2})
    with path.open("ab") as file:
        file.write((half + newline).encode("utf-8", "surrogateescape"))
    again = Ledger(path, resume=True)
    assert again.get("a") == {"x": 1}
    assert again.get("b") == {"x": 2}
    assert again.get("c") is None
    again.add("c", {"x": 3})
    last = Ledger(path, resume=True)
    assert [last.get(key) for key in "abc"] == [{"x": 1}, {"x": 2}, {"x": 3}]
    assert keys(path) == ["a", "b", "c"]


def test_a_kill_while_a_ledger_is_opened_again_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "runs.jsonl"
    ledger = Ledger(path)
    for x in range(3):
        ledger.add(f"k{x}", {"x": x})
    line, written = module._line, []

    def killed(key: str, record: Any) -> str:
        if written:
            raise SystemExit
        written.append(key)
        return line(key, record)

    monkeypatch.setattr(module, "_line", killed)
    with pytest.raises(SystemExit):
        Ledger(path, resume=True)
    monkeypatch.undo()
    assert [Ledger(path, resume=True).get(f"k{x}") for x in range(3)] == [
        {"x": x} for x in range(3)
    ]


def test_nan_is_refused_for_it_is_not_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Ledger(tmp_path / "runs.jsonl").add("a", {"x": float("nan")})


def test_a_key_is_what_a_run_is_made_of():
    assert key_of({"a": 1, "b": 2.0}, 3) == key_of({"b": 2.0, "a": 1}, 3)
    others = [
        key_of(*parts) for parts in ((1, 2), (2, 1), ([1, 2],), (1, 2.5), ("1", 2), (1, None))
    ]
    assert len(set(others)) == len(others)


# The runs


def test_only_what_is_missing_is_done_and_the_order_is_that_of_the_jobs(tmp_path):
    path = tmp_path / "runs.jsonl"
    first = run_all(square, jobs(4), ledger=Ledger(path))
    assert calls == [0, 1, 2, 3]
    calls.clear()
    found = run_all(square, jobs(6)[::-1], ledger=Ledger(path, resume=True))
    assert sorted(calls) == [4, 5]
    assert [record["x"] for record in found] == [5, 4, 3, 2, 1, 0]
    assert found[::-1][:4] == first


def test_a_job_that_is_asked_for_twice_is_done_once():
    found = run_all(square, [*jobs(2), *jobs(2)])
    assert calls == [0, 1]
    assert [record["x"] for record in found] == [0, 1, 0, 1]


def test_progress_begins_with_what_is_kept_and_ends_with_all():
    told = []
    ledger = Ledger()
    ledger.add("k0", {"x": 0})
    run_all(square, jobs(3), ledger=ledger, progress=lambda *a: told.append(a), what="walks")
    assert told == [(1, 3, "walks"), (2, 3, "walks"), (3, 3, "walks")]


def test_ctrl_c_keeps_what_is_finished_and_says_how_much(tmp_path):
    ledger = Ledger(tmp_path / "runs.jsonl")
    with pytest.raises(Interrupted, match="2 of 5 runs are finished") as caught:
        run_all(interrupted_at(2), jobs(5), ledger=ledger)
    assert (caught.value.done, caught.value.total) == (2, 5)
    assert keys(tmp_path / "runs.jsonl") == ["k0", "k1"]


def test_no_jobs_are_no_runs():
    assert run_all(square, []) == []
    assert run_all(square, [], processes=4) == []


def test_a_mistake_in_the_work_is_told_as_it_is():
    with pytest.raises(ValueError, match="2 cannot be done"):
        run_all(fail, jobs(4))


@pytest.mark.long
def test_processes_have_one_thread_each_and_leave_ctrl_c_to_their_parent(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    found = run_all(worker, [(f"k{x}", (str(tmp_path),)) for x in range(4)], processes=2)
    assert len({record["pid"] for record in found}) == 2
    assert os.getpid() not in {record["pid"] for record in found}
    assert all(record["numba"] == record["blas"] == 1 for record in found)
    assert all(record["ignores"] for record in found)
    assert signal.getsignal(signal.SIGINT) == before
    assert not multiprocessing.active_children()


@pytest.mark.long
def test_processes_that_fail_or_die_are_told_and_the_rest_is_kept(tmp_path):
    with pytest.raises(ValueError, match="2 cannot be done"):
        run_all(fail, jobs(4), processes=2)
    path = tmp_path / "runs.jsonl"
    with pytest.raises(ChildProcessError, match=r"a process was killed.*fewer processes"):
        run_all(die, jobs(3), processes=2, ledger=Ledger(path))
    assert sorted(keys(path)) == ["k0", "k1"]
    assert not multiprocessing.active_children()


@pytest.mark.long
def test_runs_may_be_started_from_another_thread():
    """As from a notebook's or a server's, where signals cannot be touched."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(run_all(fail, jobs(2), processes=2)))
    thread.start()
    thread.join(60)
    assert found == [{"x": 0}, {"x": 1}]
