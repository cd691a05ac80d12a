"""Trained folders that several test files look at, each made once in a process; and the command itself."""

import atexit
import functools
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import needs
from rmsprop import cli, tasks


class Result(NamedTuple):
    code: int
    out: str
    err: str


def rmsprop(*words: str, stdin: str = "") -> Result:
    """The command in this process, without a terminal."""
    streams = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rmsprop", *words])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        patch.setenv("COLUMNS", "80")
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
    out, err = (stream.getvalue() for stream in streams)
    return Result(code if isinstance(code, int) else int(code is not None), out, err)


def train(folder: Path, *words: str) -> Path:
    result = rmsprop("train", *words, "--out", str(folder))
    assert result.code == 0, result.err
    return folder


def forget() -> None:
    """Load data anew, as another process would."""
    tasks._load.cache_clear()


def write_reviews(path: Path, rows: int = 60) -> Path:
    """Texts whose class one word says; one of them is a web page."""
    words = {"good": "lovely", "bad": "dull", "so-so": "passable"}
    lines = ["label\ttext"]
    for i in range(rows):
        label = list(words)[i % 3]
        page = "<script>alert(1)</script>" if i % 4 == 0 else "the film"
        lines.append(f"{label}\tthis is {page} number {i % 7}, {words[label]} indeed")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_pictures(path: Path, rows: int = 60, side: int = 8) -> Path:
    """Dark pictures with one bright row, which says the class."""
    y = np.arange(rows) % 3
    x = np.random.default_rng(1).uniform(0, 60, (rows, side, side))
    x[np.arange(rows), 2 + y] += 180
    np.savez(path, x=x.astype(np.uint8), y=np.array(["top", "middle", "low"])[y])
    return path


def write_rent(path: Path, rows: int = 100) -> Path:
    x = np.random.default_rng(0).normal(size=(rows, 2))
    lines = [f"{a!r},{b!r},{3 * a - 2 * b + 1.5!r}" for a, b in x.tolist()]
    path.write_text("a,b,target\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


class Made(NamedTuple):
    """A trained folder, and the file of its data, if it has one."""

    folder: Path
    data: Path | None = None


@functools.cache
def home() -> Path:
    """A folder that is removed at the end."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


WORDS: dict[str, tuple[str, ...]] = {
    "moons": ("moons", "--epochs", "3", "--lr", "0.01"),
    "digits": ("digits", "--epochs", "4"),
    "digits-cnn": ("digits-cnn", "--epochs", "3", "--hidden", "16", "--lr", "0.003"),
    "rent": ("--epochs", "5"),
    "films": ("--epochs", "12", "--lr", "0.02", "--hidden", "16", "--batch-size", "8"),
    "bars": ("--epochs", "10"),
}
"""Of each trained folder, the words after `rmsprop train`; of the last three after their data."""


@functools.cache
def made(name: str) -> Made:
    """The trained folder of that name; it may be looked at, and not changed."""
    if name == "digits-cnn":
        needs.package("torch")
    write = {
        "rent": (write_rent, "csv"),
        "films": (write_reviews, "tsv"),
        "bars": (write_pictures, "npz"),
    }
    words, data = WORDS[name], None
    if name in write:
        make, ending = write[name]
        data = make(home() / f"{name}.{ending}")
        words = (str(data), *words)
    return Made(train(home() / name, *words), data)
