"""Which parameter of the source is which of the target, and how its arrays are laid out there."""

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.layouts import NAMES, SAME, Move, fitting, moved_shape, of_role

Names = str | Mapping[str, Any] | Callable[[str], str] | None
"""A table, a function, "order", or None: by what the frameworks call them."""


class Place(NamedTuple):
    """Where a parameter of the source goes.

    Attributes
    ----------
    name
        In the target.
    move
        What is done to its arrays.
    """

    name: str
    move: Move


def read_map(path: str | Path) -> dict[str, Any]:
    """The table of a TOML file: "name there" = "name here", or a table with `to` and `layout`.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is not there, or is no such table.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"there is no map {path}: --map takes a .toml file, or the word order"
        )
    try:
        with Path(path).open("rb") as file:
            table = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    return table.get("names", table)


def places(
    source: Checkpoint, target: Checkpoint | None, layout: str, names: Names
) -> dict[str, Place]:
    """The place of every parameter of the source that has one in the target.

    Parameters
    ----------
    source
        What was read.
    target
        A checkpoint of the target's model, whose names, order and shapes decide; or None.
    layout
        Of the target's kind, as `Checkpoint.layout`.
    names
        "order": the first is the first. A table or a function of the source's names: a name, or a dict with
        `to` and, for what cannot be told, `layout` ("transpose", ...), with `sizes` for "flatten" and
        "depthwise". None: equal names, names as the other framework would call them, or the order where
        one side has no names.

    Raises
    ------
    ValueError
        Where it is not clear which is which, or how an array is laid out; with what to add.
    """
    given = {} if names is None or names == "order" else _asked(source, names)
    called = {name: row[0] for name, row in given.items()} or _called(source, target, layout, names)
    known = None if target is None else target.entries
    found = {}
    for name, new in called.items():
        if known is not None and new not in known:
            if given:
                raise ValueError(
                    f"the map names {new!r}, which the target does not have{_some(known)}"
                )
            continue
        entry = source.entries[name]
        if entry.value is None and not entry.slots:  # nothing to move, and of no known shape
            found[name] = Place(new, SAME)
            continue
        move = given[name][1] if name in given else None
        other = None if known is None else known[new]
        found[name] = Place(new, move or _move(name, source, other, layout))
        _check(name, source, other, found[name], layout)
    twice = [new for new, count in Counter(called.values()).items() if count > 1]
    if twice:
        raise ValueError(f"two parameters would become {twice[0]!r}: give each a name of its own")
    return found


def _asked(source: Checkpoint, names: Any) -> dict[str, tuple[str, Move | None]]:
    """What the user's table or function says of each parameter."""
    table = {name: names(name) for name in source.entries} if callable(names) else dict(names)
    unknown = [name for name in table if name not in source.entries]
    if unknown:
        raise ValueError(
            f"the map names {unknown[0]!r}, which the source does not have{_some(source.entries)}"
        )
    return {name: _row(name, to) for name, to in table.items()}


def _row(name: str, to: Any) -> tuple[str, Move | None]:
    if isinstance(to, str):
        return to, None
    allowed = {"to", "layout", "sizes"}
    if not isinstance(to, Mapping) or not isinstance(to.get("to"), str) or set(to) - allowed:
        raise ValueError(
            f'the map gives {name!r} as {to!r}: write "new name", or {{to = "new name", layout = '
            '"transpose"}'
        )
    layout, sizes = to.get("layout"), to.get("sizes", [])
    if layout is None:
        return to["to"], None
    if layout not in NAMES:
        raise ValueError(f"the map gives {name!r} the layout {layout!r}; known: {', '.join(NAMES)}")
    if not isinstance(sizes, list | tuple) or not all(type(n) is int and n > 0 for n in sizes):
        raise ValueError(
            f"the map gives {name!r} the sizes {sizes!r}; they are whole numbers, [6, 6, 16]"
        )
    return to["to"], Move(layout, tuple(sizes))


def _called(
    source: Checkpoint, target: Checkpoint | None, layout: str, names: Names
) -> dict[str, str]:
    """New names by the old: the same, the other framework's, or in order."""
    ours = list(source.entries)
    if target is None:
        if names == "order":
            raise ValueError(
                "the order of what? Give --like FILE, a checkpoint of the target's model"
            )
        return {name: renamed(name, source) if layout == "torch" else name for name in ours}
    theirs = list(target.entries)
    if names == "order" or not (source.named and target.named):
        if len(ours) != len(theirs):
            raise ValueError(
                f"{len(ours)} parameters there, {len(theirs)} in the target: by order they must be as many. "
                f"There: {', '.join(ours[:8])}; here: {', '.join(theirs[:8])}. Give a map of names"
            )
        _check_order(source, target)
        return dict(zip(ours, theirs, strict=True))
    same = {name: name for name in ours if name in target.entries}
    new = {name: renamed(name, source) for name in ours}
    back = {renamed(name, target): name for name in theirs}
    found = max(
        same,
        {name: to for name, to in new.items() if to in target.entries},
        {name: back[name] for name in ours if name in back},
        key=len,
    )
    if len(found) < min(len(ours), len(theirs)):
        if [_unnumbered(name) for name in ours] == [_unnumbered(name) for name in theirs]:
            return dict(zip(ours, theirs, strict=True))  # Keras counts on with each model it makes
        by_order = ', or --map order (names="order") if they stand in the same order'
        by_order = by_order if source.ordered and target.ordered else ""
        raise ValueError(
            f"the names differ. There: {', '.join(ours[:8])}; in the target: {', '.join(theirs[:8])}. Give "
            f'a map, --map names.toml with lines "{ours[0]}" = "{theirs[0]}"{by_order}'
        )
    return found


