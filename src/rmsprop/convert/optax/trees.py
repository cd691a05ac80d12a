"""Nested states as plain nodes, whatever they are made of: live pytrees, or what a file gives back."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Path = tuple[str, ...]

# Of JAX's trees none is deep; a file from a stranger may be.
DEEPEST = 100
MOST = 1_000_000

# How a bfloat16 array is held where nothing registers that type with NumPy: its bits, under its name.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])

_FIRST = "params"


class Node(dict[str, Any]):
    """The children of a node by name, and the name of the class it was made from."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind


def plain(tree: Any) -> Any:
    """The tree with a `Node` for each dict, sequence, named tuple and dataclass; leaves stay what they are.

    Raises ValueError where it is deeper than 100 levels or has more than a million parts, and where two keys
    of one dict read alike.

    Examples
    --------
    >>> plain({"w": [1.0, (2.0,)]})
    {'w': {'0': 1.0, '1': {'0': 2.0}}}
    """
    parts = 0

    def walk(x: Any, depth: int) -> Any:
        nonlocal parts
        parts += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested deeper than {DEEPEST} levels, as no state is")
        if parts > MOST:
            raise ValueError(f"it has more than {MOST} parts, as no state has")
        pairs = _children(x)
        if pairs is None:
            return x
        node = Node(type(x).__name__)
        for name, child in pairs:
            if name in node:
                raise ValueError(f"two keys beside each other read {name[:40]!r}: rename one")
            node[name] = walk(child, depth + 1)
        return node

    return walk(tree, 0)


def leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf of what `plain` gave, with the way to it; None is none.

    Examples
    --------
    >>> list(leaves(plain({"b": [1.0, None], "a": 2.0})))
    [(('a',), 2.0), (('b', '0'), 1.0)]
    """
    if isinstance(tree, Node):
        for name, child in tree.items():
            yield from leaves(child, (*path, name))
    elif tree is not None:
        yield path, tree


def at(tree: Any, path: Path) -> Any:
    """What lies there.

    Examples
    --------
    >>> at(plain({"a": [1.0, 2.0]}), ("a", "1"))
    2.0
    """
    for name in path:
        tree = tree[name]
    return tree


def rebuilt(tree: Any, leaves: dict[Path, Any], path: Path = ()) -> Any:
    """The tree itself, of its own classes, with other leaves at these places.

    Examples
    --------
    >>> rebuilt({"w": [1.0, (2.0,)]}, {("w", "1", "0"): 5.0})
    {'w': [1.0, (5.0,)]}
    """
    pairs = _children(tree)
    if pairs is None:
        return leaves.get(path, tree)
    made = {name: rebuilt(child, leaves, (*path, name)) for name, child in pairs}
    if isinstance(tree, Mapping):
        kind: Any = type(tree)
        return kind({key: made[str(key)] for key in tree})
    if hasattr(tree, "_fields"):
        return type(tree)(**made)
    if isinstance(tree, (list, tuple)):
        return type(tree)(made.values())
    return dataclasses.replace(tree, **made)


def named(tree: Any, path: Path = ()) -> dict[str, Path]:
    """The names of a subtree's leaves, in the pytree's order, and where they lie in the whole.

    Flax's "params" in front of all of them is dropped. A single array is called "params".

    Examples
    --------
    >>> named(plain({"params": {"Dense_0": {"kernel": 1.0, "bias": 2.0}}}), ("opt_state",))
    {'Dense_0/bias': ('opt_state', 'params', 'Dense_0', 'bias'), \
'Dense_0/kernel': ('opt_state', 'params', 'Dense_0', 'kernel')}
    """
    found: dict[str, Path] = {}
    within = [p for p, _ in leaves(tree)]
    if within and all(len(p) > 1 and p[0] == _FIRST for p in within):
        tree, path = tree[_FIRST], (*path, _FIRST)
    for p, _ in leaves(tree):
        name = "/".join(p) or _FIRST
        if name in found:
            raise ValueError(f"two arrays are called {name[:80]!r}: rename one")
        found[name] = (*path, *p)
    return found


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Dicts in dicts, from names with "/" between their parts; where none has one, with ".".

    Raises ValueError where one name is another's beginning.

    Examples
    --------
    >>> nested({"a.kernel": 1, "a.bias": 2})
    {'a': {'kernel': 1, 'bias': 2}}
    """
    sign = "/" if any("/" in name for name in values) else "."
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *above, last = name.split(sign)
        place = tree
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                break
        if not isinstance(place, dict) or last in place:
            raise ValueError(f"{name!r} stands in the way of another name: rename one with --map")
        place[last] = value
    return tree


