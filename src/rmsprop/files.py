"""Files that are replaced as a whole or not at all, and arrays in safetensors files with a JSON header."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

Array = np.ndarray[Any, Any]


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well.

    Raises OSError where the folder cannot be written; the old file stays then, and nothing is left over.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "a.txt") as temporary:
    ...         _ = temporary.write_text("done")
    ...     (Path(folder) / "a.txt").read_text()
    'done'
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix
        )
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        try:
            yield temporary
        except OSError as error:
            if error.errno is None:  # of what the block does beside writing, as a download
                raise
            raise OSError(
                f"{path} cannot be written: {error}"
            ) from error  # a full disk names no file
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp's 0600 is for secrets
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_arrays(path: str | Path, arrays: dict[str, Array], header: dict[str, Any]) -> None:
    """Write arrays by name, and a JSON header, to one safetensors file, with a SHA-256 over both.

    Raises OSError where the file cannot be written; what was there before is kept.
    """
    with replacing(path) as temporary:
        # In C order, for it writes others as they lie in memory; and not by its save_file, which leaves a
        # temporary file of its own where the process is killed.
        plain = {name: np.asarray(a, order="C") for name, a in arrays.items()}
        # The hash goes into the one header, as of several the order in the file would change by chance.
        header = {"sha256": _digest(plain, header)} | header
        temporary.write_bytes(safetensors.numpy.save(plain, {"rmsprop": json.dumps(header)}))


def load_arrays(path: str | Path, *kinds: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays and the header that `save_arrays` wrote, whose header says one of these kinds.

    Raises FileNotFoundError, and ValueError for a file of another kind, or one that is damaged in any bit.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("rmsprop", "{}"))
            found = header.get("kind") if isinstance(header, dict) else None
            if found not in kinds:
                raise ValueError(
                    f"{path} does not hold a {' or a '.join(kinds)}; it says {found!r}"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.pop("sha256", None) != _digest(arrays, header):
            raise ValueError(f"{path} is damaged: it does not have the SHA-256 that it names")
        return arrays, header
    except FileNotFoundError:
        raise
    except (safetensors.SafetensorError, json.JSONDecodeError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error


def _digest(arrays: dict[str, Array], header: dict[str, Any]) -> str:
    """A hash of every bit that counts."""
    found = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(arrays):
        a = arrays[name]
        found.update(f"{name} {a.dtype} {a.shape};".encode())
        found.update(a.tobytes())
    return found.hexdigest()
