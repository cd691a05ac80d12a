"""Searches in several processes, killed and stopped in the middle: no trial is lost, none is doubled."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import needs

needs.package("optuna")
if not hasattr(os, "fork"):
    needs.lacking("this system cannot fork")

import optuna  # noqa: E402
from optuna.trial import FrozenTrial, TrialState  # noqa: E402

import rmsprop  # noqa: E402
from rmsprop.search.values import config_of  # noqa: E402
from rmsprop.space import grid_of, space_of  # noqa: E402
from search_worker import evaluations, value_of  # noqa: E402

HERE = Path(__file__).parent
SPACE = "a=0:1:6 b=0:1:4"
GRID = grid_of(space_of(SPACE))
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(rmsprop.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Lives:
    """search_worker.py: searches in processes of their own, at once or one after the other."""

    def __init__(self, folder: Path, storage: str):
        self.folder, self.storage = folder, storage
        command = [sys.executable, str(HERE / "search_worker.py")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=ENVIRONMENT, text=True, stdin=pipe, stdout=pipe
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def start(self, **job: Any) -> int:
        """Begin a search; its process id."""
        base = {"folder": str(self.folder), "storage": self.storage, "space": SPACE, "budget": 24}
        self._write(json.dumps(base | job))
        return int(self._line())

    def end(self, pid: int) -> int:
        """Wait for its end; its exit code, negative for a signal."""
        self._write(f"end {pid}")
        return int(self._line())

    def live(self, **job: Any) -> int:
        return self.end(self.start(**job))

    def held(self) -> int:
        """The process of the evaluation that waits."""
        return int(until(lambda: _text(self.folder / "held")))

    def let_go(self) -> None:
        (self.folder / "go").touch()

    def errors(self) -> str:
        return _text(self.folder / "errors")

    def trials(self) -> list[FrozenTrial]:
        """All, as Optuna itself reads them."""
        url = self.storage if "://" in self.storage else f"sqlite:///{self.storage}"
        storage = optuna.storages.RDBStorage(url.replace("postgresql:", "postgresql+psycopg:"))
        try:
            return optuna.load_study(study_name="s", storage=storage).get_trials()
        finally:
            storage.engine.dispose()

    def close(self) -> None:
        self.let_go()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def until(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What is found, as soon as there is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come")


def assert_whole(found: list[FrozenTrial], grid: list[dict[str, Any]] = GRID) -> None:
    """Each combination once, with its own value; each number once."""
    assert [trial.number for trial in found] == list(range(len(found)))
    states = Counter(trial.state for trial in found)
    assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}
    complete = [trial for trial in found if trial.state is TrialState.COMPLETE]
    configs = [config_of(space_of(SPACE), trial) for trial in complete]
    assert sorted(map(str, configs)) == sorted(map(str, grid))
    assert [trial.values for trial in complete] == [[value_of(c)] for c in configs]
    again = {k for trial in found for k in trial.system_attrs.get("retry_history", ())}
    withdrawn = {t.number for t in found if t.user_attrs.get("failure") == "another has its place"}
    assert {t.number for t in found if t.state is TrialState.FAIL} == again | withdrawn


def finished(found: list[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in found if trial.state.is_finished()]


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    found = Lives(tmp_path, str(tmp_path / "s.db"))
    yield found
    found.close()


@pytest.mark.long
def test_eight_processes_on_one_file_do_each_trial_once(lives: Lives) -> None:
    pids = [lives.start(seconds=0.02) for _ in range(8)]
    assert [lives.end(pid) for pid in pids] == [0] * 8
    assert lives.errors() == ""
    assert_whole(lives.trials())
    assert len(lives.trials()) == 24
    assert sorted(map(str, evaluations(lives.folder))) == sorted(map(str, GRID))
    lines = (lives.folder / "log").read_text().splitlines()
    assert len({json.loads(line)["pid"] for line in lines}) > 1  # they shared the work


@pytest.mark.long
@pytest.mark.parametrize("method", ["grid", "random"])
def test_a_search_that_is_killed_goes_on_where_it_was(lives: Lives, method: str) -> None:
    space = SPACE if method == "grid" else "a=0:1 b=0:1"
    whole = Lives.live(lives, method=method, space=space, budget=9)
    assert whole == 0
    expected = evaluations(lives.folder)
    (lives.folder / "log").unlink()
    lives.storage = str(lives.folder / "killed.db")

    pid = lives.start(method=method, space=space, budget=9, hold=expected[5])
    assert lives.held() == pid
    os.kill(pid, signal.SIGKILL)
    assert lives.end(pid) == -signal.SIGKILL
    before = lives.trials()
    assert [t.state.name for t in before] == ["COMPLETE"] * 5 + ["RUNNING"]

    lives.let_go()
    assert lives.live(method=method, space=space, budget=9) == 0
    after = lives.trials()
    assert after[:5] == before[:5]  # what had finished is as it was, to its times
    assert after[5].state is TrialState.FAIL
    assert after[6].params == before[5].params == after[5].params
    assert evaluations(lives.folder) == [*expected[:6], *expected[5:]]
    counted = [t for t in after if t.state is TrialState.COMPLETE]
    assert [config_of(space_of(space), t) for t in counted] == expected
    assert lives.live(method=method, space=space, budget=9) == 0  # nothing is left to do
    assert lives.trials() == after
    assert lives.errors() == ""


def test_ctrl_c_puts_the_trial_back(lives: Lives) -> None:
    pid = lives.start(hold=GRID[3])
    assert lives.held() == pid
    os.kill(pid, signal.SIGINT)
    assert lives.end(pid) == 130
    found = lives.trials()
    assert [t.state.name for t in found] == ["COMPLETE"] * 3 + ["FAIL", "WAITING"]
    lives.let_go()
    assert lives.live() == 0
    assert lives.trials()[:3] == found[:3]
    assert_whole(lives.trials())
    assert lives.errors() == ""


@pytest.mark.long
def test_a_process_of_a_search_that_is_killed_is_replaced(lives: Lives) -> None:
    pid = lives.start(jobs=2, hold=GRID[3])
    worker = lives.held()
    assert worker != pid
    before = finished(lives.trials())
    os.kill(worker, signal.SIGKILL)
    lives.let_go()
    assert lives.end(pid) == 0
    found = lives.trials()
    assert_whole(found)
    assert len(found) == 25
    (lost,) = [t for t in found if t.state is TrialState.FAIL]
    assert "killed by signal 9" in lost.user_attrs["failure"]
    assert config_of(space_of(SPACE), lost) == GRID[3]
    assert [found[t.number] for t in before] == before
    assert Counter(map(str, evaluations(lives.folder)))[str(GRID[3])] == 2


@pytest.mark.long
def test_the_processes_of_a_search_that_is_killed_end_with_it(lives: Lives) -> None:
    pid = lives.start(jobs=2, hold=GRID[3])
    worker = lives.held()
    os.kill(pid, signal.SIGKILL)
    assert lives.end(pid) == -signal.SIGKILL
    until(lambda: not _runs(worker))
    lives.let_go()
    assert lives.live() == 0
    assert_whole(lives.trials())


def _runs(pid: int) -> bool:
    """Whether a process does; one that ended and that nobody has asked after does not."""
    state = Path(f"/proc/{pid}/stat")
    if state.exists():
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc/self").exists()


@pytest.mark.long
def test_kills_at_any_moment_lose_nothing(lives: Lives) -> None:
    """Three at a time, one of which is killed again and again at a moment that nobody chose."""
    finished_before: dict[int, FrozenTrial] = {}
    pids = [lives.start(seconds=0.02) for _ in range(3)]
    for moment in range(8):
        time.sleep(0.03 + 0.021 * moment)
        victim = pids.pop(0)
        os.kill(victim, signal.SIGKILL)
        lives.end(victim)
        if moment > 1:  # the study is there by then, or is made by who comes
            now = {t.number: t for t in _trials_if_any(lives) if t.state is TrialState.COMPLETE}
            assert {k: now[k] for k in finished_before} == finished_before
            finished_before = now
        pids.append(lives.start(seconds=0.02))
    assert [lives.end(pid) for pid in pids] == [0] * 3
    assert lives.errors() == ""
    assert_whole(lives.trials())


def _trials_if_any(lives: Lives) -> list[FrozenTrial]:
    try:
        return lives.trials()
    except KeyError:
        return []


@pytest.mark.long
def test_the_dashboard_of_optuna_shows_the_study(lives: Lives) -> None:
    needs.package("optuna_dashboard")
    assert lives.live() == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "optuna_dashboard._cli", f"sqlite:///{lives.storage}"]
    words = ["--host", "127.0.0.1", "--port", str(port)]
    with open(lives.folder / "dashboard", "w") as log:
        dashboard = subprocess.Popen([*command, *words], env=ENVIRONMENT, stdout=log, stderr=log)
    try:

        def studies() -> Any:
            assert dashboard.poll() is None, _text(lives.folder / "dashboard")
            try:
                return _json(f"http://127.0.0.1:{port}/api/studies")
            except OSError:
                return None

        (study,) = until(studies)["study_summaries"]
        assert study["study_name"] == "s"
        detail = _json(f"http://127.0.0.1:{port}/api/studies/{study['study_id']}")
        assert len(detail["trials"]) == 24
        assert {t["state"] for t in detail["trials"]} == {"Complete"}
    finally:
        dashboard.terminate()
        dashboard.wait(30)


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.load(reply)
