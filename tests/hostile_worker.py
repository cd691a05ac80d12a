"""What test_convert_hostile.py runs in processes of their own, under limits of time and memory.

python hostile_worker.py fuzz FOLDER COUNT KIND...    COUNT mutated files of each kind, read one by one
python hostile_worker.py look FOLDER                  each file of the folder is refused, or read harmlessly
python hostile_worker.py write FOLDER full|raise      every kind is written where that fails half way
python hostile_worker.py kill FOLDER                  every kind is written by processes that are killed

It ends with a line of JSON; the file `now` in the folder names what was being read, should it die.
"""

import contextlib
import faulthandler
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hostile_mutations import lay, mutated
from hostile_samples import SAMPLES, Files, checkpoint, of_folder
from rmsprop import convert
from rmsprop.convert.checkpoint import Checkpoint
from rmsprop.convert.describe import described
from rmsprop.convert.translation import LAYOUTS

SECONDS, MEMORY, KILLS = 5.0, 3 * 2**30, 4
TOLD: dict[str, Any] = {"lr": 0.01, "momentum": 0.9}  # what some kinds do not say


# What is done with each.


def tried(path: Path, rng: Any) -> str:
    """Read a file, translate and describe it; what went wrong that may not, "" for nothing, and "read" """
    try:
        found = convert.read(path, **TOLD)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        if type(error) not in (ValueError, FileNotFoundError) or str(path) not in text:
            return f"{type(error).__name__} that does not name the file: {text[:300]}"
        return (
            "refused" if len(text) < 3000 else f"a message of {len(text)} characters: {text[:200]}"
        )
    json.dumps(described(found))
    shown(found)
    for kind in rng.choice([*LAYOUTS], 2, replace=False):
        try:
            convert.translate(found, str(kind))
        except ValueError as error:
            if type(error) is not ValueError:
                raise
    return "read"


def shown(found: Checkpoint) -> None:
    """The tables of the command line, without raw control characters."""
    from rmsprop import console_convert

    output, sys.stdout = sys.stdout, io.StringIO()
    try:
        console_convert.show_file(described(found) | {"file": "a"})
        text = sys.stdout.getvalue()
    finally:
        sys.stdout = output
    bad = {c for c in text if not c.isprintable() and c != "\n"}
    if bad:
        raise AssertionError(f"raw characters {sorted(bad)} in the output")


def limit(name: int, value: int) -> None:
    resource.setrlimit(name, (value, resource.getrlimit(name)[1]))


def warmed(folder: Path, wanted: list[str]) -> dict[str, Files]:
    """The samples, each read once, so that all is loaded before memory is limited."""
    found = {}
    for kind in wanted:
        place = folder / kind
        place.mkdir()
        found[kind] = {k or "a": x for k, x in SAMPLES[kind][1](place).items()}
        said = tried(lay(folder, kind, found[kind]), np.random.default_rng(0))
        assert said == "read", (kind, said)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit(resource.RLIMIT_AS, used + MEMORY)
    return found


def fuzz(folder: Path, count: int, wanted: list[str]) -> dict[str, Any]:
    samples, wrong, tally = warmed(folder, wanted), [], {}
    now = os.open(folder / "now", os.O_WRONLY | os.O_CREAT)
    for kind in wanted:
        raw = samples[kind] if len(samples[kind]) > 1 else {"": next(iter(samples[kind].values()))}
        start = time.process_time()
        for k in range(count):
            rng = np.random.default_rng([k, *kind.encode()])
            os.pwrite(now, f"{kind} {k}".ljust(40).encode(), 0)
            path = lay(folder, kind, mutated(kind, raw, rng))
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                said = tried(path, rng)
            except Exception as error:
                trace = error.__traceback__
                while trace and trace.tb_next:
                    trace = trace.tb_next
                at = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
                said = f"{type(error).__name__}: {str(error)[:300]} at {at}"
            faulthandler.cancel_dump_traceback_later()
            tally[f"{kind} {said}" if said in ("read", "refused") else f"{kind} wrong"] = (
                tally.get(f"{kind} {said}" if said in ("read", "refused") else f"{kind} wrong", 0)
                + 1
            )
            if said not in ("read", "refused"):
                wrong.append(f"{kind} {k}: {said}")
        tally[f"{kind} seconds"] = round(time.process_time() - start, 2)
    return {"wrong": wrong[:50], "tally": tally}


def look(folder: Path) -> dict[str, Any]:
    """Read each file or folder in "cases"; what came of it, in which time, with how much more memory."""
    wanted = ["torch", "legacy", "sb3", "numpy", "keras", "weights", "tf1", "msgpack", "orbax"]
    warmed(folder, wanted)
    found = {}
    for path in sorted((folder / "cases").iterdir()):
        (folder / "now").write_text(path.name)
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory is counted anew
        before, start = resident("VmRSS"), time.perf_counter()
        faulthandler.dump_traceback_later(60, exit=True)
        try:
            said, text = tried(path, np.random.default_rng(0)), ""
        except Exception as error:
            said, text = type(error).__name__, str(error)[:300]
        seconds, memory = time.perf_counter() - start, resident("VmHWM") - before
        text = refusal(path) if said == "refused" else text
        faulthandler.cancel_dump_traceback_later()
        found[path.name] = {"said": said, "text": text, "seconds": seconds, "MB": memory / 1e6}
    return found


def refusal(path: Path) -> str:
    try:
        convert.read(path, **TOLD)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


def resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