def _check_order(source: Checkpoint, target: Checkpoint) -> None:
    """Raise ValueError where one side has an order of its own."""
    sides = [
        (c.kind, side) for c, side in ((source, "source"), (target, "target")) if not c.ordered
    ]
    if sides:
        kind, side = sides[0]
        names = "" if source.named else ", which --params gives to the source"
        raise ValueError(
            f"the {side} is of {kind}, which sorts parameters by their names, and not as the model has them: "
            f"match them by names{names}, with a map (--map names.toml)"
        )


def _unnumbered(name: str) -> str:
    return re.sub(r"_\d+(?=/)", "", name)


_LAST = {"kernel": "weight", "gamma": "weight", "scale": "weight", "beta": "bias", "embeddings": "weight",
         "embedding": "weight"}  # fmt: skip
_CELL = {"kernel": "weight_ih_l0", "recurrent_kernel": "weight_hh_l0", "bias": "bias_ih_l0",
         "bias/input": "bias_ih_l0", "bias/recurrent": "bias_hh_l0"}  # fmt: skip


def renamed(name: str, source: Checkpoint) -> str:
    """A Keras name in PyTorch's words; others as they are.

    Examples
    --------
    >>> keras = Checkpoint("keras", layout="keras", entries={"dense/kernel": Entry(role="kernel")})
    >>> renamed("dense/kernel", keras)
    'dense.weight'
    """
    if source.layout != "keras" or not source.entries[name].role:
        return name
    role = source.entries[name].role
    layer = role.rpartition("/")[0]
    if layer in ("gru", "lstm", "simple_rnn"):
        found = re.match(r"(.*?)(?:/\w*cell\w*)?/((?:recurrent_)?kernel|bias(?:/\w+)?)$", name)
        if found:
            return f"{found[1].replace('/', '.')}.{_CELL[found[2]]}"
    stem, _, last = name.rpartition("/")
    return f"{stem}.{_LAST.get(last, last)}".replace("/", ".").removeprefix(".")


def _move(name: str, source: Checkpoint, other: Entry | None, layout: str) -> Move:
    """How the arrays of a parameter must be moved; ValueError where that cannot be known."""
    entry = source.entries[name]
    if not layout or not source.layout or layout == source.layout:
        return SAME
    to_torch = layout == "torch"
    role = entry.role if to_torch else getattr(other, "role", "")
    shape = entry.shape if to_torch or other is None else other.shape
    known = of_role(role, shape)
    if known is not None:
        return known
    if len(entry.shape) <= 1 and not role.startswith("mixed"):
        return SAME
    unsure = role.startswith("mixed") or (not role and _UNSURE.search(name))
    if other is not None and other.shape and not unsure:
        possible = fitting(entry.shape, other.shape, to_torch)
        if len(possible) == 1:
            return possible[0]
    raise ValueError(
        f"whether {name!r}, {list(entry.shape)}, is to be transposed{_why(role)} cannot be told from "
        f'its name or its shape: say so in the map, "{name}" = {{to = "...", layout = "transpose"}} '
        '(or "same", "conv", ...)'
        + ("" if other else ", or give --like FILE, a checkpoint of the target's model")
    )


_UNSURE = re.compile(r"gru|conv_?transpose", re.IGNORECASE)
"""Layers whose kernels differ between frameworks by more than a shape tells."""


def _why(role: str) -> str:
    if not role.startswith("mixed"):
        return ""
    return " or reordered, behind a Flatten or ahead of a Reshape, which PyTorch orders otherwise,"


def _check(name: str, source: Checkpoint, other: Entry | None, place: Place, layout: str) -> None:
    before = source.entries[name].shape
    shape = moved_shape(place.move, before, is_to_torch(source.layout, layout))
    if shape == (-1,) or (other is not None and other.shape != shape):
        there = "" if other is None else f"; {place.name!r} in the target is {list(other.shape)}"
        raise ValueError(
            f"{name!r} is {list(before)}, which the layout {str(place.move)!r} does not bring there"
            f"{there}: correct the map"
        )


def is_to_torch(source: str, target: str) -> bool:
    """Which way the moves go: from Keras's order to PyTorch's, or back.

    Where both sides are laid out alike, or nobody knows how, a move of the user's own map is away from the
    source's.

    Examples
    --------
    >>> is_to_torch("keras", "torch"), is_to_torch("torch", "torch"), is_to_torch("", "keras")
    (True, False, False)
    """
    return source != "torch" if target in (source, "") else target == "torch"


def _some(known: Mapping[str, Any]) -> str:
    names = list(known)
    return f" ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})"
