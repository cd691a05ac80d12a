"""Checkpoints: a folder that holds the two newest states of a run, each checked before it is believed."""

import contextlib
import hashlib
import json
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
_RESULTS = ("model.safetensors", "run.json")


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
    header = json.loads(json.dumps(header))  # as it will be read
    digest = _digest(arrays, header)
    files.save_arrays(path, arrays, {"kind": KIND, "sha256": digest, "content": header})
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
    arrays, found = files.load_arrays(path, KIND)
    header = found.get("content")
    if not isinstance(header, dict) or found.get("sha256") != _digest(arrays, header):
        raise ValueError(f"{path} is damaged: its content does not have the SHA-256 that it names")
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


def _digest(arrays: Arrays, header: dict[str, Any]) -> str:
    """A hash of every bit that counts."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {a.dtype} {a.shape};".encode())
        found.update(a.view(np.uint8).data if a.size and a.ndim else a.tobytes())
    return found.hexdigest()


class Keeper:
    """The folder of one run: when a checkpoint is due, and what is written where.

    Parameters
    ----------
    folder
        Checkpoints go to its folder `checkpoints`.
    seconds
        Least time between checkpoints.
    steps
        Updates between them; None goes by the clock alone.
    """

    def __init__(self, folder: str | Path, seconds: float = 30.0, steps: int | None = None):
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self._seconds, self._steps = seconds, steps
        self._next = time.monotonic() + seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in _RESULTS:
            _sweep(self.folder, f"{name}.*")

    def set_aside(self) -> None:
        """Move checkpoints and result of an earlier run to `checkpoints.bak`, whose content gives way."""
        if not any(self.checkpoints.glob(_PATTERN)):
            return
        aside = self.folder / "checkpoints.bak"
        shutil.rmtree(aside, ignore_errors=True)
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
