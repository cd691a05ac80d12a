"""Orbax folders with an Optax state in them.

Orbax writes them. They are read by TensorStore, as Orbax does, but one array after the other and once it is
known what they claim: where one of many fails that Orbax has begun to read, the others go on behind its
closed event loop, and each of them prints a traceback.
"""

import contextlib
import copy
import importlib
import json
import logging
import math
import os
import re
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import Checkpoint
from rmsprop.convert.optax import states, trees

# An array may claim this many times the folder's bytes, and so many beyond.
RATIO, BEYOND = 100, 16_000_000
_MOST_FILES = 100_000
_TREE = "_METADATA"  # lies where a tree does
_STEP = re.compile(r"(?:.*_)?(\d{1,18})")
_USUAL = ("default", "state", "train_state")
_PATIENCE = 600.0  # seconds, for one array

# How Orbax describes a tree: the type of a key that is an index, and the kinds of leaves that are no arrays.
_INDEX = 1
_EMPTY: dict[str, Any] = {"None": None, "Dict": {}, "List": [], "Tuple": None, "NamedTuple": None}
_WORDS = ("string", "str")
Keys = tuple[tuple[str, bool], ...]


def read(path: Path, told: dict[str, Any]) -> Checkpoint:
    """The parameters and the state in a folder of Orbax's.

    Parameters
    ----------
    path
        What StandardCheckpointer or PyTreeCheckpointer wrote, a CheckpointManager's step, or its folder of
        steps, of which the last is taken.
    told
        As in `states.of_state`.

    Raises
    ------
    FileNotFoundError, ModuleNotFoundError
        Without the folder; without Orbax.
    ValueError
        For a damaged folder, or one with links in it, or arrays that claim over 100 times the folder's size
        and 16 MB, and as `states.of_state`.
    """
    tree, notes = restored(path)
    try:
        made = states.of_state(tree, told=told)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    made.notes.extend(notes)
    return made


def write(path: Path, checkpoint: Checkpoint, like: Path | None) -> None:
    """Write parameters and state for Orbax's StandardCheckpointer; as a whole or not at all.

    Parameters
    ----------
    path
        The folder. One of Orbax's is replaced; any other that is there is refused.
    checkpoint
        Translated to the rule that is to go on.
    like
        A folder of the same kind, whose tree is kept and whose arrays are replaced. Default: as
        `states.fresh` says.

    Raises
    ------
    OSError, ModuleNotFoundError
        Where the folder cannot be written; without Orbax.
    ValueError
        Where something else is in its place, and as `states.into_state` and `states.fresh`.
    """
    path, orbax = Path(os.path.abspath(path)), _needed("orbax.checkpoint")
    if os.path.lexists(path) and not (_is_tree(path) or _is_empty(path)):
        raise ValueError(
            f"{path} is there, and no folder of one Orbax tree: name another, or remove it"
        )
    if like is None:
        tree = states.fresh(checkpoint)
    else:
        template, _ = restored(like)
        try:
            tree = states.into_state(checkpoint, template)
        except ValueError as error:
            raise ValueError(f"{like}: {error}") from error
    _check_leaves(tree)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    try:
        _saved(work / "new", tree, orbax)
        if os.path.lexists(path):
            path.rename(work / "old")
        try:
            (work / "new").rename(path)
        except BaseException:
            if (work / "old").exists() and not os.path.lexists(path):
                (work / "old").rename(path)
            raise
    except BaseException as error:  # Ctrl-C too leaves nothing over
        _remove(work)
        if isinstance(error, OSError):
            raise OSError(f"{path} cannot be written: {error}") from error
        raise
    shutil.rmtree(work, ignore_errors=True)


def _saved(path: Path, tree: Any, orbax: Any) -> None:
    """Save a tree that was checked; what then goes wrong is the disk's, and OSError."""
    try:
        with _quiet(), orbax.Checkpointer(orbax.StandardCheckpointHandler()) as saver:
            saver.save(path, args=orbax.args.StandardSave(tree))
    except Exception as error:  # TensorStore gives ValueError for a full disk
        raise OSError(_first_line(error)) from error


