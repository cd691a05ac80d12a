"""Searches in processes of their own: `python search_worker.py` reads a job a line and forks each.

A fork, as loading Optuna takes longer than most of these searches. What is read: a job as JSON, answered by
its process id; or "end PID", answered by its exit code, negative for a signal.
"""

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmsprop.search import study as studies
from rmsprop.search.loop import run_trials
from rmsprop.search.storage import open_storage
from rmsprop.search.workers import Here, Processes
from rmsprop.space import space_of


@dataclass(frozen=True)
class Logged:
    """An objective that writes each evaluation down, and may be held up at one config.

    Attributes
    ----------
    folder
        Where "log" has a line for each evaluation, and "held" the process id of one that waits until there
        is a file "go".
    hold
        The config at which it waits; None for none.
    seconds
        That each evaluation takes.
    """

    folder: str
    hold: dict[str, Any] | None = None
    seconds: float = 0.0

    def __call__(self, config: dict[str, Any], report: Any) -> float:
        value = value_of(config)
        line = json.dumps({"config": config, "pid": os.getpid()}) + "\n"
        with open(f"{self.folder}/log", "a", encoding="utf-8") as file:
            file.write(line)
        report(0, value)
        if config == self.hold and not Path(self.folder, "go").exists():
            Path(self.folder, "held").write_text(str(os.getpid()))
            while not Path(self.folder, "go").exists():
                time.sleep(0.01)
        time.sleep(self.seconds)
        return value


def value_of(config: dict[str, Any]) -> float:
    """What `Logged` returns."""
    return sum((x - 0.3) ** 2 for x in config.values())


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """The configs that were evaluated, in order."""
    return [json.loads(line)["config"] for line in (folder / "log").read_text().splitlines()]


def search(job: dict[str, Any]) -> None:
    """One search; `job` has storage, space, budget, folder, and may have method, jobs, hold, seconds."""
    objective = Logged(job["folder"], job.get("hold"), job.get("seconds", 0.0))
    storage = open_storage(job["storage"])
    method = job.get("method", "grid")
    study = studies.Study(storage, "s", space_of(job["space"]), method=method)
    workers = Processes(objective, job["jobs"]) if job.get("jobs", 1) > 1 else Here(objective)
    run_trials(study, workers, job["budget"])


def life(job: dict[str, Any]) -> int:
    """A forked process's: its errors go to a file, so that nobody waits for a pipe."""
    errors = os.open(f"{job['folder']}/errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    try:
        search(job)
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def main() -> None:
    """Fork a life for each job that is read."""
    print("ready", flush=True)
    for line in sys.stdin:
        if line.startswith("end "):
            with contextlib.suppress(ChildProcessError):
                _, status = os.waitpid(int(line.split()[1]), 0)
                print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os._exit(life(json.loads(line)))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
