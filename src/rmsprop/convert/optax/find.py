"""Where in a nested tree an optimizer's state lies, and what its structure tells: Optax's and ours."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rmsprop.convert.checkpoint import SLOTS
from rmsprop.convert.optax import trees
from rmsprop.convert.optax.trees import Node, Path
from rmsprop.rule import Rule

# The states of Optax 0.2.8 by their fields, which are all that a file keeps of a class.
_V = [{"nu"}, {"count", "nu"}, {"mu", "nu"}, {"count", "mu", "nu"}]
_TRACE, _COUNT = {"trace"}, {"count"}
_OURS = {"count", "v", "m", "b", "key"}
_INJECTED = [{"count", "hyperparams", "inner_state"}]
_INJECTED += [_INJECTED[0] | {"hyperparams_states"}]
_FINITE = {"notfinite_count", "last_finite", "total_notfinite", "inner_state"}
_OTHERS: dict[str, set[str]] = {
    "optax.masked": {"inner_state"},
    "optax.partition (multi_transform)": {"inner_states"},
    "optax.MultiSteps": {
        "mini_step", "gradient_step", "inner_opt_state", "acc_grads", "skip_state",
    },
    "optax.adagrad": {"sum_of_squares"},
    "optax.amsgrad": {"count", "mu", "nu", "nu_max"},
    "optax.adadelta": {"e_g", "e_x"},
    "optax.lion": {"count", "mu"},
}  # fmt: skip
_AVERAGED = (
    "ScaleByRm",
    "ScaleByRStdDev",
)  # how the names of their classes begin, where there is one
# The hyperparameters that optax.inject_hyperparams keeps, by Optax's names, and the rule's.
NUMBERS = {"learning_rate": "lr"} | {
    f.name: f.name
    for f in dataclasses.fields(Rule)
    if f.name != "lr" and f.type in (float, float | None)
}


@dataclass
class Found:
    """Where in a tree the parts of a state lie, and what their being there tells of the rule."""

    slots: dict[str, Path] = field(default_factory=dict)
    counts: list[Path] = field(default_factory=list)
    numbers: dict[str, Path] = field(default_factory=dict)
    scheduled: set[str] = field(default_factory=set)
    params: Path | None = None
    step: Path | None = None
    ours: bool = False
    corrected: bool = False
    undecided: bool = False
    more: int = 0
    """Transformations in a chain whose states are empty, or a count, beside RMSprop's own."""
    left: dict[str, str] = field(default_factory=dict)


def find(tree: Any) -> Found:
    """Where the one state lies; of a tree without any, where the parameters are.

    Raises ValueError where there are several, and for one that is not RMSprop's or stands in a wrapper of
    Optax's that is not known: `optax.chain`, `inject_hyperparams` and `apply_if_finite` are.

    Examples
    --------
    >>> find(trees.plain({"opt_state": [{"nu": {"w": 1.0}}, {}, {"trace": {"w": 2.0}}]})).slots
    {'v': ('opt_state', '0', 'nu'), 'b': ('opt_state', '2', 'trace')}
    """
    found = Found()
    here = [path for path, _ in _states(tree, ())]
    if not here and isinstance(tree, Node) and "opt_state" in tree:
        here = [("opt_state",)]
    if len(here) > 1:
        shown = ", ".join("/".join(path) or "the whole" for path in here[:4])
        raise ValueError(f"it holds {len(here)} optimizer states ({shown}): give one at a time")
    if not here:
        inside = isinstance(tree, Node) and "params" in tree
        found.params = ("params",) if inside else ()
        if inside:
            found.left = {name: "beside the parameters" for name in tree if name != "params"}
        return found
    (path,) = here
    _parse(trees.at(tree, path), path, found)
    if path:
        beside = trees.at(tree, path[:-1])
        found.params = (*path[:-1], "params") if "params" in beside else None
        found.step = (*path[:-1], "step") if beside.get("step") is not None else None
        others = set(beside) - {"params", "step", path[-1]}
        found.left |= dict.fromkeys(sorted(others), "beside the state")
    return found


def _states(tree: Any, path: Path) -> Iterator[tuple[Path, Node]]:
    """The topmost nodes that hold a state."""
    if not isinstance(tree, Node):
        return
    if _holds(tree):
        yield path, tree
        return
    for name, child in tree.items():
        if name != "params":  # in which names are the user's
            yield from _states(child, (*path, name))


def _holds(node: Any) -> bool:
    """Whether it is a state that keeps more than a count, or a chain with one."""
    if not isinstance(node, Node):
        return False
    fields = set(node)
    if fields in (*_V, _TRACE, _OURS, *_INJECTED, _FINITE, *_OTHERS.values()):
        return True
    return _chain(node) and any(_holds(child) for child in node.values())