def _remove(work: Path) -> None:
    """Remove a folder, also where Orbax has failed and its threads still put files into it."""
    for pause in (0.0, 0.05, 0.2, 0.5, 1.0):
        time.sleep(pause)
        if not work.exists():
            return
        shutil.rmtree(work, ignore_errors=True)


def _check_leaves(tree: Any) -> None:
    """Raise ValueError for what Orbax would refuse half way: its threads would go on writing."""
    for where, x in trees.leaves(trees.plain(tree)):
        if not (hasattr(x, "dtype") and np.asarray(x).dtype.kind in "biu") and type(x) not in (
            int,
            bool,
        ):
            trees.widened(x, "/".join(where))


def restored(path: Path) -> tuple[Any, list[str]]:
    """The tree in a folder, dicts and lists of NumPy arrays, and what is to say of how it was found.

    Raises as `read`.
    """
    notes: list[str] = []
    _needed("tensorstore")
    path = Path(os.path.abspath(path))
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{path} does not exist")
    size = _size(path)
    folder = path
    if not _is_tree(folder) and not _items(folder):
        folder = _last_step(folder)
        notes.append(f"of several steps the last is taken, {folder.name}")
    items = [folder] if _is_tree(folder) else _items(folder)
    usual = [item for item in items if item.name in _USUAL]
    if len(items) > 1 and usual:
        items = usual[:1]
    if len(items) > 1 and "opt_state" not in [item.name for item in items]:
        shown = ", ".join(item.name for item in items[:6])
        raise ValueError(f"{path} holds several trees ({shown}): give the folder of one")
    found = {item.name: _tree(item, size, path) for item in items}
    return (found[items[0].name] if len(items) == 1 else found), notes


def _needed(name: str) -> Any:
    """The imported module; Orbax brings TensorStore."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}: Orbax's folders need orbax-checkpoint: pip install 'rmsprop[convert]'",
            name=error.name,
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Orbax and TensorStore say on the way; errors are raised all the same."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _is_tree(folder: Path) -> bool:
    return (folder / _TREE).is_file()


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _items(folder: Path) -> list[Path]:
    """The trees right inside a step's folder."""
    return sorted(item for item in folder.iterdir() if item.is_dir() and _is_tree(item))


def _last_step(folder: Path) -> Path:
    """The step of the highest number in a CheckpointManager's folder."""
    steps = {
        int(match[1]): child
        for child in folder.iterdir()
        if (match := _STEP.fullmatch(child.name))
        and (_is_tree(child) or (child.is_dir() and _items(child)))
    }
    if not steps:
        raise ValueError(
            f"{folder} is no folder of Orbax's: no {_TREE} in it, its steps or its items"
        )
    return steps[max(steps)]


def _size(path: Path) -> int:
    """The bytes in a folder; ValueError for what is no plain file, as a link, or a pipe that never ends."""
    if not path.is_dir():
        raise ValueError(f"{path} is no folder, as Orbax writes")
    total, count = 0, 0
    for root, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = os.lstat(os.path.join(root, name))
            count += 1
            if count > _MOST_FILES:
                raise ValueError(
                    f"{path} holds more than {_MOST_FILES} files: give one step's folder"
                )
            if not (stat.S_ISREG(entry.st_mode) or stat.S_ISDIR(entry.st_mode)):
                raise ValueError(
                    f"{path} holds {os.path.join(root, name)}, a link or no plain file, which is not "
                    "followed: copy what it stands for"
                )
            total += entry.st_size if stat.S_ISREG(entry.st_mode) else 0
    return total


class _DamagedError(Exception):
    """What is wrong with a folder."""


