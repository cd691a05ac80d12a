"""TensorFlow's V2 checkpoints, read and written without TensorFlow.

PREFIX.index is a sorted table as LevelDB writes them: blocks of keys, each given by what it does not share
with the key before it, and a footer that says where the block of blocks lies.  Its values are protocol
buffers: the first describes the checkpoint, each other one tensor, which lies as plain numbers in one
of PREFIX.data-00000-of-00001 and the like.  Every block and every tensor has a CRC-32C.

Source: tensorflow/core/util/tensor_bundle and tensorflow/core/lib/io/table_format.txt.
"""

import math
import re
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.convert.tensorflow.crc32c import crc32c, masked
from rmsprop.convert.tensorflow.tables import (
    MAGIC,
    Damaged,
    fields,
    nested,
    signed,
    slice_key,
    table,
)

Array = np.ndarray[Any, Any]

MOST_ELEMENTS, MOST_DIMENSIONS, LONGEST_NAME, LARGEST_INDEX = 1 << 47, 32, 4096, 1 << 27

READ = {1: "f4", 2: "f8", 3: "i4", 9: "i8", 14: "u2", 19: "f2"}
"""TensorFlow's numbers of data types, and how those lie in the file that are read."""
WRITTEN = {"float32": 1, "float64": 2, "int32": 3, "int64": 9}
BFLOAT16, HALF = 14, 19
TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64",
    9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128", 19: "float16", 20: "resource",
    21: "variant", 22: "uint32", 23: "uint64",
}  # fmt: skip
V1_REMEDY = (
    "load it in TensorFlow with tf.compat.v1.train.Saver and save it anew with "
    "tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V2)"
)


@dataclass
class Item:
    """What the index says of one tensor."""

    dtype: int
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: list[list[tuple[int, int]]] = field(default_factory=list)

    @property
    def type_name(self) -> str:
        """In TensorFlow's words."""
        return TYPES.get(self.dtype, f"type {self.dtype}")


