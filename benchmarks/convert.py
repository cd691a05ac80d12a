"""Optimizer state from one framework's file to another's, in GB/s of what is read.

Eight dense layers with 25 million float32 parameters, v and b: 300 MB from each file, translated (kernels
turned between Keras's order and PyTorch's, Optax's buffer negated) and written, with fsync, to the same
disk.  The limit is a program that reads the file and writes as many bytes, with fsync.  Before anything is
timed, a smaller one goes through all files and comes back to the bit.

Targets: half of the limit where nothing is turned, a quarter where kernels are.

    python benchmarks/convert.py [--quick] [--json [FILE]]
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np

from rmsprop import Rule, convert
from rmsprop.convert import Checkpoint, Entry
from tables import Report, main

LIMIT = "read and write the same bytes"
RULE = Rule.from_dialect("keras", lr=2.0**-7, momentum=0.75)
STEP = 100  # which Optax's state does not say
FILES = {"numpy": "state.safetensors", "torch": "state.pt", "keras": "state.keras", "tf1": "state-1",
         "optax": "state.msgpack"}  # fmt: skip
# Between equal orders, and between Keras's and PyTorch's.
STRAIGHT = [("torch", "numpy"), ("keras", "tf1"), ("tf1", "optax"), ("optax", "keras")]
TURNED = [("keras", "torch"), ("torch", "keras"), ("tf1", "torch")]


def made(width: int, layers: int) -> Checkpoint:
    """A checkpoint in Keras's order and names."""
    rng = np.random.default_rng(0)
    entries = {}
    for k in range(layers):
        for part, shape in (("kernel", (width, width)), ("bias", (width,))):
            value, v, b = (rng.random(shape, np.float32) for _ in range(3))
            entries[f"dense{k}/{part}"] = Entry({"v": v, "b": b}, value, role=part)
    return Checkpoint("keras", "keras", [RULE.to_dict()], entries, STEP, "keras")


def template(width: int, layers: int, folder: Path) -> Path:
    """A .keras file of the model, which knows nothing yet."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((width,)),
            *[keras.layers.Dense(width, name=f"dense{k}") for k in range(layers)],
        ]
    )
    model.compile(keras.optimizers.RMSprop(RULE.lr, momentum=RULE.momentum), loss="mse")
    model.optimizer.build(model.trainable_variables)
    model.save(folder / "like.keras")
    return folder / "like.keras"


class Files:
    """One checkpoint as a file of each framework."""

    def __init__(self, folder: Path, width: int, layers: int):
        self.folder, self.like = folder, template(width, layers, folder)
        self.source = made(width, layers)
        for kind in FILES:
            self.write(self.source, kind, folder)

    def write(self, found: Checkpoint, kind: str, folder: Path) -> Path:
        like = self.like if found.layout == "torch" or kind == "keras" else None
        like = None if kind == "numpy" else like
        convert.write(found, folder / FILES[kind], kind, like=like, step=STEP)
        return folder / FILES[kind]

    def path(self, kind: str) -> Path:
        return self.folder / FILES[kind]

    def size(self, kind: str) -> int:
        return sum(p.stat().st_size for p in self.folder.glob(f"{FILES[kind]}*"))

    def run(self, source: str, target: str) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            self.write(convert.read(self.path(source), **told()), target, Path(scratch))

    def copy(self, source: str) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            for k, path in enumerate(self.folder.glob(f"{FILES[source]}*")):
                with (Path(scratch) / str(k)).open("wb") as file:
                    file.write(path.read_bytes())
                    file.flush()
                    os.fsync(file.fileno())


def told() -> dict[str, Any]:
    """What not every file says."""
    return {"lr": RULE.lr, "momentum": RULE.momentum}


def verify() -> None:
    """Stop unless each file, read again, holds the same bits."""
    with tempfile.TemporaryDirectory() as scratch:
        files = Files(Path(scratch), 16, 2)
        for kind in FILES:
            found = convert.read(files.path(kind), **told())
            turned = kind == "torch"
            for name, a in files.source.entries.items():
                there = name.replace("/kernel", ".weight").replace("/bias", ".bias")
                b = found.entries[there if turned else name]
                for slot in ("v", "b"):
                    x = b.slots[slot].T if turned else b.slots[slot]
                    if not np.array_equal(a.slots[slot], x):
                        raise RuntimeError(f"{kind}: {slot} of {name} came back otherwise")


def measure(report: Report) -> None:
    verify()
    width, layers = (64, 2) if report.quick else (1768, 8)
    with tempfile.TemporaryDirectory() as scratch:
        files = Files(Path(scratch), width, layers)
        for case, pairs, part in (
            ("in the same order", STRAIGHT, 0.5),
            ("between Keras's order and PyTorch's", TURNED, 0.25),
        ):
            contenders: dict[str, Callable[[], Any]] = {LIMIT: lambda: files.copy("torch")}
            for a, b in pairs:
                contenders[f"{a} to {b}"] = lambda a=a, b=b: files.run(a, b)
            times = report.race(contenders, 7)
            gigabytes = files.size("torch") / 1e9
            notes = {
                name: f"{gigabytes / float(np.median(seconds)):.2f} GB/s"
                for name, seconds in times.seconds.items()
            }
            slowest = min((times.ratio(LIMIT, name), name) for name in contenders if name != LIMIT)
            title, column = f"{gigabytes:.2f} GB {case}", "x the limit"
            report.table(title, times, base=LIMIT, limit=LIMIT, notes=notes, column=column)
            claim = f"convert {case}: the slowest ({slowest[1]}) over the limit"
            report.target(claim, slowest[0], at_least=part)


if __name__ == "__main__":
    main("convert", __doc__, measure)
