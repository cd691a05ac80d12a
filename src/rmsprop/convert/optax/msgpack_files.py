"""Flax's msgpack files with an Optax state in them, read and written by `msgpack` alone."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import Checkpoint
from rmsprop.convert.optax import states
from rmsprop.convert.optax.trees import BFLOAT16, DEEPEST, Array
from rmsprop.files import replacing

# As flax.serialization has them: the types of its extension of msgpack, and above which size, in bytes, an
# array is cut in pieces.
ARRAY, COMPLEX, SCALAR = 1, 2, 3
CHUNK = 2**30
_CHUNKED = "__msgpack_chunked_array__"

# Flax writes dicts, and msgpack reserves room for as many items as an array claims, on every level.
_LONGEST = 10_000
_LARGE = 2**16
_NAMES = (
    "int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
)
_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in _NAMES.split()}
_DTYPES |= {"bool": np.dtype(bool), "bfloat16": BFLOAT16}


def read(path: Path, told: dict[str, Any]) -> Checkpoint:
    """The parameters and the state in a file of `flax.serialization.to_bytes` or `msgpack_serialize`.

    Parameters
    ----------
    path
        The file.
    told
        As in `states.of_state`.

    Raises
    ------
    FileNotFoundError, ModuleNotFoundError
        Without the file; without msgpack.
    ValueError
        For a damaged file, and as `states.of_state`.

    Examples
    --------
    >>> import tempfile
    >>> state = {"opt_state": [{"nu": {"w": np.ones(2, np.float32)}}, {}, {}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.msgpack").write_bytes(packed(state))
    ...     read(Path(folder) / "a.msgpack", {}).entries["w"].slots
    {'v': array([1., 1.], dtype=float32)}
    """
    tree = unpacked(path)
    try:
        return states.of_state(tree, told=told)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(path: Path, checkpoint: Checkpoint, like: Path | None) -> None:
    """Write parameters and state for `flax.serialization.from_bytes`; as a whole or not at all.

    Parameters
    ----------
    path
        The file, which is replaced.
    checkpoint
        Translated to the rule that is to go on.
    like
        A file of the same kind, whose tree is kept and whose arrays are replaced. Default: as
        `states.fresh` says.

    Raises
    ------
    OSError, ModuleNotFoundError
        Where the file cannot be written; without msgpack.
    ValueError
        As `states.into_state` and `states.fresh`.
    """
    if like is None:
        tree = states.fresh(checkpoint)
    else:
        template = unpacked(like)
        try:
            tree = states.into_state(checkpoint, template)
        except ValueError as error:
            raise ValueError(f"{like}: {error}") from error
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(_pieces(_state_dict(tree)))


def packed(tree: Any) -> bytes:
    """A tree as Flax packs its state dict: sequences as dicts "0", "1", ...

    Examples
    --------
    >>> len(packed({"w": [np.zeros(3, np.float32)]}))
    34
    """
    return b"".join(_pieces(_state_dict(tree)))


def unpacked(path: Path) -> Any:
    """The tree in a file, whose arrays are no larger than what the file holds of them.

    bfloat16 arrays are of the type `optax_trees.BFLOAT16`. Raises as `read`.
    """
    msgpack = _msgpack()
    try:
        with Path(path).open("rb") as file:
            # A state is a map: what is not is told by a byte, however large it is.
            head = file.read(1)
            if not (b"\x80" <= head <= b"\x8f" or head in (b"\xde", b"\xdf")):
                raise ValueError(
                    f"{path} is damaged or no msgpack file: it does not begin with a map; write it with "
                    "flax.serialization.to_bytes"
                )
            file.seek(0)
            content = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    try:
        # TypeError and OverflowError: for a key that is a list, and for a time out of range.
        raw = msgpack.unpackb(
            content, strict_map_key=False, max_array_len=min(len(content), _LONGEST)
        )
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or no msgpack file: {error or type(error).__name__}; write it with "
            "flax.serialization.to_bytes"
        ) from error
    try:
        return _decoded(raw, msgpack, 0)
    except _DamagedError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


class _DamagedError(Exception):
    """What is wrong with a part of a file."""


def _msgpack() -> Any:
    try:
        import msgpack
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}: Flax's files need msgpack: pip install 'rmsprop[convert]'", name=error.name
        ) from error
    return msgpack


def _decoded(x: Any, msgpack: Any, depth: int) -> Any:
    """What Flax's extensions stand for, in the whole tree."""
    if depth > DEEPEST:
        raise _DamagedError(f"it is nested deeper than {DEEPEST} levels, as no state is")
    if isinstance(x, dict):
        made = {key: _decoded(child, msgpack, depth + 1) for key, child in x.items()}
        return _joined(made) if _CHUNKED in made else made
    if isinstance(x, list):
        return [_decoded(child, msgpack, depth + 1) for child in x]
    if not isinstance(x, msgpack.ExtType):
        return x
    if x.code not in (ARRAY, COMPLEX, SCALAR):
        raise _DamagedError(f"it holds an extension of type {x.code}, and Flax has 1 to 3")
    try:
        parts = msgpack.unpackb(x.data, raw=True, max_array_len=64)
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _DamagedError(
            f"an array's header is broken: {error or type(error).__name__}"
        ) from None
    if x.code == COMPLEX:
        if not (
            isinstance(parts, list) and len(parts) == 2 and all(type(p) is float for p in parts)
        ):
            raise _DamagedError("a complex number is not two floats")
        return complex(*parts)
    a = _array(parts)
    return a[()] if x.code == SCALAR and a.dtype != BFLOAT16 else a


def _array(parts: Any) -> Array:
    """An array from its shape, its type's name and its bytes, once they fit together."""
    if not (isinstance(parts, list) and len(parts) == 3):
        raise _DamagedError("an array is not shape, type and bytes")
    shape, kind, content = parts
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise _DamagedError("an array's shape is no list of sizes")
    if len(shape) > 32 or math.prod(n or 1 for n in shape) >= 2**48:
        raise _DamagedError(f"an array claims the shape {shape[:8]}...")
    name = kind.decode("ascii", "replace") if isinstance(kind, bytes) else repr(kind)[:40]
    name = {"V2": "bfloat16"}.get(name, name)  # so named by early versions
    if name not in _DTYPES:
        raise _DamagedError(f"an array is of type {name[:40]!r}; known: {', '.join(_DTYPES)}")
    dtype, size = _DTYPES[name], math.prod(shape)
    if not isinstance(content, bytes) or len(content) != size * dtype.itemsize:
        has = len(content) if isinstance(content, bytes) else 0
        raise _DamagedError(
            f"an array of {name} and shape {tuple(shape)} has {has} bytes; it needs {size * dtype.itemsize}"
        )
    if not size:
        return np.zeros(shape, dtype)
    return np.frombuffer(content, dtype).reshape(shape)


def _joined(parts: dict[Any, Any]) -> Array:
    """An array that was cut in pieces."""
    shape, chunks = parts.get("shape"), parts.get("chunks")
    if not isinstance(shape, dict) or not isinstance(chunks, dict) or len(shape) > 32:
        raise _DamagedError("an array in pieces has no shape or no pieces")
    sizes = [shape.get(str(k)) for k in range(len(shape))]
    arrays = [chunks.get(str(k)) for k in range(len(chunks))]
    flat = [a for a in arrays if isinstance(a, np.ndarray) and a.ndim == 1]
    known = [n for n in sizes if type(n) is int and n >= 0]
    fits = (
        len(flat) == len(arrays) > 0
        and len(known) == len(sizes)
        and len({a.dtype for a in flat}) == 1
    )
    if not fits or sum(a.size for a in flat) != math.prod(known):
        raise _DamagedError("an array's pieces do not make its shape")
    return np.concatenate(flat).reshape(known)


def _state_dict(tree: Any) -> Any:
    """Dicts all through, and arrays of JAX as NumPy's, large ones in pieces."""
    if isinstance(tree, dict):
        return {key: _state_dict(child) for key, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return {str(k): _state_dict(child) for k, child in enumerate(tree)}
    if isinstance(tree, np.ndarray) and tree.nbytes > CHUNK:
        step, flat = max(1, CHUNK // tree.itemsize), tree.reshape(-1)
        pieces = [flat[k : k + step] for k in range(0, flat.size, step)]
        return {_CHUNKED: True, "shape": _state_dict(tree.shape), "chunks": _state_dict(pieces)}
    return tree


def _pieces(x: Any) -> Iterator[Any]:
    """The bytes of a state dict, one after the other; those of large arrays where they lie.

    msgpack's own packer copies them three times: 0.13 against 1.4 GB/s.
    """
    msgpack = _msgpack()
    if isinstance(x, dict):
        yield msgpack.Packer().pack_map_header(len(x))
        for key, child in x.items():
            yield msgpack.packb(key)
            yield from _pieces(child)
    elif isinstance(x, np.ndarray) and x.nbytes > _LARGE:
        content, size = (
            np.asarray(x, x.dtype.newbyteorder("<"), order="C"),
            x.nbytes.to_bytes(4, "big"),
        )
        head = b"\x93" + msgpack.packb(list(x.shape)) + msgpack.packb(_name(x)) + b"\xc6" + size
        yield b"\xc9" + (len(head) + x.nbytes).to_bytes(4, "big") + bytes([ARRAY]) + head
        yield content.reshape(-1).view(np.uint8).data
    else:
        yield msgpack.packb(x, default=_ext, strict_types=True)


def _name(x: Any) -> str:
    return "bfloat16" if x.dtype == BFLOAT16 else x.dtype.name


def _ext(x: Any) -> Any:
    """An array or a number of NumPy's as Flax packs it."""
    msgpack = _msgpack()
    if isinstance(x, complex):
        return msgpack.ExtType(COMPLEX, msgpack.packb((x.real, x.imag)))
    if not isinstance(x, (np.ndarray, np.generic)):
        raise TypeError(f"a tree of arrays and numbers is packed; it holds a {type(x).__name__}")
    content = np.asarray(x, dtype=x.dtype.newbyteorder("<")).tobytes()
    code = SCALAR if isinstance(x, np.generic) else ARRAY
    return msgpack.ExtType(code, msgpack.packb((x.shape, _name(x), content), use_bin_type=True))
