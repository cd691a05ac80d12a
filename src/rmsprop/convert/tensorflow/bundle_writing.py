"""Writing TensorFlow's V2 checkpoints, whose form `bundle` describes."""

import struct
from pathlib import Path

import numpy as np

from rmsprop.convert.tensorflow.bundle import WRITTEN, Array, escaped, shard_path
from rmsprop.convert.tensorflow.crc32c import crc32c, masked
from rmsprop.convert.tensorflow.tables import number_bytes, table_bytes
from rmsprop.files import replacing


def write_bundle(prefix: str | Path, arrays: dict[str, Array]) -> None:
    """Write a checkpoint of one shard, which TensorFlow's Saver restores.

    The index takes its place last and at once, so that there is at any moment the old checkpoint or the new
    one: over an old one, the new shard has a name that the old one's has not, PREFIX.data-00000-of-00002,
    and the old shards are removed at the end.

    Parameters
    ----------
    prefix
        As for `read_bundle`.
    arrays
        By name: float32, float64, int32 or int64, of any shape.

    Raises
    ------
    ValueError
        For another type or a name that TensorFlow has not.
    OSError
        Where the files cannot be written; what was there before is kept.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bundle(f"{folder}/model", {"w": np.ones(2), "step": np.array(3)})
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['model.data-00000-of-00001', 'model.index']
    """
    prefix = Path(prefix)
    named = sorted((_key(name), _plain(name, a)) for name, a in arrays.items())
    old = _shards(prefix)
    count = next(n for n in range(1, len(old) + 2) if shard_path(prefix, 0, n) not in old)
    data = shard_path(prefix, 0, count)
    try:
        with replacing(data) as temporary, temporary.open("wb") as file:
            items, place = [], 0
            for key, a in named:
                a.tofile(file)
                items.append((key, _item_bytes(a, place)))
                place += a.nbytes
        with replacing(f"{prefix}.index") as temporary:
            temporary.write_bytes(table_bytes([(b"", _header_bytes(count)), *items]))
    except BaseException:
        data.unlink(missing_ok=True)
        raise
    for path in old:
        path.unlink(missing_ok=True)


def _shards(prefix: Path) -> list[Path]:
    return [*prefix.parent.glob(f"{escaped(prefix.name)}.data-?????-of-?????")]


def _key(name: str) -> bytes:
    if not name or "\0" in name or not name.isprintable():
        raise ValueError(f"TensorFlow has no variable named {name!r}: give it another name")
    return name.encode()


def _plain(name: str, a: Array) -> Array:
    a = np.asarray(a)
    if a.dtype.name not in WRITTEN:
        raise ValueError(f"{name} is {a.dtype}: {', '.join(WRITTEN)} can be written")
    return np.asarray(a, a.dtype.newbyteorder("<"), order="C")


def _header_bytes(shards: int) -> bytes:
    return b"\x08" + number_bytes(shards) + b"\x1a\x02\x08\x01"  # little-endian, version 1


def _item_bytes(a: Array, offset: int) -> bytes:
    shape = b""
    for n in a.shape:
        size = b"\x08" + number_bytes(n)
        shape += b"\x12" + number_bytes(len(size)) + size
    found = b"\x08" + number_bytes(WRITTEN[a.dtype.name])
    found += b"\x12" + number_bytes(len(shape)) + shape
    found += b"\x20" + number_bytes(offset) + b"\x28" + number_bytes(a.nbytes)
    return found + b"\x35" + struct.pack("<I", masked(crc32c(a)))