def widened(x: Any, name: str) -> Array:
    """A leaf as an array of float32 or float64; what is smaller is widened, which is exact.

    Raises ValueError for all but real floating-point numbers.

    Examples
    --------
    >>> widened(np.float16(0.1), "w").dtype
    dtype('float32')
    """
    try:
        if not hasattr(x, "dtype") and not isinstance(x, (bool, int, float, complex)):
            raise TypeError
        a = np.asarray(x)  # TypeError for keys of jax.random
    except (TypeError, OverflowError):
        raise ValueError(f"{name} is a {type(x).__name__}, no array of numbers") from None
    if a.dtype == BFLOAT16:
        bits = a.view("<u2").reshape(a.shape).astype("<u4") << np.uint32(16)
        return np.asarray(bits, order="C").view("<f4")
    if a.dtype.name in ("float32", "float64"):
        return a
    if a.dtype.name in ("float16", "bfloat16"):
        return a.astype(np.float32)
    if a.dtype.kind == "c":
        raise ValueError(
            f"{name} is {a.dtype}: torch averages real and imaginary parts apart, Optax |g|^2: this cannot "
            "be translated"
        )
    raise ValueError(f"{name} is {a.dtype}: only real floating-point numbers can be translated")


def cast(value: Any, leaf: Any, name: str) -> Any:
    """A value in the type of the leaf whose place it takes: an array of JAX or NumPy, or a number.

    Raises ValueError where the shapes differ, or the values would be rounded.

    Examples
    --------
    >>> cast(np.float64(0.5), np.zeros((), np.float32), "eps")
    array(0.5, dtype=float32)
    """
    if not hasattr(leaf, "dtype"):
        return type(leaf)(np.asarray(value).item())
    a = np.asarray(value)
    if a.shape != leaf.shape:
        raise ValueError(f"{name} has the shape {a.shape}, and the template {leaf.shape}")
    if leaf.dtype == BFLOAT16:
        bits = np.asarray(a, "<f4", order="C").view("<u4") >> np.uint32(16)
        made: Any = np.asarray(bits.astype("<u2"), order="C").view(BFLOAT16).reshape(a.shape)
    else:
        made = a.astype(leaf.dtype)
    if (
        a.dtype.kind == "f"
        and a.ndim + a.size > 1
        and not np.array_equal(widened(made, name).astype(a.dtype), a, equal_nan=True)
    ):
        kind = "bfloat16" if leaf.dtype == BFLOAT16 else leaf.dtype
        raise ValueError(
            f"{name} is {a.dtype}, and the template {kind}, which would round it: give a template of "
            f"{a.dtype}"
        )
    if isinstance(leaf, np.generic):
        return made[()]
    if isinstance(leaf, np.ndarray):
        return made
    import jax.numpy as jnp

    return jnp.asarray(made)


def whole(x: Any, name: str) -> int:
    """A count of steps; ValueError where it is none.

    Examples
    --------
    >>> whole(np.array(7, np.int32), "count")
    7
    """
    a = np.asarray(x) if hasattr(x, "dtype") or isinstance(x, int) else None
    if a is None or a.shape or a.dtype.kind not in "iu" or int(a) < 0:
        shown = type(x).__name__ if a is None else f"{a.dtype} of shape {a.shape}"
        raise ValueError(f"{name} must be one whole number, at least 0; it is {shown}")
    return int(a)


def number(x: Any, name: str) -> float:
    """A hyperparameter: of a float32 the shortest decimal, which is what its user wrote.

    Examples
    --------
    >>> number(np.float32(0.1), "learning_rate")
    0.1
    """
    if hasattr(x, "dtype") and x.dtype != BFLOAT16 and np.asarray(x).dtype.kind in "iu":
        return float(whole(x, name))
    a = widened(x, name) if hasattr(x, "dtype") else np.asarray(float(x))
    if a.shape or not math.isfinite(float(a)):
        raise ValueError(
            f"{name} must be one finite number; it is {float(a) if not a.shape else a.shape}"
        )
    return float(str(a[()]))


def _children(x: Any) -> list[tuple[str, Any]] | None:
    """The parts of a node and their names, in JAX's order; None for a leaf."""
    if isinstance(x, Mapping):
        keys = [str(key) for key in x]
        places = {str(k) for k in range(len(keys))}
        by: Any = (lambda pair: int(pair[0])) if places == set(keys) else (lambda pair: pair[0])
        return sorted(((str(key), child) for key, child in x.items()), key=by)
    if hasattr(x, "_fields") and isinstance(x, tuple):
        fields: Any = x._fields  # pyright: ignore[reportAttributeAccessIssue]
        return list(zip(fields, x, strict=True))
    if isinstance(x, (list, tuple)):
        return [(str(k), child) for k, child in enumerate(x)]
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        # Flax marks what of its dataclasses is no data, as a TrainState's functions.
        fields = [f for f in dataclasses.fields(x) if f.metadata.get("pytree_node", True)]
        return [(f.name, getattr(x, f.name)) for f in fields]
    return None
