"""Searches on a Ray cluster: three nodes on this machine, one of which is killed in the middle."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import needs

optuna = needs.package("optuna")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported
ray = needs.package("ray")

from optuna.pruners import MedianPruner  # noqa: E402
from optuna.trial import TrialState  # noqa: E402

from rmsprop.search import tune  # noqa: E402
from rmsprop.search.cluster import Cluster  # noqa: E402
from rmsprop.search.loop import failures, run_trials  # noqa: E402
from rmsprop.search.objective import Function  # noqa: E402
from rmsprop.search.storage import open_storage  # noqa: E402
from rmsprop.search.study import Study  # noqa: E402
from rmsprop.search.values import config_of  # noqa: E402
from rmsprop.search.workers import Event  # noqa: E402
from rmsprop.space import space_of  # noqa: E402

pytestmark = pytest.mark.long
HERE = Path(__file__).with_name("ray_objective.py")
SMALL = {"include_dashboard": False, "object_store_memory": 80 * 2**20, "num_cpus": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and two nodes of one CPU each, to which this process is not connected."""
    from ray.cluster_utils import Cluster as Nodes

    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        nodes = Nodes()
        # A node that is gone is noticed within 2 s rather than 15.
        health = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
        nodes.add_node(wait=False, _system_config=health, **SMALL)
        for _ in range(2):
            nodes.add_node(wait=False, **SMALL)
        nodes.wait_for_nodes()
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    for (
        which,
        handler,
    ) in handlers.items():  # Ray's own would stay, and end this process at the next
        signal.signal(which, handler)


@pytest.fixture
def connected(cluster) -> Iterator[Any]:
    """With `ray.init` called, as by a program that uses Ray for more than searches."""
    if not ray.is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    assert ray.is_initialized()


@pytest.fixture
def apart(cluster) -> Any:
    """Without it."""
    ray.shutdown()
    return cluster


def objective(name: str) -> Function:
    return Function(f"{HERE}:{name}")


def study_of(path: Path | None, space: Any, method: str = "grid", **options: Any) -> Study:
    return Study(open_storage(path), "a study", space_of(space), method=method, **options)


def ended(study: Study) -> dict[str, int]:
    """How many trials ended how."""
    states = [trial.state.name.lower() for trial in study.trials()]
    return {state: states.count(state) for state in sorted(set(states))}


# Ways to a cluster


@pytest.mark.parametrize("address", ["", "cluster", "http://host:80/x", "host", "host:port", 7])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match=r"ray must be auto, local, HOST:6379 or ray://HOST:10001"):
        Cluster(objective("square"), address)


def test_the_port_of_the_client_needs_its_scheme():
    with pytest.raises(ValueError, match="ray://head:10001"):
        Cluster(objective("square"), "head:10001")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_where_nothing_or_something_else_answers_is_told_at_once(apart, scheme):
    with contextlib.closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=r"no Ray cluster answers at .*ray start --head"):
            Cluster(objective("square"), address)
        other.listen()

        def greet() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(1000)

        greeter = threading.Thread(target=greet)
        greeter.start()
        with pytest.raises(ConnectionError, match="is not a Ray cluster"):
            Cluster(objective("square"), address)
        greeter.join()
    assert not ray.is_initialized()