def read_bundle(prefix: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors of a checkpoint by name, and of those that are no such numbers, the type by name.

    float32, float64, int32 and int64 as they are, float16 and bfloat16 widened to float32; a variable
    that was partitioned comes whole.  Every checksum is verified.

    Parameters
    ----------
    prefix
        The path that was given to `Saver.save`, with the step that it appended: without ".index".

    Raises
    ------
    FileNotFoundError
        Where the index or a shard is not there.
    ValueError
        For a file that is damaged in any bit, or is no such checkpoint.

    Examples
    --------
    >>> import tempfile
    >>> from rmsprop.convert.tensorflow.bundle_writing import write_bundle
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bundle(f"{folder}/model", {"w": np.ones(2)})
    ...     read_bundle(f"{folder}/model")
    ({'w': array([1., 1.])}, {})
    """
    items, shards = read_index(prefix)
    found: dict[str, Array] = {}
    try:
        plain = {key: item for key, item in items.items() if item.dtype in READ and not item.slices}
        _check_apart([*plain.values()])
        for key, item in plain.items():
            found[key] = _load(shard_path(prefix, item.shard, shards), item, key)
        for key, item in items.items():
            if item.slices and item.dtype in READ and not _is_slice(key):
                found[key] = _join(key, item, found, items)
    except Damaged as error:
        raise ValueError(
            f"{prefix} is damaged, {error}: copy all its files again, or save it anew"
        ) from error
    skipped = {
        k: item.type_name for k, item in items.items() if k not in found and not _is_slice(k)
    }
    kept = [key for key in items if key in found and not _is_slice(key)]
    return {key: _wide(found.pop(key), items[key].dtype) for key in kept}, skipped


def read_index(prefix: str | Path) -> tuple[dict[str, Item], int]:
    """What the index says of each tensor, slices of partitioned ones included, and the number of shards.

    Raises FileNotFoundError and ValueError as `read_bundle`; the data is not looked at.

    Examples
    --------
    >>> import tempfile
    >>> from rmsprop.convert.tensorflow.bundle_writing import write_bundle
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bundle(f"{folder}/model", {"w": np.ones((2, 3))})
    ...     items, shards = read_index(f"{folder}/model")
    >>> items["w"].shape, shards
    ((2, 3), 1)
    """
    path = Path(f"{prefix}.index")
    if not path.is_file():
        raise _no_index(Path(prefix))
    try:
        with path.open("rb") as file:
            size = min(path.stat().st_size, LARGEST_INDEX)
            raw = file.read(size)  # a larger one does not end as a table
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    try:
        entries = table(raw)
        key, header = next(entries, (b"?", b""))
        if key:
            raise Damaged("its first entry is not the header")
        shards = _header(header)
        items = {_name(key): _item(value) for key, value in entries}
    except Damaged as error:
        raise ValueError(
            f"{path} is not a TensorFlow checkpoint's index, or is damaged, {error}: copy it again, or "
            "save the checkpoint anew"
        ) from error
    return items, shards


def _name(key: bytes) -> str:
    if len(key) > LONGEST_NAME:
        raise Damaged(f"a name has {len(key)} bytes")
    try:
        # A slice's key is no text, and is not shown to anybody.
        return key.decode("utf-8", "surrogateescape" if key.startswith(b"\0") else "strict")
    except UnicodeDecodeError:
        raise Damaged(f"a name, {key[:80]!r}, is not UTF-8") from None


def shard_path(prefix: str | Path, shard: int, shards: int) -> Path:
    """Where a shard lies.

    Examples
    --------
    >>> shard_path("model", 0, 1).name
    'model.data-00000-of-00001'
    """
    return Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}")


def _no_index(prefix: Path) -> Exception:
    parts = sorted(prefix.parent.glob(f"{escaped(prefix.name)}-?????-of-?????"))
    for path in [prefix, *parts[:1]]:
        if path.is_file():
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - 8))
                if file.read(8) == struct.pack("<Q", MAGIC):
                    return ValueError(f"{path} is a V1 checkpoint of TensorFlow: {V1_REMEDY}")
            return ValueError(
                f"{path} is not a TensorFlow checkpoint: {prefix}.index is not there, and it is no V1 "
                "checkpoint either"
            )
    return FileNotFoundError(
        f"{prefix}.index does not exist: name a checkpoint by the prefix of its files, as model.ckpt-100"
    )


def escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


# The index's messages.


def _header(raw: bytes) -> int:
    known = dict(fields(raw))
    if signed(known.get(2, 0)):
        raise Damaged("its numbers are big-endian, which is not read here")
    shards = signed(known.get(1, 0))
    if not 0 < shards < 100_000:
        raise Damaged(f"it names {shards} shards")
    return shards


def _item(raw: bytes) -> Item:
    item = Item(0)
    for number, value in fields(raw):
        if number == 2:
            item.shape = _shape(nested(value))
        elif number == 7:
            item.slices.append(_slice(nested(value)))
        elif number in (1, 3, 4, 5, 6):
            name = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "crc"}[number]
            setattr(item, name, signed(value))
    if min(item.shard, item.offset, item.size) < 0:
        raise Damaged("an entry lies before the start of its file")
    return item


def _shape(raw: bytes) -> tuple[int, ...]:
    found = []
    for number, value in fields(raw):
        if number == 2:
            found.append(signed(dict(fields(nested(value))).get(1, 0)))
    if len(found) > MOST_DIMENSIONS or min(found, default=0) < 0:
        raise Damaged(f"a shape with {len(found)} dimensions, the least {min(found, default=0)}")
    if math.prod(max(n, 1) for n in found) > MOST_ELEMENTS:
        raise Damaged(f"a shape of {found}")
    return tuple(found)


def _slice(raw: bytes) -> list[tuple[int, int]]:
    """Start and length of each dimension, length -1 for all of it."""
    found = []
    for number, value in fields(raw):
        if number == 1:
            known = dict(fields(nested(value)))
            found.append((signed(known.get(1, 0)), signed(known.get(2, -1 % (1 << 64)))))
    return found


# Partitioned variables: a slice has an entry of its own, whose key is name and slice in "ordered code".


def _is_slice(key: str) -> bool:
    return key.startswith("\0")


def _join(name: str, item: Item, found: dict[str, Array], items: dict[str, Item]) -> Array:
    sizes = []
    for part in item.slices:
        key = slice_key(name, part)
        if key not in found or len(part) != len(item.shape):
            raise Damaged(f"a slice of {name!r} is missing")
        if items[key].dtype != item.dtype:
            raise Damaged(f"a slice of {name!r} has another type")
        sizes.append(found[key].size)
    if sum(sizes) != math.prod(item.shape):
        raise Damaged(f"the slices of {name!r} do not make up its shape")
    whole = np.empty(item.shape, found[slice_key(name, item.slices[0])].dtype)
    seen = np.zeros(item.shape, bool)
    for part in item.slices:
        place = tuple(
            slice(start, None if length < 0 else start + length) for start, length in part
        )
        piece = found.get(slice_key(name, part))
        if piece is None or whole[place].shape != piece.shape or seen[place].any():
            raise Damaged(f"the slices of {name!r} do not fit together")
        whole[place], seen[place] = piece, True
    return whole


# The data.


def _check_apart(items: list[Item]) -> None:
    """No two tensors share bytes: so all of them together are no larger than the files."""
    ends: dict[int, int] = {}
    for item in sorted(items, key=lambda item: item.offset):
        if item.size and item.offset < ends.get(item.shard, 0):
            raise Damaged("two tensors lie on the same bytes")
        ends[item.shard] = item.offset + item.size


def _load(path: Path, item: Item, name: str) -> Array:
    kind = np.dtype(f"<{READ[item.dtype]}")
    if math.prod(item.shape) * kind.itemsize != item.size:
        raise Damaged(f"{name!r} of {item.size} bytes cannot be {item.type_name}{item.shape}")
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise Damaged(f"{path.name} is no file")
        if item.offset + item.size > info.st_size:
            raise Damaged(f"{name!r} lies beyond the end of {path.name}")
        found = np.fromfile(path, kind, math.prod(item.shape), offset=item.offset)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: a checkpoint is all its files, copy them together"
        ) from None
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read: {error}") from error
    if found.nbytes != item.size or masked(crc32c(found)) != item.crc:
        raise Damaged(f"{name!r} does not have the checksum that the index names")
    return found.reshape(item.shape)


def _wide(a: Array, dtype: int) -> Array:
    if dtype == BFLOAT16:
        return (a.astype(np.uint32) << 16).view(np.float32)
    return a.astype(np.float32) if dtype == HALF else a


# Writing.
