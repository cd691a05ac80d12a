"""Nested dicts and lists of arrays, by path: {"layer": [w, b]} is {"layer.0": w, "layer.1": b}."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Tree = Any
"""An array, or a dict, list or tuple of trees."""

DTYPES = {np.dtype(name) for name in ("float16", "float32", "float64")}


def flatten(tree: Tree, what: str) -> dict[str, Array]:
    """The leaves of a tree by their paths, in order.

    Parameters
    ----------
    tree
        Arrays in nested dicts (with string or integer keys), lists and tuples; or one array, whose path
        is the empty string.
    what
        What the tree holds, for the messages: "params", "grads".

    Raises
    ------
    TypeError
        For a leaf that is not a NumPy array, or a key that is not a string or integer.
    ValueError
        For two leaves with one path ({"a.b": x, "a": {"b": y}}).

    Examples
    --------
    >>> list(flatten({"layer": [np.zeros(2), np.zeros(3)]}, "params"))
    ['layer.0', 'layer.1']
    """
    if _is_flat(tree):
        return dict(tree)
    leaves: dict[str, Array] = {}
    for path, leaf in _walk(tree, "", what):
        if path in leaves:
            raise ValueError(f"two {what} have the path {path!r}: rename one of them")
        leaves[path] = leaf
    return leaves


def _is_flat(tree: Tree) -> bool:
    """Whether a tree is what `flatten` returns: the common case, 20 times as fast."""
    return (
        type(tree) is dict
        and all([type(x) is np.ndarray for x in tree.values()])
        and all([type(key) is str for key in tree])
    )


def _walk(tree: Tree, path: str, what: str) -> Iterator[tuple[str, Array]]:
    if isinstance(tree, np.ndarray):
        yield path, tree
        return
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        raise TypeError(
            f"{what}{at(path)} must be a NumPy array, or a dict or list of them; got "
            f"{type(tree).__name__}: wrap it, numpy.asarray(x, dtype='float64')"
        )
    for key, value in items:
        if not isinstance(key, str | int):
            raise TypeError(f"keys of {what}{at(path)} must be strings or integers; got {key!r}")
        yield from _walk(value, f"{path}.{key}" if path else str(key), what)


def rebuild(tree: Tree, leaves: dict[str, Array], path: str = "") -> Tree:
    """A tree of the shape of `tree` with the leaves that `flatten` would give it.

    Examples
    --------
    >>> rebuild({"a": [np.zeros(1)]}, {"a.0": np.ones(1)})
    {'a': [array([1.])]}
    """
    if isinstance(tree, np.ndarray):
        return leaves[path]

    def child(key: Any) -> str:
        return f"{path}.{key}" if path else str(key)

    if isinstance(tree, dict):
        return {key: rebuild(value, leaves, child(key)) for key, value in tree.items()}
    parts = [rebuild(value, leaves, child(k)) for k, value in enumerate(tree)]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)  # NamedTuple


def at(path: str) -> str:
    """A path for a message."""
    return f" at {path!r}" if path else ""


def check_params(params: dict[str, Array]) -> None:
    """Refuse parameters that cannot be updated in place.

    Raises TypeError for a dtype that is not float16, float32 or float64 in native byte order and for masked
    arrays; ValueError for arrays that are read-only, overlap themselves, or share memory.
    """
    for path, p in params.items():
        _check_dtype("parameter", path, p)
        if not p.flags.writeable:
            raise ValueError(
                f"parameter{at(path)} is read-only, and is to be updated in place: pass a copy, p.copy()"
            )
        if _overlaps_itself(p):
            raise ValueError(
                f"parameter{at(path)} is a view whose elements share memory: pass a copy, p.copy()"
            )
    _check_overlap(params)


def check_grads(params: dict[str, Array], grads: dict[str, Array]) -> None:
    """Refuse gradients that do not match the parameters in name, shape and kind.

    Raises KeyError for missing or extra names, ValueError for shapes, TypeError for dtypes.
    """
    same_names(params, grads, "parameter", "gradient")
    for path, p in params.items():
        g = grads[path]
        if g.shape != p.shape:
            raise ValueError(
                f"gradient{at(path)} must have its parameter's shape {p.shape}; got {g.shape}: a sum "
                "over the batch, or keepdims, is the usual cure"
            )
        _check_dtype("gradient", path, g)


def same_names(have: dict[str, Any], got: dict[str, Any], one: str, other: str) -> None:
    """Raise KeyError where the second lacks names of the first or has others."""
    missing = [path for path in have if path not in got]
    extra = [path for path in got if path not in have]
    if missing:
        raise KeyError(f"no {other} for {one} {_some(missing)}: give every {one} its {other}")
    if extra:
        raise KeyError(f"{other} {_some(extra)} has no {one}: known are {_some(list(have))}")


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_dtype(what: str, path: str, x: Array) -> None:
    if type(x) is not np.ndarray and isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{what}{at(path)} is a masked array, and masks are not kept: use x.filled(0)"
        )
    if x.dtype in DTYPES:
        return
    remedy = "convert it, x.astype('float64')"
    if x.dtype.kind == "c":
        remedy = "optimise its real and imaginary parts, x.view('float64')"
    raise TypeError(
        f"{what}{at(path)} must be float16, float32 or float64 in native byte order; got "
        f"{x.dtype}: {remedy}"
    )


def _overlaps_itself(x: Array) -> bool:
    """Whether elements of a view share memory; true too for some views that no slicing can make."""
    if x.flags.c_contiguous or not x.size:
        return False
    reach = x.itemsize  # of all elements along the dimensions so far, from the shortest stride up
    for stride, n in sorted((abs(s), n) for s, n in zip(x.strides, x.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (n - 1)
    return False


def _check_overlap(params: dict[str, Array]) -> None:
    # In the order in which arrays begin, only those that have not ended need a closer look: usually none.
    spans = sorted(
        (*np.lib.array_utils.byte_bounds(p), path) for path, p in params.items() if p.size
    )
    open_spans: list[tuple[int, str]] = []
    for low, high, path in spans:
        open_spans = [span for span in open_spans if span[0] > low]
        for _, other in open_spans:
            if _share(params[other], params[path]):
                raise ValueError(
                    f"parameters {other!r} and {path!r} share memory, so one step would move it twice: "
                    "pass the array once, with the sum of its gradients"
                )
        open_spans.append((high, path))


def _share(a: Array, b: Array) -> bool:
    try:
        return bool(np.shares_memory(a, b, max_work=100_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def map_leaves(function: Callable[[Array], Array], tree: Tree) -> Tree:
    """The tree with `function` applied to each array.

    Examples
    --------
    >>> map_leaves(lambda x: x + 1, {"a": np.zeros(1)})
    {'a': array([1.])}
    """
    leaves = flatten(tree, "tree")
    return rebuild(tree, {path: function(x) for path, x in leaves.items()})