def _chain(node: Node) -> bool:
    return bool(node) and set(node) == {str(k) for k in range(len(node))}


def _parse(node: Any, path: Path, found: Found) -> None:
    """Note what a state and those inside it hold; ValueError for one that RMSprop has no use for."""
    if node is None or (isinstance(node, Node) and not node):
        return
    fields = set(node) if isinstance(node, Node) else set()
    if fields in _V:
        _averages(node, path, found)
    elif fields == _OURS:
        _once(found, path)
        found.ours = True
        found.slots = {slot: (*path, slot) for slot in SLOTS if node[slot] is not None}
        found.counts.append((*path, "count"))
        if node["key"] is not None:
            found.left["key"] = "what the next stochastic rounding draws from"
    elif fields in _INJECTED:
        found.counts.append((*path, "count"))
        _injected(node, path, found)
        _parse(node["inner_state"], (*path, "inner_state"), found)
    elif fields == _FINITE:
        found.left |= dict.fromkeys(sorted(_FINITE - {"inner_state"}), "of optax.apply_if_finite")
        _parse(node["inner_state"], (*path, "inner_state"), found)
    elif fields == _COUNT:
        found.counts.append((*path, "count"))
    elif fields and _chain(node):
        _chained(node, path, found)
    else:
        _refuse(node, path)


def _refuse(node: Any, path: Path) -> None:
    """Say what a state is, and raise ValueError."""
    where = "/".join(path) or "the whole"
    if not isinstance(node, Node):
        raise ValueError(f"{where} is a {type(node).__name__}, and not a state of Optax's")
    if set(node) == _TRACE:
        raise ValueError(
            f"{where} is a trace that does not stand as optax.rmsprop has it: averages, learning rate, "
            "trace. Whether it holds the learning rate, and its sign, are not known (optax.sgd's has neither)"
        )
    known = next((name for name, fields in _OTHERS.items() if set(node) == fields), "")
    shown = ", ".join(list(node)[:8])
    what = f"the state of {known}" if known else f"a state that is not known ({node.kind}: {shown})"
    raise ValueError(
        f"{where} is {what}; of Optax's, rmsprop in chain, inject_hyperparams and apply_if_finite is "
        "translated: take the state inside it, if it is rmsprop's"
    )


def _once(found: Found, path: Path) -> None:
    if found.slots:
        raise ValueError(
            f"{'/'.join(path)} is a second average of squares: give one optimizer at a time"
        )


def _averages(node: Node, path: Path, found: Found) -> None:
    _once(found, path)
    found.slots = {slot: (*path, name) for slot, name in (("v", "nu"), ("m", "mu")) if name in node}
    found.corrected = "count" in node
    if found.corrected:
        found.counts.insert(0, (*path, "count"))  # what the correction goes by
    live = node.kind not in ("dict", "list", "FrozenDict")
    if live and not node.kind.startswith(_AVERAGED):
        raise ValueError(
            f"{'/'.join(path) or 'the whole'} is a {node.kind}: another optimizer's, not RMSprop's"
        )
    found.undecided = not live and set(node) == _V[3]


def _chained(node: Node, path: Path, found: Found) -> None:
    """A chain's states in their order: a trace counts behind the averages and the learning rate."""
    before: list[Any] = []
    kept = [set(x) if isinstance(x, Node) else set() for x in node.values()]
    own = {k + n for k, fields in enumerate(kept) if fields in _V for n in (1, 2)}
    found.more += sum(x in (set(), _COUNT) for k, x in enumerate(kept) if k not in own)
    for name, child in node.items():
        if isinstance(child, Node) and set(child) == _TRACE:
            scaled = len(before) >= 2 and set(before[-1] or ()) in (set(), _COUNT)
            if not scaled or not isinstance(before[-2], Node) or set(before[-2]) not in _V:
                _refuse(child, (*path, name))
            found.slots["b"] = (*path, name, "trace")
        else:
            _parse(child, (*path, name), found)
        before.append(child)


def _injected(node: Node, path: Path, found: Found) -> None:
    if found.numbers:
        raise ValueError(
            f"{'/'.join(path)} injects hyperparameters a second time: give the inner state"
        )
    here = node["hyperparams"] if isinstance(node["hyperparams"], Node) else Node("dict")
    for name in here:
        if name in NUMBERS:
            found.numbers[name] = (*path, "hyperparams", name)
        else:
            found.left[f"hyperparams/{name}"] = "no number of the rule"
    for name, state in (node.get("hyperparams_states") or {}).items():
        found.scheduled.add(name)
        if isinstance(state, Node) and "count" in state:
            found.counts.append((*path, "hyperparams_states", name, "count"))
