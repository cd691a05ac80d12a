"""Checkpoints: a folder that holds the two newest states of a run, each checked before it is believed."""

import contextlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import files

Arrays = dict[str, np.ndarray[Any, Any]]
KIND = "rmsprop checkpoint"
MODEL = "rmsprop model"
KEPT = 2
_PATTERN = "step-*.safetensors"
# All that a training and its report write beside the checkpoints.
_RESULTS = (
    "model.safetensors", "run.json", "run.toml", "report.html", "picture.png", "sheet.png", "progress",
    "tensorboard",
)  # fmt: skip


def save(folder: str | Path, arrays: Arrays, header: dict[str, Any]) -> Path:
    """Write a checkpoint as a whole or not at all, and drop all but the two newest.

    Parameters
    ----------
    folder
        Made if it is not there.
    arrays
        By name.
    header
        JSON-able; `header["step"]` names the file.

    Raises
    ------
    OSError
        Where it cannot be written, as on a full disk; the older ones stay as they were.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(folder, {"w": np.ones(2)}, {"step": 7})
    ...     arrays, header, _ = newest(folder)
    >>> path.name, arrays["w"].tolist(), header["step"]
    ('step-0000000007.safetensors', [1.0, 1.0], 7)
    """
    folder = Path(folder)
    path = folder / _name(header["step"])
    files.save_arrays(path, arrays, {"kind": KIND} | header)
    known = _by_step(folder)
    # Those beyond this step were damaged, or this run would have gone on from them.
    kept = sorted(step for step in known if step <= header["step"])[-KEPT:]
    for step in set(known) - set(kept):
        known[step].unlink()
    return path


def newest(folder: str | Path) -> tuple[Arrays, dict[str, Any], Path] | None:
    """The newest checkpoint that is whole, or None where there is none.

    A damaged one is passed over with a UserWarning that gives the reason.

    Raises
    ------
    ValueError
        Where there are checkpoints and all are damaged.
    """
    _sweep(Path(folder), _PATTERN)
    reasons = []
    for _, path in sorted(_by_step(Path(folder)).items(), reverse=True):
        try:
            arrays, header = read(path)
        except (ValueError, OSError) as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            warnings.warn(f"{reason}; going on from {path.name}, the one before", stacklevel=2)
        return arrays, header, path
    if reasons:
        raise ValueError(
            f"no checkpoint in {folder} is whole: {'; '.join(reasons)}. Start again without --resume "
            "(resume=False), which moves them aside"
        )
    return None


def read(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the header of one checkpoint.

    Raises
    ------
    ValueError
        For a file that is cut short, changed in any bit, or not a checkpoint.
    """
    arrays, header = files.load_arrays(path, KIND)
    if Path(path).name != _name(header["step"]):
        raise ValueError(f"{path} is a copy of step {header['step']} under another name")
    return arrays, header


def _name(step: int) -> str:
    return f"step-{step:010d}.safetensors"


def _by_step(folder: Path) -> dict[int, Path]:
    """The checkpoints in a folder by the steps in their names."""
    found = {path: re.fullmatch(r"step-(\d{10,})", path.stem) for path in folder.glob(_PATTERN)}
    return {int(match[1]): path for path, match in found.items() if match}


def _sweep(folder: Path, pattern: str) -> None:
    """Remove what a process was writing when it was killed."""
    for stray in folder.glob(f".{pattern}"):
        stray.unlink(missing_ok=True)


class Keeper:
    """The folder of one run, which has it to itself: when a checkpoint is due, and what is written where.

    Parameters
    ----------
    folder
        Checkpoints go to its folder `checkpoints`.
    seconds
        Least time between checkpoints.
    steps
        Updates between them; None goes by the clock alone.

    Raises
    ------
    OSError
        Where the folder cannot be made, or another training is at work in it.
    """

    def __init__(self, folder: str | Path, seconds: float = 30.0, steps: int | None = None):
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self._seconds, self._steps = seconds, steps
        self._next = time.monotonic() + seconds
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"the folder {folder} cannot be made: {error}") from error
        self._lock = _locked(self.folder)
        for name in _RESULTS:
            _sweep(self.folder, f"{name}.*")

    def close(self) -> None:
        """Let another training have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def set_aside(self) -> None:
        """Move checkpoints and result of an earlier run to `checkpoints.bak`, whose content gives way."""
        if not (any(self.checkpoints.glob(_PATTERN)) or (self.folder / _RESULTS[0]).exists()):
            return
        aside = self.folder / "checkpoints.bak"
        shutil.rmtree(aside, ignore_errors=True)
        self.checkpoints.mkdir(exist_ok=True)
        self.checkpoints.replace(aside)
        for name in _RESULTS:
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).replace(aside / name)

    def newest(self, settings: dict[str, Any]) -> tuple[Arrays, dict[str, Any]] | None:
        """The newest whole checkpoint, of a run with these settings.

        Raises ValueError for one with others, with what differs; and as `newest`.
        """
        found = newest(self.checkpoints)
        if found is None:
            return None
        arrays, header, path = found
        ours, theirs = json.loads(json.dumps(settings)), header["settings"]
        if differ := _differences(theirs, ours):
            raise ValueError(
                f"{path} is of another run: {'; '.join(differ)}. Go on with the settings of that run, or "
                "start anew without --resume (resume=False)"
            )
        return arrays, header

    def due(self, step: int) -> bool:
        """Whether to write a checkpoint after this step."""
        return time.monotonic() >= self._next or (
            self._steps is not None and step % self._steps == 0
        )

    def checkpoint(self, arrays: Arrays, header: dict[str, Any]) -> None:
        """Write a checkpoint; where that fails the run goes on, with a UserWarning."""
        began = time.monotonic()
        self._try(lambda: save(self.checkpoints, arrays, header))
        took = time.monotonic() - began
        self._next = time.monotonic() + max(self._seconds, 20 * took)

    def record(self, run: dict[str, Any]) -> None:
        """Write `run.json`, the record so far, in the same way."""
        self._try(lambda: files.write_text(self.folder / "run.json", _json(run)))

    def finish(self, arrays: Arrays, about: dict[str, Any], run: dict[str, Any]) -> None:
        """Write the result: `model.safetensors`, the parameters; and `run.json`. OSError where that fails."""
        params = {k: a for k, a in arrays.items() if k.startswith("params/")}
        files.save_arrays(self.folder / "model.safetensors", params, {"kind": MODEL} | about)
        files.write_text(self.folder / "run.json", _json(run))

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as error:
            warnings.warn(
                f"no checkpoint could be written: {error}; the ones before stay, and the run goes on",
                stacklevel=4,
            )


def _locked(folder: Path) -> int | None:
    """A descriptor of the folder, locked until closed or this process ends; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OSError(
            f"another training is at work in {folder}: wait for it, or take another folder (--out)"
        ) from None
    return descriptor


def _json(run: dict[str, Any]) -> str:
    return json.dumps(run, indent=1, allow_nan=False)


def _differences(theirs: dict[str, Any], ours: dict[str, Any], where: str = "") -> list[str]:
    """In words, each setting that is not the same."""
    found = []
    for key in sorted(set(theirs) | set(ours)):
        a, b = theirs.get(key), ours.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{where}{key}.")
        elif a != b:
            found.append(f"{where}{key} is {a!r} there, {b!r} here")
    return found
