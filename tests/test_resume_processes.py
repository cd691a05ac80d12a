"""Runs in processes of their own, killed, stopped, or short of disk, and gone on with to the same bits."""

import importlib.util
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import needs
import rmsprop
from rmsprop import Rule, checkpoint
from test_cli import start
from test_resume import HEAVY, arrays_in, steps_kept, untimed

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(rmsprop.__file__).parents[1]),
    "COLUMNS": "80",
    "OMP_NUM_THREADS": "1",  # a fork keeps no threads
    "OPENBLAS_NUM_THREADS": "1",
}

# Processes


class Lives:
    """resume_worker.py: processes that train, one after the other, from one that has everything loaded."""

    def __init__(self, folder: Path, command: list[str], modules: list[str]):
        self._result = folder / "result.json"
        self.living = False
        words = [*command, sys.executable, str(HERE / "resume_worker.py"), *modules]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, env=ENVIRONMENT, text=True, stdin=pipe, stdout=pipe)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _write(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def start(self, task: str = "moons", rule: Rule = HEAVY, **job: Any) -> int:
        """Begin a life; its process id."""
        self._result.unlink(missing_ok=True)
        self.living = True
        more = {"task": task, "rule": rule.to_dict(), "result": str(self._result)}
        self._write(json.dumps(more | job))
        return int(self._line())

    def end(self) -> tuple[int, dict[str, Any]]:
        """Its exit code, negative for a signal, and what it came to."""
        self._write("")
        code = int(self._line())
        self.living = False
        found = json.loads(self._result.read_text()) if self._result.exists() else {}
        return code, found

    def live(
        self, task: str = "moons", rule: Rule = HEAVY, **job: Any
    ) -> tuple[int, dict[str, Any]]:
        self.start(task, rule, **job)
        return self.end()

    def is_over(self) -> bool:
        """Whether the life has come to its end by itself; `end` says how."""
        return self._result.exists()

    def close(self) -> None:
        with self.process:  # which closes the pipes, and waits
            pass
        assert self.process.returncode == 0


@pytest.fixture(scope="module")
def idle() -> Iterator[list[Lives]]:
    """The process that the next test takes, as lives leave nothing in it; none before the first."""
    kept: list[Lives] = []
    yield kept
    for found in kept:
        found.close()


@pytest.fixture
def lives(idle, tmp_path_factory) -> Iterator[Lives]:
    # PyTorch is loaded before the lives begin: it takes longer than most of them.
    modules = ["rmsprop.learners.modules"] if importlib.util.find_spec("torch") else []
    found = idle.pop() if idle else Lives(tmp_path_factory.mktemp("lives"), [], modules)
    yield found
    if found.living:  # a test that failed in the middle of a life
        with found.process:
            found.process.kill()
    else:
        idle.append(found)


def assert_ended_well(found: dict[str, Any], folder: Path, expected: Path) -> None:
    assert found["error"] is None, found["error"]
    assert arrays_in(folder) == arrays_in(expected)
    assert not [p for p in folder.rglob("*") if p.name.startswith(".") or ".bak" in p.name]
    # Three where it was killed as it was dropping the oldest, with nothing left to do.
    assert 2 <= len(steps_kept(folder)) <= 3


@pytest.mark.long
def test_kill_9_before_any_change_of_a_file_costs_nothing(tmp_path, lives):
    """Every instant at which the folder is in another state: each is a crash, and each is gone on from."""
    settings, options = {"epochs": 2}, {"checkpoint_steps": 12, "resume": True, "patience": 9}
    job = {"settings": settings, "options": options}
    code, whole = lives.live(folder=str(tmp_path / "whole"), **job)
    assert code == 0
    kills, torn = 0, 0
    for which in range(1, 1000):
        folder = tmp_path / str(which)
        code, found = lives.live(folder=str(folder), kill_at_change=which, **job)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        torn += any(p.name.startswith(".") for p in folder.rglob("*"))
        code, found = lives.live(folder=str(folder), **job)
        assert code == 0
        assert found["warnings"] == [], (which, found["warnings"])
        assert untimed(found["run"]) == untimed(whole["run"]), which
        assert_ended_well(found, folder, tmp_path / "whole")
    assert kills > 20
    assert torn > 5  # with a file half done


@pytest.mark.long
@pytest.mark.parametrize(
    ("task", "settings", "options"),
    [
        ("digits", {"epochs": 24}, {"checkpoint_steps": 1, "schedule": "cosine", "details": True}),
        ("moons", {"epochs": 60}, {"checkpoint_steps": 1, "patience": 60, "warm_up": 50}),
        ("digits", {"epochs": 60}, {"checkpoint_steps": 7}),
        ("digits-rnn", {"epochs": 3, "dropout": 0.4}, {"checkpoint_steps": 1}),
        ("digits-cnn", {"epochs": 3, "dropout": 0.4, "hidden": (16,)}, {"checkpoint_steps": 1}),
    ],
    ids=["digits", "moons", "digits-7", "digits-rnn", "digits-cnn"],
)
def test_kill_9_again_and_again_costs_nothing(tmp_path, lives, task, settings, options):
    """At moments that nobody chose, most of them while a checkpoint is being written."""
    if task.endswith("cnn"):
        needs.package("torch")
    seed = secrets.randbits(32)
    print(f"the moments of the kills come from seed {seed}")  # shown where the test fails
    generator = random.Random(seed)
    job = {"settings": settings, "options": options | {"resume": True}}
    began = time.monotonic()
    code, whole = lives.live(task, folder=str(tmp_path / "whole"), **job)
    took = time.monotonic() - began
    assert code == 0, whole
    folder, kills, torn, places, found = tmp_path / "killed", 0, 0, set(), {}
    began = time.monotonic()
    while not found:
        before = steps_kept(folder)[-1:]
        process = lives.start(task, folder=str(folder), **job)
        if kills < 15 and time.monotonic() - began < 20:
            if generator.random() < 0.7:  # else it may be killed before its first step
                wait_for(lambda b=before: steps_kept(folder)[-1:] != b or lives.is_over())
            time.sleep(generator.uniform(0, min(0.05 * took, 0.3)))
            os.kill(process, signal.SIGKILL)
        code, found = lives.end()
        assert code == (0 if found else -signal.SIGKILL), (code, found)
        kills += not found
        torn += any(p.name.startswith(".") for p in folder.rglob("*"))
        places |= set(steps_kept(folder)[-1:])
    print(f"{kills} kills at {len(places)} places, {torn} of them with a file half written")
    assert kills >= 4
    assert len(places) >= 4
    assert found["warnings"] == [], found["warnings"]
    assert untimed(found["run"]) == untimed(whole["run"])
    assert_ended_well(found, folder, tmp_path / "whole")
    assert len(found["run"]["seconds"]) == len(found["run"]["steps"])


@pytest.mark.long
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_again_and_again_cost_not_a_step(tmp_path, lives, name):
    """From outside, in the middle of whatever it is at: no step is lost, and none is made twice."""
    seed = secrets.randbits(32)
    print(f"the moments of the signals come from seed {seed}")
    generator = random.Random(seed)
    epochs = 80  # about two seconds on a quiet machine
    job = {"settings": {"epochs": epochs}, "options": {"resume": True, "checkpoint_steps": 5}}
    code, whole = lives.live("digits", folder=str(tmp_path / "whole"), **job)
    assert code == 0
    folder, made, stops, found = tmp_path / "stopped", [], 0, {}
    while stops < 200:
        process = lives.start("digits", folder=str(folder), **job)
        if stops < 15:
            time.sleep(generator.uniform(0.05, 0.3))
            os.kill(process, getattr(signal, name))
        code, found = lives.end()
        if not found:  # it came before `train` could catch it
            assert (code, name) == (-signal.SIGTERM, "SIGTERM")
            continue
        # One that comes when the run is over ends the process, as it should.
        assert code == 0 or (code == -signal.SIGTERM and found["error"] is None)
        made += found["seen"]
        if found["error"] is None:
            break
        kind, text, where = found["error"]
        assert kind in ("Interrupted", "KeyboardInterrupt"), where
        if kind == "Interrupted":
            stops += 1
            if found["seen"]:
                assert f"{found['seen'][-1]} of {epochs * 34}" in text
                assert steps_kept(folder)[-1] == found["seen"][-1]
    assert stops >= 3
    assert made == list(range(1, epochs * 34 + 1))
    assert untimed(found["run"]) == untimed(whole["run"])
    assert_ended_well(found, folder, tmp_path / "whole")


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.long
def test_signals_before_the_first_step_and_after_the_last(tmp_path, lives):
    for step, name in ((1, "SIGINT"), (38, "SIGTERM")):
        folder = tmp_path / name
        job = {"folder": str(folder), "settings": {"epochs": 2}, "options": {"resume": True}}
        _, found = lives.live(signal=[step, name], **job)
        assert found["error"] is None or found["error"][0] == "Interrupted", found["error"]
        _, found = lives.live(**job)
        _, whole = lives.live(**job | {"folder": str(tmp_path / f"{name}-whole")})
        assert_ended_well(found, folder, tmp_path / f"{name}-whole")
        assert untimed(found["run"]) == untimed(whole["run"])


# Short of disk


@pytest.fixture(params=["limit", "fill"])
def tight(request, tmp_path) -> Iterator[tuple[str, Lives, Path]]:
    """How there is no room, who trains, and where: with a limit of file sizes, and on a disk that is full."""
    outside = tmp_path / "outside"
    outside.mkdir()
    disk = tmp_path / "disk"
    disk.mkdir()
    if request.param == "limit":
        yield "limit", request.getfixturevalue("lives"), disk / "run"
        return
    mount = f"mount -t tmpfs -o size=1m none {disk}"
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        done = subprocess.run([*unshare, "sh", "-c", mount], capture_output=True, text=True)
        reason = done.stderr if done.returncode else ""
    except FileNotFoundError as error:
        reason = str(error)
    if reason:
        needs.lacking(f"no small disk can be mounted here: {reason.strip()}")
    found = Lives(outside, [*unshare, "sh", "-c", f'{mount} && exec "$@"', "sh"], [])
    yield "fill", found, disk / "run"
    found.close()


REASON = {"limit": "File too large", "fill": "No space left on device"}


@pytest.mark.long
def test_a_full_disk_costs_checkpoints_and_not_the_run(tmp_path, tight):
    """Full from step 40 to 80 of 136, with a checkpoint due every 7: they are missed, and it goes on."""
    how, lives, folder = tight
    job = {"settings": {"epochs": 4}, "options": {"checkpoint_steps": 7, "resume": True}}
    _, whole = lives.live("digits", folder=str(tmp_path / "whole"), **job)
    copy = tmp_path / "copy"
    code, found = lives.live(
        "digits", folder=str(folder), tight=[how, 40, 80], copy=str(copy), **job
    )
    assert code == 0
    assert found["error"] is None, found["error"]
    assert found["warnings"]
    for category, text in found["warnings"]:
        assert category == "UserWarning"
        assert REASON[how] in text, text
        assert str(folder) in text, text
    assert any("step-00000000" in text for _, text in found["warnings"])
    assert untimed(found["run"]) == untimed(whole["run"])
    assert_ended_well(found, copy, tmp_path / "whole")


@pytest.mark.long
def test_a_disk_full_to_the_end_is_an_error_and_the_old_checkpoints_stay(tmp_path, tight):
    how, lives, folder = tight
    settings, options = {"epochs": 4}, {"checkpoint_steps": 7, "resume": True}
    job = {"settings": settings, "options": options, "folder": str(folder)}
    _, whole = lives.live("digits", **job | {"folder": str(tmp_path / "whole")})
    copy = tmp_path / "copy"
    code, found = lives.live("digits", tight=[how, 40, 10**6], copy=str(copy), **job)
    assert code == 0
    assert found["error"] is not None
    kind, text, _ = found["error"]
    assert kind == "OSError"
    assert "model.safetensors" in text or "run.json" in text
    assert REASON[how] in text
    assert found["seen"][-1] == 136  # it did not give up training
    assert len(steps_kept(copy)) == 2
    assert max(steps_kept(copy)) <= 40
    kept = checkpoint.newest(copy / "checkpoints")  # whole: no warning, which would be an error
    assert kept is not None
    assert not [p for p in copy.rglob("*") if p.name.startswith(".")]

    freed = tmp_path / "freed"
    shutil.rmtree(copy)
    code, found = lives.live("digits", tight=[how, 10**6, 1], copy=str(freed), **job)
    assert found["error"] is None or how == "fill"
    if how == "fill":  # the filler is still there: give the disk its room back, and go on
        code, found = lives.live("digits", tight=[how, 10**6, max(steps_kept(freed)) + 1], **job)
        code, found = lives.live("digits", copy=str(freed), **job)
    assert found["error"] is None, found["error"]
    assert arrays_in(freed) == arrays_in(tmp_path / "whole")
    assert untimed(found["run"]) == untimed(whole["run"])


# The command line


WORDS = ("digits", "--optimizer", "rmsprop:momentum=0.9:centered=true", "--lr", "0.005",
         "--schedule", "cosine", "--epochs", "40", "--checkpoint-steps", "1")  # fmt: skip


@pytest.mark.long
def test_the_command_is_killed_and_stopped_and_gone_on_with(tmp_path):
    seed = secrets.randbits(32)
    print(f"the moments of the kills come from seed {seed}")
    generator = random.Random(seed)
    folder = tmp_path / "a run"
    words = (*WORDS, "--out", str(folder))
    whole = start("train", *WORDS, "--out", str(tmp_path / "whole"))  # meanwhile
    kinds = [signal.SIGINT, signal.SIGKILL, signal.SIGTERM]
    for k, kind in enumerate(kinds):
        process = start("train", *words, *(["--resume"] if k else []))
        before = steps_kept(folder)[-1:]
        wait_for(lambda p=process, b=before: p.poll() is not None or steps_kept(folder)[-1:] > b)
        assert process.poll() is None, process.communicate()
        time.sleep(generator.uniform(0, 0.3))
        os.killpg(process.pid, kind)
        _, err = process.communicate(timeout=30)
        assert "Traceback" not in err
        assert not (folder / "model.safetensors").exists()
        if kind == signal.SIGKILL:
            assert process.returncode == -kind
        else:
            assert process.returncode == 130, err
            *_, said, again = err.splitlines()
            assert str(folder) in said
            assert again.split()[:2] == ["rmsprop", "train"]
            assert again.split()[-1] == "--resume"
            assert again.count("--resume") == 1

    process = start("train", *words, "--resume")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Warning" not in err
    _, err = whole.communicate(timeout=60)
    assert whole.returncode == 0, err
    assert arrays_in(folder) == arrays_in(tmp_path / "whole")
    records = [json.loads((f / "run.json").read_text()) for f in (folder, tmp_path / "whole")]
    curves = ("steps", "train_loss", "validation_loss", "validation_score", "test_score")
    assert [records[0][c] for c in curves] == [records[1][c] for c in curves]
    assert len(records[0]["steps"]) == 41
    assert not list(folder.rglob(".*"))


@pytest.mark.long
def test_the_command_repeats_a_run_from_its_settings_byte_for_byte(tmp_path):
    words = ("moons", "--optimizer", "rmsprop:momentum=0.9", "--lr", "0.02", "--schedule", "cosine",
             "--epochs", "3", "--batch-size", "16", "--seed", "7", "--patience", "2")  # fmt: skip
    first = start("train", *words, "--out", str(tmp_path / "a"))
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    config = ("--config", str(tmp_path / "a" / "run.toml"), "--out")
    again = start("train", *config, str(tmp_path / "b"))
    other = start("train", *config, str(tmp_path / "c"), "--seed", "8")
    for process in (again, other):
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert arrays_in(tmp_path / "a") == arrays_in(tmp_path / "b")
    assert arrays_in(tmp_path / "a") != arrays_in(tmp_path / "c")
