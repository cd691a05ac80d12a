"""What models ask of their arguments: each error gives the rule, the value and the remedy."""

import difflib
import numbers
import operator
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from rmsprop.models.layers import Array


def checked_inputs(x: ArrayLike, width: int) -> Array:
    """x as an array (batch, width), or an error.

    Examples
    --------
    >>> checked_inputs([[1, 2]], 2).shape
    (1, 2)
    """
    x = checked_numbers("x", x)
    if x.ndim != 2 or x.shape[1] != width or len(x) == 0:
        raise ValueError(
            f"x must have shape (batch, {width}), with at least one row; got {x.shape}."
            f" Use x.reshape(-1, {width}) for one row or for pictures, or change sizes."
        )
    return x


def checked_labels(y: ArrayLike, n: int, classes: int) -> Array:
    """y as n whole labels below `classes`, flat, or an error.

    Examples
    --------
    >>> checked_labels([[0.0], [1.0]], 2, 2).tolist()
    [0, 1]
    """
    y = checked_numbers("labels", y)
    if y.shape not in ((n,), (n, 1)):
        raise ValueError(
            f"labels must have shape ({n},) or ({n}, 1), one for each row of x; got {y.shape}."
            " Use y.argmax(axis=1) if they are one-hot."
        )
    y = y.reshape(n)
    labels = y.astype(np.intp, copy=False)
    if y.dtype.kind == "f" and (labels != y).any():
        raise ValueError(f"labels must be whole; got {y[labels != y][0]}. Round or drop them.")
    low, high = np.minimum.reduce(labels), np.maximum.reduce(labels)
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must be 0 to {classes - 1} here; got {low if low < 0 else high}."
            " Renumber them with np.unique(y, return_inverse=True)[1], or change the model's outputs."
        )
    return labels


def checked_targets(y: ArrayLike, n: int, outputs: int) -> Array:
    """y as an array (n, outputs), or an error.

    Examples
    --------
    >>> checked_targets([1, 2], 2, 1).shape
    (2, 1)
    """
    y = checked_numbers("targets", y)
    if y.shape != (n, outputs) and not (outputs == 1 and y.shape == (n,)):
        raise ValueError(
            f"targets must have shape ({n}, {outputs}), or ({n},) for one output; got {y.shape}."
            " Reshape them, or change the model's outputs."
        )
    return y.reshape(n, outputs)


def checked_numbers(name: str, values: ArrayLike) -> Array:
    """The values as an array of real numbers, or an error.

    Examples
    --------
    >>> checked_numbers("x", [1, 2]).tolist()
    [1, 2]
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{name} must be real numbers; got dtype {array.dtype}. Convert with .astype(float),"
            " or names of classes with np.unique(y, return_inverse=True)[1]."
        )
    return array


def checked_sizes(sizes: Sequence[int], loss: str) -> tuple[int, ...]:
    """The sizes as integers that fit the loss, or an error.

    Examples
    --------
    >>> checked_sizes([784, 10], "softmax_cross_entropy")
    (784, 10)
    """
    remedy = "Give (inputs, hidden..., outputs), for instance (784, 128, 10)."
    try:
        widths = tuple(operator.index(size) for size in sizes)
    except TypeError:
        raise TypeError(f"sizes must be integers; got {sizes!r}. {remedy}") from None
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"sizes must be two or more, each at least 1; got {sizes!r}. {remedy}")
    if loss != "squared_error" and (loss == "binary_cross_entropy") != (widths[-1] == 1):
        raise ValueError(
            "sizes must end with 1 for binary_cross_entropy, with 2 or more for"
            f" softmax_cross_entropy; got {sizes!r} for {loss}. Change sizes or the loss."
        )
    return widths


def one_of(name: str, value: str, options: Collection[str]) -> str:
    """The value if it is one of the options, or an error that names the near one.

    Examples
    --------
    >>> one_of("activation", "rely", ("relu", "tanh"))
    Traceback (most recent call last):
    ValueError: activation must be one of relu, tanh; got 'rely'. Did you mean 'relu'?
    """
    if value in options:
        return value
    near = difflib.get_close_matches(str(value), options, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(options)}; got {value!r}.{hint}")


def checked_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype if it is float32 or float64, or an error.

    Examples
    --------
    >>> checked_dtype("float32")
    dtype('float32')
    """
    found = np.dtype(dtype)
    if found not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64; got {found}. Use np.float32.")
    return found


