"""A process that trains for tests of resuming: every life of a run is a fork of it, with everything loaded.

Its arguments are modules to import first. It reads one JSON job a line. For each it forks, answers with the
process's id, and waits for another line before it says how that process ended: until then the id is nobody
else's, and a signal may be sent to it.

A job:

    folder, task, settings, rule     what `train` gets; settings are those of `Task.of`
    options                          its further keyword arguments
    result                           file in which the life writes what it came to; none if it was killed
    signal                           [step, name]: sends itself this signal once so many updates are made
    kill_at_change                   n: SIGKILL just before it changes the folder for the n-th time
    tight                            [how, from, to]: between those steps no large file can be written; how is
                                     "limit" (none above 4,000 bytes: EFBIG) or "fill" (a full disk: ENOSPC)
    copy                             a folder that it is copied to at the end, from a disk that no other sees
"""

import importlib
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

from rmsprop import Rule
from rmsprop.tasks import Task
from rmsprop.train import train

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def changes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """Whether an audited event is about to change a file under the folder."""
    if event == "open" and not arguments[2] & WRITING:
        return False
    if event != "open" and event not in CHANGES:
        return False
    paths = [os.fsdecode(x) for x in arguments[:2] if isinstance(x, str | bytes | os.PathLike)]
    return any(path.startswith(folder) for path in paths)


def kill_at_change(which: int, folder: str) -> None:
    """From the interpreter's own audit events: Python asks before each change, and this never answers."""
    count = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if changes(event, arguments, folder) and next(count) == which:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


class Tight:
    """A callback that takes the room on the disk away after one step and gives it back after another."""

    def __init__(self, when: tuple[str, int, int], folder: Path):
        self.how, self.first, self.last = when
        self.filler = folder.parent / "filler"
        self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def __call__(self, moment: Any) -> None:
        if moment.step == self.first:
            self._limit(4000) if self.how == "limit" else self._fill()
        elif moment.step == self.last:
            self._limit(self.hard)
            self.filler.unlink(missing_ok=True)

    def _limit(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.hard))

    def _fill(self) -> None:
        with self.filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(512))
            except OSError:
                pass


def one_life(job: dict[str, Any]) -> None:
    """Train, and write what came of it."""
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder, seen, sent = Path(job["folder"]), [], []

    def watch(moment: Any) -> None:
        if (
            not moment.measured
        ):  # a run may go on at the measurement after a step that another life made
            seen.append(moment.step)
        if job.get("signal") and not sent and moment.step == job["signal"][0]:
            sent.append(True)
            os.kill(os.getpid(), getattr(signal, job["signal"][1]))

    callbacks: list[Any] = [watch]
    if job.get("tight"):
        callbacks.append(Tight(job["tight"], folder))
    if job.get("kill_at_change"):
        kill_at_change(job["kill_at_change"], str(folder))
    found: dict[str, Any] = {"run": None, "error": None, "seen": seen, "warnings": []}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            task, rule = Task.of(job["task"], **job.get("settings", {})), Rule(**job["rule"])
            run = train(task, rule, folder=folder, callbacks=callbacks, **job.get("options", {}))
            found["run"] = run.to_dict()
        except BaseException as error:
            found["error"] = [type(error).__name__, str(error), traceback.format_exc()]
    found["warnings"] = [[w.category.__name__, str(w.message)] for w in told]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    if job.get("copy"):
        shutil.copytree(folder, job["copy"], dirs_exist_ok=True)
    Path(job["result"]).write_text(json.dumps(found), encoding="utf-8")


def live(job: dict[str, Any]) -> NoReturn:
    """The whole of a fork: it must not come back to the loop that made it."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        one_life(job)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    for name in sys.argv[1:]:
        importlib.import_module(name)
    train(Task.of("moons", epochs=1), Rule(lr=0.01, momentum=0.9, centered=True))  # loads kernels
    print("ready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            live(json.loads(line))
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
