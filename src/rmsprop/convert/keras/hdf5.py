"""HDF5 files of weights, read as what strangers send: nothing outside the file, no size taken on trust."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rmsprop.convert.checkpoint import Array
from rmsprop.convert.keras.hdf5_headers import claimed

DEPTH, OBJECTS = 32, 100_000
"""How deep groups may lie in each other, and how many objects a file may have."""

_EXPANSION, _SPARE = 100, 16 * 2**20
_FILTERS = {
    1,
    2,
    3,
}  # deflate, shuffle, fletcher32: all that HDF5 has without plugins, but for szip
_NAME_BYTES = 64 * 1024
_HEAP, _PIECE = b"GCOL\1\0\0\0", 2**24
_WRONG = (
    OSError, RuntimeError, LookupError, ValueError, TypeError, OverflowError, MemoryError,
)  # fmt: skip


@dataclass
class Tree:
    """What a file of weights holds.

    Attributes
    ----------
    names
        Of each group, by its path, the name that Keras gives what it stores there; "" where there is none.
    arrays
        Of each dataset, by its path; bfloat16 as NumPy's "V2", two bytes.
    """

    names: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)


def read(source: Path | bytes, called: str) -> Tree:
    """All groups and datasets of a file.

    Parameters
    ----------
    source
        The file, or its bytes.
    called
        What to call it in errors.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is missing, damaged, or holds what no file of weights does: links, external or
        virtual data, filters of plugins, objects with two names, or more than its own size accounts for.
    ModuleNotFoundError
        Without h5py.
    """
    h5py = imported()
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"{called} is not there")
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    try:
        with (
            source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as raw,
            h5py.File(source if isinstance(source, Path) else io.BytesIO(source), "r") as file,
        ):
            _check_heaps(source, size)
            walk = _Walk(h5py, size, raw)
            walk.group(file, "", 0)
    except _WRONG as e:
        text = str(e.args[0] if isinstance(e, KeyError) and e.args else e)
        raise ValueError(
            f"{called} is damaged, or not a file of weights: {text}; save it again"
        ) from e
    return walk.tree


def write(tree: Tree) -> bytes:
    """The bytes of a file that holds this, as Keras lays it out."""
    h5py = imported()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for path, name in tree.names.items():
            group = file.require_group(path or "/")
            if name:
                group.attrs["name"] = name
        for path, array in tree.arrays.items():
            dataset = file.create_dataset(path, data=array)
            if array.dtype == "V2":
                dataset.attrs["dtype"] = "bfloat16"
    return buffer.getvalue()


def numbers(array: Array, called: str) -> Array:
    """A dataset as float32 or float64, exactly.

    Raises ValueError for integers, which are no parameters or state of an optimizer.

    Examples
    --------
    >>> numbers(np.float16([0.5]), "w").dtype.name
    'float32'
    """
    if array.dtype == "V2":
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if array.dtype in (np.float32, np.float64):
        return array
    if array.dtype == np.float16:
        return array.astype(np.float32)
    raise ValueError(
        f"{called} has the dtype {array.dtype}: parameters and state are floating point"
    )


def stored(array: Array, dtype: np.dtype[Any], called: str) -> Array:
    """An array in the dtype of a file's dataset, "V2" for bfloat16.

    Raises ValueError where that would round it.

    Examples
    --------
    >>> stored(np.float64([0.5]), np.dtype("float32"), "w").dtype.name
    'float32'
    """
    if array.dtype == dtype:
        return np.asarray(array, order="C")
    if dtype == "V2":
        single = np.asarray(array, np.float32, order="C")
        cast = (single.view(np.uint32) >> 16).astype(np.uint16).view("V2")
        name, back = "bfloat16", numbers(cast, called)
    else:
        with np.errstate(over="ignore"):
            cast = np.asarray(array, dtype, order="C")
        name, back = dtype.name, cast
    if not np.array_equal(back.astype(array.dtype), array, equal_nan=True):
        raise ValueError(
            f"{called} is {array.dtype}, and the template keeps {name}, which would round it: "
            f"give a template of {array.dtype}"
        )
    return cast


def imported() -> Any:
    """The module h5py; ModuleNotFoundError with the remedy where it is not installed."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        if error.name != "h5py":
            raise
        raise ModuleNotFoundError(
            "Keras's files need h5py: pip install 'rmsprop[convert]'", name="h5py"
        ) from error
    return h5py


def _check_heaps(source: Path | bytes, size: int) -> None:
    """Raise ValueError for a heap of strings that HDF5's own library would walk for ever.

    It goes on by the size of each object, also where that is 0, or wraps around to 0.
    """
    left = size + 2**20  # no two heaps lie on the same bytes
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        start, tail = 0, b""
        while piece := file.read(_PIECE):
            piece, start = tail + piece, start - len(tail)
            place = piece.find(_HEAP)
            while place >= 0:
                left -= _check_heap(file, start + place, size, left)
                place = piece.find(_HEAP, place + 1)
            start, tail = start + len(piece), piece[1 - len(_HEAP) :]
            file.seek(start)