def checked_count(name: str, value: int, least: int = 1) -> int:
    """The value as an integer, `least` or more, or an error.

    Examples
    --------
    >>> checked_count("hidden", 64)
    64
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer; got {value!r}. Give one, such as {name}=64."
        ) from None
    if count < least:
        raise ValueError(
            f"{name} must be at least {least}; got {value}. Give one, such as {name}=64."
        )
    return count


def checked_fraction(name: str, value: float) -> float:
    """The value if it is in [0, 1), or an error.

    Examples
    --------
    >>> checked_fraction("dropout", 0.5)
    0.5
    """
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number; got {value!r}. Give {name}=0.5, or 0 for none.")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1); got {value}. Give {name}=0.5, or 0 for none.")
    return float(value)


def checked_outputs(outputs: int, loss: str) -> int:
    """The number of outputs if it fits the loss, or an error.

    Examples
    --------
    >>> checked_outputs(10, "softmax_cross_entropy")
    10
    """
    count = checked_count("outputs", outputs)
    if loss != "squared_error" and (loss == "binary_cross_entropy") != (count == 1):
        raise ValueError(
            "outputs must be 1 for binary_cross_entropy, 2 or more for softmax_cross_entropy;"
            f" got {outputs} for {loss}. Change outputs or the loss."
        )
    return count


def checked_tokens(x: ArrayLike, words: int) -> Array:
    """x as token ids (batch, steps), each row padded with 0 after its last token, or an error.

    Examples
    --------
    >>> checked_tokens([[2, 1, 0]], 3).tolist()
    [[2, 1, 0]]
    """
    ids = np.asarray(x)
    if ids.dtype.kind not in "iu":
        raise TypeError(
            f"x must be integer token ids; got dtype {ids.dtype}. Use x.astype(np.int32), or leave"
            " words out for a model that reads numbers."
        )
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(
            "x must have shape (batch, steps), with at least one row and one step; got"
            f" {ids.shape}. Use x.reshape(1, -1) for one text."
        )
    low, high = ids.min(), ids.max()
    if low < 0 or high >= words:
        raise ValueError(
            f"token ids must be 0 to {words - 1} here; got {low if low < 0 else high}. Replace"
            " those of unknown words by the id of one, or give the model more words."
        )
    real = ids != 0
    if not real[:, 0].all():
        row = int(np.argmin(real[:, 0]))
        raise ValueError(
            f"each row of x must begin with a token; row {row} begins with the padding id 0. Drop"
            " empty texts, give them the id of an unknown word, and pad at the end."
        )
    holes = (real[:, 1:] > real[:, :-1]).any(axis=1)
    if holes.any():
        raise ValueError(
            f"the padding id 0 must come after the last token; row {int(np.argmax(holes))} of x has"
            " it before one. Move the zeros to the end, and give words ids from 1."
        )
    return ids


def checked_series(x: ArrayLike, width: int) -> Array:
    """x as numbers (batch, steps, width), or an error; (batch, steps * width) is cut into steps.

    Examples
    --------
    >>> checked_series([[1, 2, 3, 4]], 2).tolist()
    [[[1, 2], [3, 4]]]
    """
    x = checked_numbers("x", x)
    fits = (x.ndim == 3 and x.shape[2] == width) or (x.ndim == 2 and x.shape[1] % width == 0)
    if not fits or x.size == 0:
        raise ValueError(
            f"x must have shape (batch, steps, {width}) or (batch, steps * {width}), with at least"
            f" one row and one step; got {x.shape}. Reshape it, or change inputs."
        )
    return x.reshape(len(x), -1, width)
