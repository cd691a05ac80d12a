"""How the same weight lies in memory in two frameworks, and the moves between them.

Keras, TensorFlow and Flax keep (in, out) and channels last, PyTorch (out, in) and channels first.  A move
takes Keras's order to PyTorch's, or back; it only reorders numbers, so that it is exact.
"""

import math
from typing import NamedTuple

import numpy as np

from rmsprop.convert.checkpoint import Array, Checkpoint, Entry

Shape = tuple[int, ...]
GRU_HALVES = ("bias/input", "bias/recurrent")
"""Keras's GRU keeps its two biases as rows of one array, PyTorch apart."""


class Move(NamedTuple):
    """What is done to a parameter's arrays.

    Attributes
    ----------
    name
        "same", "transpose", "conv", "depthwise", "flatten", "gru", and "gru bias".
    sizes
        Of "flatten", the (height, width, channels) that were flattened before a dense layer: PyTorch
        flattens them as (channels, height, width). Of "depthwise", Keras's (in, multiplier).
    """

    name: str = "same"
    sizes: Shape = ()

    def __str__(self) -> str:
        return self.name + (f" {list(self.sizes)}" if self.sizes else "")


SAME = Move()
NAMES = ("same", "transpose", "conv", "depthwise", "flatten", "gru", "gru bias")
_FLAT = {"bias", "gamma", "beta", "embeddings"}


def of_role(role: str, shape: Shape) -> Move | None:
    """The move of a parameter whose place in a Keras layer is known; None where that does not tell it.

    Examples
    --------
    >>> of_role("kernel", (3, 3, 8, 16)).name, of_role("gru/kernel", (4, 6)).name, of_role("", (4, 6))
    ('conv', 'gru', None)
    """
    layer, _, part = role.rpartition("/")
    if layer == "mixed":
        return None
    if layer.startswith("flatten") and len(shape) in (1, 2):
        return Move("flatten", tuple(int(n) for n in layer[len("flatten") :].split("x")))
    if len(shape) <= 1 or part == "embeddings":
        return Move("gru bias") if role == "gru/bias" and len(shape) == 1 else SAME
    if layer == "gru" and len(shape) == 2:
        return Move("gru")
    if layer == "einsum":
        return None
    if part == "depthwise_kernel":
        return Move("depthwise", shape[-2:])
    if part in ("kernel", "pointwise_kernel", "recurrent_kernel"):
        return Move("transpose") if len(shape) == 2 else Move("conv")
    return SAME if part in _FLAT else None


def fitting(shape: Shape, target: Shape, to_torch: bool) -> list[Move]:
    """The moves of more than one dimension that bring an array of a shape to the target's.

    Examples
    --------
    >>> [str(move) for move in fitting((3, 5), (5, 3), to_torch=True)]
    ['transpose']
    """
    tried = [SAME, Move("transpose" if len(shape) == 2 else "conv")]
    return [move for move in tried if moved_shape(move, shape, to_torch) == target]


def moved_shape(move: Move, shape: Shape, to_torch: bool) -> Shape:
    """The shape after a move; () with no such array where the move does not apply."""
    try:
        probe = np.broadcast_to(np.int8(0), shape)
        return _moved(move, probe, to_torch).shape
    except ValueError:
        return (-1,)