def _check_heap(file: BinaryIO, place: int, size: int, left: int) -> int:
    """The bytes of the heap at a place."""
    file.seek(place + len(_HEAP))
    length = int.from_bytes(file.read(8), "little")
    if not 16 <= length <= min(left, size - place):
        raise ValueError("a heap of strings is broken")
    content, at = file.read(length - 16), 0
    while at + 16 <= len(content):
        step = int.from_bytes(content[at + 8 : at + 16], "little")
        if content[at : at + 2] != b"\0\0":  # else it is the free space
            step = 16 + (step + 7) // 8 * 8
        if not 0 < step <= len(content) - at:
            raise ValueError("a heap of strings is broken")
        at += step
    return length


class _Walk:
    """One pass over a file, which counts what it takes."""

    def __init__(self, h5py: Any, size: int, raw: BinaryIO):
        self.h5py, self.size, self.raw = h5py, size, raw
        self.tree = Tree()
        self.seen: set[Any] = set()
        self.contiguous = self.chunked = 0

    def group(self, group: Any, path: str, depth: int) -> None:
        if depth > DEPTH:
            raise ValueError(f"groups lie more than {DEPTH} deep")
        self.once(group, path)
        self.tree.names[path] = self.text(group, "name")
        if len(group) > OBJECTS:
            raise ValueError(f"it has more than {OBJECTS} objects")
        for name in group:
            if not isinstance(name, str):
                raise ValueError(f"a name in {path or 'it'} is not UTF-8")
            below = f"{path}/{name}" if path else name
            if group.id.links.get_info(name.encode()).type != self.h5py.h5l.TYPE_HARD:
                raise ValueError(f"{below} is a link to somewhere else, which is not followed")
            item = group[name]
            if isinstance(item, self.h5py.Group):
                self.group(item, below, depth + 1)
            elif isinstance(item, self.h5py.Dataset):
                self.once(item, below)
                self.tree.arrays[below] = self.dataset(item, below)
            else:
                raise ValueError(f"{below} is neither a group nor a dataset")

    def once(self, item: Any, path: str) -> None:
        """A second name for an object may be a cycle, and no file of weights has one."""
        info = self.h5py.h5o.get_info(item.id)
        if (info.fileno, info.addr) in self.seen:
            raise ValueError(f"{path} is another name of an object that was read")
        self.seen.add((info.fileno, info.addr))
        if len(self.seen) > OBJECTS:
            raise ValueError(f"it has more than {OBJECTS} objects")

    def text(self, item: Any, name: str) -> str:
        """An attribute that is one string; "" where there is none."""
        attribute = item.attrs.get_id(name) if name in item.attrs else None
        if attribute is None:
            return ""
        one = attribute.get_space().get_simple_extent_npoints() == 1
        kind = attribute.get_type().get_class()
        address = self.h5py.h5o.get_info(item.id).addr
        long = max(attribute.get_storage_size(), claimed(self.raw, address, name)) > _NAME_BYTES
        if not one or kind != self.h5py.h5t.STRING or long:
            raise ValueError(f"{item.name} has an attribute {name!r} that is not one string")
        value = item.attrs[name]
        return value.decode() if isinstance(value, bytes) else str(value)

    def dataset(self, dataset: Any, path: str) -> Array:
        kind, width = dataset.id.get_type().get_class(), dataset.id.get_type().get_size()
        h5t = self.h5py.h5t
        half = kind == h5t.OPAQUE and width == 2 and self.text(dataset, "dtype") == "bfloat16"
        if not half and (kind not in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM) or width > 8):
            raise ValueError(f"{path} does not hold numbers")
        plist = dataset.id.get_create_plist()
        if dataset.is_virtual or dataset.external or plist.get_external_count():
            raise ValueError(f"{path} has its data in another file, which is not followed")
        filters = [plist.get_filter(k)[0] for k in range(plist.get_nfilters())]
        if not _FILTERS.issuperset(filters):
            raise ValueError(f"{path} is packed with a filter of a plugin")
        self.claim(dataset, path, width)
        array = np.asarray(dataset[()])
        if half:
            return array
        if array.dtype.kind not in "iufb":
            raise ValueError(f"{path} does not hold numbers")
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def claim(self, dataset: Any, path: str, width: int) -> None:
        """Refuse a size that the file cannot hold, before any memory is taken for it."""
        if dataset.shape is None:
            raise ValueError(f"{path} is empty")
        bytes_ = width
        for n in dataset.shape:  # Python's integers, which do not overflow
            bytes_ *= int(n)
        if dataset.chunks is None:
            self.contiguous += bytes_
            if self.contiguous > self.size:
                raise ValueError(f"{path} claims {bytes_} bytes of a file of {self.size}")
            return
        chunk = width
        for n in dataset.chunks:
            chunk *= int(n)
        self.chunked += max(bytes_, chunk)
        if self.chunked > _EXPANSION * self.size + _SPARE:
            raise ValueError(f"{path} claims {bytes_} bytes, packed in a file of {self.size}")