TARGETS = {
    "torch": ("a.pt", "torch", "torch"),
    "bitsandbytes": ("a.pt", "bitsandbytes", "torch"),
    "sb3": ("a.zip", "sb3", "torch"),
    "keras": ("a.keras", "keras", "keras"),
    "weights": ("a.weights.h5", "keras", "keras"),
    "tf1": ("a", "tf1", "tf1"),
    "msgpack": ("a.msgpack", "optax", "optax"),
    "orbax": ("a", "optax", "optax"),
    "numpy": ("a.safetensors", "numpy", "keras"),
}
"""Of each kind of target: its name, `to`, and the dialect of what is written."""


def written(kind: str, folder: Path, lr: float) -> Path:
    """Write the sample, at a learning rate by which the files differ; where to."""
    name, to, dialect = TARGETS[kind]
    made = checkpoint("bitsandbytes" if kind == "bitsandbytes" else to, dialect)
    made.groups = [g | {"lr": lr} for g in made.groups]
    like: Path | None = None
    if kind in ("keras", "weights", "sb3"):
        like = folder.parent / f"like{SAMPLES['keras' if kind == 'weights' else kind][0]}"
    if kind == "sb3":
        made = convert.read(like, lr=lr)
    convert.write(made, folder / name, to, like=like, accept=["precision"])
    return folder / name


def write(folder: Path, how: str) -> dict[str, Any]:
    """Write each kind once, and again while that fails: the first must stay, and nothing be left over."""
    wrong = []
    templates(folder)
    for kind in TARGETS:
        place = folder / f"in_{kind}"
        place.mkdir()
        written(kind, place, 0.01)
        before = of_folder(place)
        for cut in (0, 100, 0.3, 0.7, 0.97):
            size = int(cut if cut > 1 or not cut else cut * max(map(len, before.values())))
            failed = False
            with failing(how, size):
                try:
                    written(kind, place, 0.02)
                except OSError as error:
                    failed = True
                    if how == "full" and "cannot be written" not in str(error):
                        wrong.append(f"{kind} {cut}: {error}")
                except Stop:
                    failed = True
            after = of_folder(place)
            if failed and after != before:
                wrong.append(f"{kind} {cut}: {sorted(after)} are not as {sorted(before)} were")
            elif not failed and cut < 0.9:
                wrong.append(f"{kind} {cut}: it did not fail")
            elif not failed:
                before = after
        if convert.read(place / TARGETS[kind][0], **TOLD).step not in (2, 7, None):
            wrong.append(f"{kind}: not what was written")
    return {"wrong": wrong}


class Stop(BaseException):
    """As Ctrl-C, at a place that is chosen."""


@contextlib.contextmanager
def failing(how: str, size: int) -> Iterator[None]:
    """No file may grow beyond a size; or what comes after the last byte is interrupted."""
    sync, rename, renamed = os.fsync, Path.rename, []

    def stop(descriptor: int) -> None:
        raise Stop

    def stopped(
        path: Path, target: Path
    ) -> Path:  # Orbax's folder: the old one away, the new one there
        renamed.append(target)
        if len(renamed) == (2 if size else 1):
            raise Stop
        return rename(path, target)

    if how == "full":
        limit(resource.RLIMIT_FSIZE, size)
    else:
        os.fsync, Path.rename = stop, stopped  # type: ignore[method-assign]
    try:
        yield
    finally:
        limit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        os.fsync, Path.rename = sync, rename  # type: ignore[method-assign]


def templates(folder: Path) -> None:
    for kind in ("keras", "sb3"):
        lay(folder, kind, SAMPLES[kind][1](folder)).rename(folder / f"like{SAMPLES[kind][0]}")


def kill(folder: Path) -> dict[str, Any]:
    """Processes that write over and over are killed: what is there reads as the old file or the new one."""
    templates(folder)
    rng, copies, wrong = np.random.default_rng(0), [], []
    for kind in TARGETS:
        place = folder / f"in_{kind}"
        place.mkdir()
        for k in range(KILLS):
            ready, go = os.pipe()
            child = os.fork()
            if not child:
                for lr in (0.01, 0.02) * 1000:
                    written(kind, place, lr)
                    os.write(go, b".")
                os._exit(0)
            os.close(go)
            os.read(ready, 1)  # until it has written once
            time.sleep(rng.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(ready)
            copies.append((kind, folder / f"{kind}_{k}"))
            shutil.copytree(place, copies[-1][1])
    # Only now, for reading Orbax's folders starts threads, and a process with threads is not to be forked.
    for kind, place in copies:
        try:
            found = convert.read(
                place / TARGETS[kind][0], **({} if kind not in ("tf1", "weights") else TOLD)
            )
            names = [p.name for p in place.iterdir()]
            others = [n for n in names if not n.startswith((".", TARGETS[kind][0]))]
            if len(found.entries) < 4 or others:
                wrong.append(f"{kind}: {len(found.entries)} parameters, and {others}")
        except (ValueError, OSError) as error:
            wrong.append(f"{kind}: {error}")
    return {"wrong": wrong, "killed": len(copies)}


def main() -> None:
    faulthandler.enable()
    warnings.simplefilter("error")
    what, folder, *rest = sys.argv[1:]
    os.environ["TMPDIR"] = str(Path(folder) / "tmp")
    Path(os.environ["TMPDIR"]).mkdir()
    if what == "fuzz":
        found = fuzz(Path(folder), int(rest[0]), rest[1:])
    elif what == "look":
        found = look(Path(folder))
    elif what == "kill":
        found = kill(Path(folder))
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        found = write(Path(folder), rest[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