def moved(move: Move, array: Array, to_torch: bool) -> Array:
    """An array after a move, in memory of its own where anything moved.

    Parameters
    ----------
    move
        What to do.
    array
        In Keras's order if `to_torch`, else in PyTorch's.
    to_torch
        Which way.

    Raises
    ------
    ValueError
        Where the array has no shape that this move takes.

    Examples
    --------
    >>> kernel = np.arange(6.0).reshape(2, 3)
    >>> moved(Move("transpose"), kernel, to_torch=True).tolist()
    [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    return np.asarray(_moved(move, array, to_torch), order="C")


def _moved(move: Move, array: Array, to_torch: bool) -> Array:
    name, n = move.name, array.ndim
    if name == "same":
        return array
    if name == "transpose" and n == 2:
        return array.T
    if name == "conv" and n >= 3:
        return _conv(array, to_torch)
    if name == "depthwise" and n >= 3:
        return _depthwise(array, move.sizes, to_torch)
    if name == "flatten" and n in (1, 2):
        return _flatten(array, move.sizes, to_torch)
    if name == "gru" and n == 2:
        return _gates(array.T, 0) if to_torch else _gates(array, 0).T
    if name == "gru bias" and n == 1:
        return _gates(array, 0)
    raise ValueError(f"the layout {name!r} is not for an array of shape {array.shape}")


def _conv(array: Array, to_torch: bool) -> Array:
    """(..., in, out) to (out, in, ...); of a transposed convolution (..., out, in) to (in, out, ...)."""
    n = array.ndim
    if to_torch:
        return array.transpose(n - 1, n - 2, *range(n - 2))
    return array.transpose(*range(2, n), 1, 0)


def _depthwise(array: Array, sizes: Shape, to_torch: bool) -> Array:
    """(..., in, multiplier) to (in*multiplier, 1, ...)."""
    n = array.ndim
    if to_torch:
        turned = array.transpose(n - 2, n - 1, *range(n - 2))
        return turned.reshape(-1, 1, *array.shape[:-2])
    if len(sizes) != 2 or array.shape[0] != math.prod(sizes) or array.shape[1] != 1:
        raise ValueError(
            f"a depthwise kernel of shape {array.shape} is not of {list(sizes)} filters"
        )
    return array.reshape(*sizes, *array.shape[2:]).transpose(*range(2, n), 0, 1)


def _flatten(array: Array, sizes: Shape, to_torch: bool) -> Array:
    """Rows of (height, width, channels) to columns of (channels, height, width); of a vector the same."""
    if array.ndim == 1:
        return _flatten(array[:, None] if to_torch else array[None], sizes, to_torch).reshape(-1)
    rows = array.shape[0 if to_torch else 1]
    if len(sizes) < 2 or math.prod(sizes) != rows:
        raise ValueError(f"{rows} inputs are not a flattened {list(sizes)}")
    *space, channels = sizes
    if to_torch:
        whole = np.moveaxis(array.reshape(*space, channels, -1), -2, 0)
        return whole.reshape(rows, -1).T
    whole = np.moveaxis(array.T.reshape(channels, *space, -1), 0, -2)
    return whole.reshape(rows, -1)


def _gates(array: Array, axis: int) -> Array:
    """Keras's update, reset, new gates to PyTorch's reset, update, new; and back, which is the same."""
    if array.shape[axis] % 3:
        raise ValueError(f"a GRU has three gates, and {array.shape} does not divide by three")
    update, reset, new = np.split(array, 3, axis)
    return np.concatenate([reset, update, new], axis)


def with_gru_halves(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with each GRU bias of two rows as two parameters.

    Examples
    --------
    >>> whole = Checkpoint("keras", entries={"gru/bias": Entry({"v": np.ones((2, 6))}, role="gru/bias")})
    >>> list(with_gru_halves(whole).entries)
    ['gru/bias/input', 'gru/bias/recurrent']
    """
    entries: dict[str, Entry] = {}
    for name, entry in checkpoint.entries.items():
        if entry.role == "gru/bias" and len(entry.shape) == 2:
            for k, half in enumerate(GRU_HALVES):
                entries[name.removesuffix("bias") + half] = _row(entry, k)
        else:
            entries[name] = entry
    return checkpoint.with_entries(entries)


def _row(entry: Entry, k: int) -> Entry:
    slots = {slot: a[k] for slot, a in entry.slots.items()}
    return Entry(slots, None if entry.value is None else entry.value[k], entry.group, entry.role)


def without_gru_halves(checkpoint: Checkpoint) -> Checkpoint:
    """What `with_gru_halves` took apart, together again."""
    entries: dict[str, Entry] = {}
    for name, entry in checkpoint.entries.items():
        first, second = GRU_HALVES
        if entry.role == "gru/bias" and name.endswith(second):
            continue
        if entry.role == "gru/bias" and name.endswith(first):
            stem = name.removesuffix(first)
            entries[f"{stem}bias"] = _stacked(entry, checkpoint.entries[stem + second])
        else:
            entries[name] = entry
    return checkpoint.with_entries(entries)


def _stacked(one: Entry, two: Entry) -> Entry:
    slots = {slot: np.stack([a, two.slots[slot]]) for slot, a in one.slots.items()}
    known = one.value is not None and two.value is not None
    value = np.stack([one.value, two.value]) if known else None  # type: ignore[list-item]
    return Entry(slots, value, one.group, one.role)
