"""Searches kept in a real PostgreSQL server, which is killed and started again under them."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import needs
import postgres

needs.package("optuna")
if not hasattr(os, "fork"):
    needs.lacking("this system cannot fork")

from rmsprop.search.storage import open_storage, storage_url  # noqa: E402
from rmsprop.search.study import Study  # noqa: E402
from rmsprop.search.tuning import tune  # noqa: E402
from rmsprop.space import space_of  # noqa: E402
from search_worker import evaluations  # noqa: E402
from test_search_processes import GRID, Lives, assert_whole, finished, until  # noqa: E402

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.server() as found:
        yield found


@pytest.fixture
def lives(
    server: postgres.Server, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Lives]:
    """With a database of the test's own."""
    import psycopg

    name = request.node.name.partition("[")[0]
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    found = Lives(tmp_path, server.url.rpartition("/")[0] + "/" + name)
    yield found
    assert postgres.PASSWORD not in found.errors()
    found.close()


def test_a_restart_of_the_server_in_the_middle_loses_nothing(
    lives: Lives, server: postgres.Server
) -> None:
    pids = [lives.start(seconds=0.05) for _ in range(2)]
    count = lambda: len(_log(lives))  # noqa: E731
    for done in (4, 10, 16):
        until(lambda done=done: count() >= done)
        server.restart()
    assert [lives.end(pid) for pid in pids] == [0, 0]
    assert lives.errors() == ""
    assert_whole(lives.trials())


def test_a_server_that_is_away_is_waited_for(lives: Lives, server: postgres.Server) -> None:
    pid = lives.start(hold=GRID[5])
    lives.held()
    before = finished(lives.trials())
    assert len(before) == 5
    server.stop()
    lives.let_go()  # the trial ends while nobody can keep it
    until(lambda: len(_log(lives)) == 6)
    with pytest.raises(ConnectionError, match=r"postgresql://searcher:\*\*\*@127") as caught:
        open_storage(lives.storage)
    assert postgres.PASSWORD not in str(caught.value)
    server.start()
    assert lives.end(pid) == 0
    found = lives.trials()
    assert found[:5] == before
    assert_whole(found)
    assert len(found) == 24  # none was begun anew
    assert evaluations(lives.folder) == GRID


def test_a_server_that_stays_away_ends_the_search(
    server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmsprop.search.storage.PATIENCE", 0.2)
    storage: Any = open_storage(server.url)
    study = Study(storage, "away", space_of("x=0:1"))
    server.stop()
    try:
        with pytest.raises(ConnectionError, match=r"has not answered for 0\.2 s: conn") as caught:
            study.claim(3)
        assert postgres.PASSWORD not in str(caught.value)
    finally:
        server.start()
        storage.engine.dispose()


def test_two_searches_at_once_one_of_which_is_killed(lives: Lives) -> None:
    held = lives.start(hold=GRID[2])
    until(lambda: (lives.folder / "held").exists())
    other = lives.start(seconds=0.02)
    until(lambda: len(_log(lives)) >= 6)
    os.kill(held, signal.SIGKILL)
    assert lives.end(held) == -signal.SIGKILL
    assert lives.end(other) == 0
    found = lives.trials()
    assert_whole(found)
    assert len(found) == 25
    again = {config: n for config, n in Counter(_log(lives)).items() if n > 1}
    assert len(again) == 1  # the one that was lost
    assert lives.errors() == ""


def test_a_wrong_password_is_told_and_never_printed(server: postgres.Server) -> None:
    url = server.url.replace(postgres.PASSWORD, "not-this-one")
    with pytest.raises(ConnectionError, match="password authentication failed") as caught:
        open_storage(url)
    assert "not-this-one" not in str(caught.value)
    assert "not-this-one" not in str(storage_url(url))
    with pytest.raises(ConnectionError, match='database "nowhere" does not exist'):
        open_storage(server.url.replace("/postgres", "/nowhere"))


def test_tune_resumes_and_tells_no_password(
    server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def objective(config: dict[str, Any], report: Any) -> float:
        calls.append(config)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return (config["x"] - 0.3) ** 2

    opened = []

    def remembered(where: Any) -> Any:
        opened.append(open_storage(where))
        return opened[-1]

    monkeypatch.setattr("rmsprop.search.tuning.open_storage", remembered)
    options: dict[str, Any] = {"storage": server.url, "study": "s", "trials": 6, "finalists": 0}
    try:
        with pytest.raises(KeyboardInterrupt):
            tune(objective, {"x": (0.0, 1.0)}, **options)
        found = tune(objective, {"x": (0.0, 1.0)}, **options)
    finally:
        for storage in opened:
            storage.engine.dispose()
    assert calls[4] == calls[3]
    assert len(calls) == 7
    assert [t["config"]["x"] for t in found["trials"]] == [
        c["x"] for k, c in enumerate(calls) if k != 3
    ]
    assert postgres.PASSWORD not in str(found)


def _log(lives: Lives) -> list[str]:
    file = lives.folder / "log"
    return [str(config) for config in evaluations(lives.folder)] if file.exists() else []