def test_without_ray_it_says_what_to_install():
    """In a process where Ray cannot be imported."""
    script = (
        "import sys; sys.modules['ray'] = None\n"
        "from rmsprop.search import tune\n"
        "tune(lambda c, r: 0.0, {'x': (0.0, 1.0)}, trials=1, ray='auto')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError: A search on a cluster needs ray" in done.stderr
    assert "pip install 'rmsprop[ray]'" in done.stderr
    assert done.returncode == 1


# Searches


def test_after_the_driver_is_killed_the_same_search_goes_on(apart, tmp_path, capfd):
    """A process of its own is killed in the middle; what it had ended is kept, the rest is done once."""
    path, notes = tmp_path / "study.db", tmp_path / "notes"
    notes.mkdir()
    space = {"k": list(range(12)), "folder": [str(notes)]}
    options: dict[str, Any] = {"method": "grid", "finalists": 0, "storage": str(path)}
    options["ray"] = apart.address
    call = f"tune({str(HERE) + ':noted'!r}, {space}, **{options})"
    driver = subprocess.Popen([sys.executable, "-c", f"from rmsprop.search import tune; {call}"])
    end = time.monotonic() + 60
    while len(os.listdir(notes)) < 6 and time.monotonic() < end:
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    before = finished(path)

    found = tune(f"{HERE}:noted", space, **options)
    assert not ray.is_initialized()
    assert capfd.readouterr() == ("", "")
    assert all(trial["state"] == "complete" for trial in found["trials"])
    assert sorted(trial["config"]["k"] for trial in found["trials"]) == list(range(12))
    assert all(trial["value"] == trial["config"]["k"] for trial in found["trials"])
    after = finished(path)
    assert len(after) == 12
    assert before
    assert after.items() >= before.items()  # to the moment at which they ended
    begun = [name.split()[0] for name in os.listdir(notes)]
    assert {begun.count(str(k)) for k in before.values()} == {1}


def finished(path: Path) -> dict[Any, int]:
    """Which trials have ended, when, and what they were of."""
    storage = open_storage(path)
    (summary,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    ended = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return {(t.number, t.datetime_complete): t.params["k"] for t in ended}


def test_a_killed_node_loses_no_trial_and_doubles_none(connected, tmp_path):
    """Each config of a grid ends once; those that the node took with it were tried again with the same."""
    path, notes, count = tmp_path / "study.db", tmp_path / "notes", 16
    notes.mkdir()
    study = study_of(path, {"k": list(range(count)), "folder": [str(notes)]})
    extra = connected.add_node(**SMALL)
    doomed, killed = extra.node_id, list[str]()
    Path(notes, doomed).touch()

    def kill() -> None:
        end = time.monotonic() + 60
        # In the middle: a machine that dies while trials are on their way to it keeps Ray busy for 10 s.
        while (not killed or len(os.listdir(notes)) < 8) and time.monotonic() < end:
            killed[:] = [name for name in os.listdir(notes) if name.endswith(f" {doomed}")]
            time.sleep(0.02)
        connected.remove_node(extra, allow_graceful=False)
        while workers.size != 3 and time.monotonic() < end:
            time.sleep(0.02)
        Path(notes, "go").touch()  # for which the last trial waits

    workers = Cluster(objective("noted"), "auto")
    assert workers.size == 4
    killer = threading.Thread(target=kill)
    killer.start()
    run_trials(study, workers, count)
    killer.join(60)
    assert workers.size == 3

    assert ended(study) == {"complete": count}
    values = sorted(config_of(study.space, trial)["k"] for trial in study.trials())
    assert values == list(range(count))
    assert all(trial.value == config_of(study.space, trial)["k"] for trial in study.trials())
    everything = study.optuna.get_trials(deepcopy=False)
    assert [trial.number for trial in everything] == list(range(len(everything)))
    lost = {t.number: t for t in everything if t.state is TrialState.FAIL}
    assert lost
    retried = {k for t in study.trials() for k in t.system_attrs.get("retry_history", ())}
    assert retried == set(lost)
    for trial in study.trials():
        for k in trial.system_attrs.get("retry_history", ()):
            assert config_of(study.space, trial) == config_of(study.space, lost[k])
    assert killed[0].split()[0] in {str(lost[k].params["k"]) for k in lost}
    begun = [name.split()[0] for name in os.listdir(notes) if " " in name]
    assert {begun.count(str(k)) for k in range(count)} <= {1, 2}


def test_trials_that_are_worse_than_the_median_are_pruned(connected):
    levels = [0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0]
    space = {"level": sorted(set(levels)), "again": [0, 1, 2, 3]}
    study = study_of(None, space)
    run_trials(study, Cluster(objective("levels")), 8, pruner=MedianPruner(2, 3))
    for trial in study.trials():
        if trial.state is TrialState.PRUNED:
            # At the very report that the search pruned by: the objective does not go on.
            assert max(trial.intermediate_values) < 19
            assert trial.params["level"] == 5.0
        else:
            assert sorted(trial.intermediate_values) == list(range(20))
    assert ended(study)["pruned"] >= 1
    assert all(t.state is TrialState.COMPLETE for t in study.trials() if t.params["level"] == 0.0)


def test_whatever_an_objective_does_the_search_ends(connected):
    kinds = ["fine", "raises", "hangs", "nan", "exits", "text", "misreports", "computes", "well"]
    study = study_of(None, {"kind": kinds})
    run_trials(study, Cluster(objective("spoiled"), seconds=2.0), len(kinds))
    assert ended(study) == {"complete": 2, "fail": 7}
    why = {kinds[failure["number"]]: failure["why"] for failure in failures(study)}
    assert why["raises"].startswith("RuntimeError: the disk is on fire (ray_objective.py, line ")
    assert why["hangs"] == why["computes"] == "it took longer than the time limit of 2 s"
    assert why["nan"] == "it returned nan"
    assert why["exits"].startswith("SystemExit: goodbye")
    assert why["text"] == "it must return a number; got str 'a lot'"
    assert "a whole number, 0 or more; got -1" in why["misreports"]


def test_a_process_that_always_dies_is_tried_again_and_then_given_up(connected):
    study = study_of(None, {"kind": ["fine", "dies"]})
    run_trials(study, Cluster(objective("spoiled")), 2)
    assert ended(study) == {"complete": 1, "fail": 1}
    (last,) = (trial for trial in study.trials() if trial.state is TrialState.FAIL)
    assert len(last.system_attrs["retry_history"]) == 3
    (failure,) = failures(study)
    assert failure["why"].startswith("WorkerCrashedError: ")


def test_a_task_is_searched_and_its_finalists_run(connected):
    found = tune("xor", trials=3, finalists=1, seeds=2, ray="auto", stack=False)
    here = tune("xor", trials=3, finalists=1, seeds=2, stack=False)
    assert len(found["trials"]) == 3
    for ours, theirs in zip(here["trials"], found["trials"], strict=True):
        assert ours["config"] == theirs["config"]  # trial k draws from its own stream
        assert theirs["scores"] == pytest.approx(ours["scores"])
    assert found["winner"]["config"] == here["winner"]["config"]


def test_a_trial_has_one_thread_the_folder_of_the_search_and_no_standard_output(
    connected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    study = study_of(None, {"folder": [str(tmp_path)], "again": [0, 1]})
    run_trials(study, Cluster(objective("process")), 2)
    assert failures(study) == []
    assert ended(study) == {"complete": 2}


def test_lambdas_are_sent_and_what_cannot_be_sent_is_refused(connected):
    study = study_of(None, {"x": [1.0, 2.0]})
    run_trials(study, Cluster(Function(lambda config, report: 2 * config["x"])), 2)
    assert [trial.value for trial in study.trials()] == [2.0, 4.0]
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"cannot be sent to other machines"):
        Cluster(Function(lambda config, report: lock.locked()))


def test_the_mailbox_may_be_killed_and_the_search_goes_on(connected):
    """Its calls are made again: a trial that waits for an answer has it from the next one."""
    workers = Cluster(objective("levels"))
    try:
        workers.submit(0, {"level": 1.0, "seed": 0})
        seen: list[Event] = []
        end = time.monotonic() + 60
        while time.monotonic() < end and not any(event.kind == "done" for event in seen):
            for event in workers.wait(1.0):
                if event.kind == "report" and len(seen) == 5:
                    ray.kill(workers._mailbox, no_restart=False)
                seen.append(event)
                if event.kind == "report":
                    workers.answer(0, False)
        steps = [event.more["step"] for event in seen if event.kind == "report"]
        assert sorted(set(steps)) == list(range(20))
        assert (seen[-1].kind, seen[-1].value) == ("done", 1.0)
    finally:
        workers.close()


def test_another_cluster_than_the_one_that_this_process_has_is_refused(connected):
    with pytest.raises(ConnectionError, match=r"has called ray\.init already"):
        Cluster(objective("square"), "local")