def _tree(item: Path, size: int, path: Path) -> Any:
    """One tree, read once what it claims is known."""
    try:
        text = json.loads((item / _TREE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its {_TREE} is no JSON: {error}") from error
    try:
        stores = {}
        kinds = dict(_described(text))
        for keys, kind in kinds.items():
            if kind not in _EMPTY and kind not in _WORDS:
                stores[keys] = _opened(item, ".".join(key for key, _ in keys), text)
        _check_claims(list(stores.values()), size)
        found = {keys: _content(store, keys) for keys, store in stores.items()}
        for keys, kind in kinds.items():
            found.setdefault(keys, copy.copy(_EMPTY.get(kind, kind)))
        return _built(found)
    except _DamagedError as error:
        raise ValueError(f"{path} is damaged or no tree of Orbax's: {error}") from error


def _described(text: Any) -> Iterator[tuple[Keys, str]]:
    """The way to each leaf, each key with whether it is an index, and what kind of leaf it is."""
    table = text.get("tree_metadata") if isinstance(text, dict) else None
    if not isinstance(table, dict):
        raise _DamagedError(f"its {_TREE} has no tree_metadata")
    for row in table.values():
        try:
            keys = tuple((str(k["key"]), k["key_type"] == _INDEX) for k in row["key_metadata"])
            yield keys, str(row["value_metadata"]["value_type"])
        except (KeyError, TypeError) as error:
            raise _DamagedError(f"its {_TREE} does not describe a leaf: {error!r}") from None


def _opened(item: Path, name: str, text: dict[str, Any]) -> Any:
    """An array's store, of which nothing is read yet but its shape."""
    tensorstore = _needed("tensorstore")
    folder: dict[str, Any] = {"driver": "file", "path": f"{item}/"}
    if text.get("use_ocdbt", (item / "manifest.ocdbt").exists()):
        store = {"driver": "ocdbt", "base": folder, "path": f"{name}/"}
    elif (item / name).resolve().is_relative_to(item.resolve()):
        store = {"driver": "file", "path": f"{item / name}/"}
    else:
        raise _DamagedError(f"the array {name[:80]!r} lies outside of it")
    spec: dict[str, Any] = {
        "driver": "zarr3" if text.get("use_zarr3") else "zarr",
        "kvstore": store,
    }
    if text.get("store_array_data_equal_to_fill_value") is True:
        spec["fill_missing_data_reads"] = False  # what is missing is lost, and not zeros
    try:
        return tensorstore.open(spec, open=True, read=True).result(timeout=_PATIENCE)
    except Exception as error:  # TensorStore raises all kinds, for what is in the folder
        raise _DamagedError(
            f"the array {name[:80]!r} cannot be opened: {_first_line(error)}"
        ) from error


def _content(store: Any, keys: Keys) -> Any:
    """What is in an array's store."""
    name = "/".join(key for key, _ in keys)
    try:
        return np.asarray(store.read().result(timeout=_PATIENCE))
    except Exception as error:  # as above
        raise _DamagedError(
            f"the array {name[:80]!r} cannot be read: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def _check_claims(stores: list[Any], size: int) -> None:
    """Raise where the arrays, or the pieces that they are stored in, would be too large."""
    limit, total = RATIO * size + BEYOND, 0
    for store in stores:
        kind = store.dtype.numpy_dtype
        if kind.hasobject or kind.kind not in "biufcV":
            raise _DamagedError(f"it holds an array of {store.dtype.name}")
        pieces = store.chunk_layout.read_chunk.shape or store.shape
        whole = [
            -(-n // max(piece, 1)) * piece for n, piece in zip(store.shape, pieces, strict=True)
        ]
        total += kind.itemsize * max(math.prod(store.shape), math.prod(whole))
        if total > limit:
            raise _DamagedError(
                f"it claims arrays of over {total:,} bytes, with {size:,} in its files: more than {RATIO} "
                f"times that and {BEYOND:,} is not read"
            )


def _built(leaves: dict[Keys, Any]) -> Any:
    """Dicts and lists, from the way to each leaf."""
    if list(leaves) == [()]:
        return leaves[()]
    parts: dict[tuple[str, bool], dict[Keys, Any]] = {}
    for keys, leaf in leaves.items():
        if not keys or len(keys) > trees.DEEPEST:
            raise _DamagedError("a leaf has others below it, or over 100 levels above")
        parts.setdefault(keys[0], {})[keys[1:]] = leaf
    names = [name for name, _ in parts]
    if len(set(names)) < len(names):
        raise _DamagedError("a node is both a list and a dict")
    if any(index for _, index in parts):
        places = {(str(k), True): k for k in range(len(parts))}
        if set(parts) != set(places):
            raise _DamagedError(f"a list has the places {', '.join(names[:8])}")
        return [_built(parts[key]) for key in places]
    return {name: _built(below) for (name, _), below in parts.items()}
