"""Optax's RMSprop states, and `rmsprop.jax`'s, from and to the canonical form; live ones, or files' trees."""

from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import SLOTS, Checkpoint, Entry
from rmsprop.convert.losses import Loss
from rmsprop.convert.optax import trees
from rmsprop.convert.optax.find import NUMBERS, Found, find
from rmsprop.convert.optax.trees import Array, Path
from rmsprop.dialects import DIALECTS, PRESETS
from rmsprop.rule import Rule

_ROLES = {"embedding": "embeddings", "scale": "gamma", "kernel": "kernel", "bias": "bias"}


def of_state(state: Any, params: Any = None, *, told: dict[str, Any] | None = None) -> Checkpoint:
    """The canonical form of a live state: `optax.rmsprop`'s in any spelling, or `rmsprop.jax`'s.

    It may stand in `optax.chain`, `inject_hyperparams` and `apply_if_finite`, and in a tree like Flax's
    TrainState, with its parameters and its step beside it. v is nu, m is mu, b is -trace; ours are as they
    are.

    Parameters
    ----------
    state
        A pytree; or what a file holds, dicts and lists with the same names in them.
    params
        The parameters, a tree as the optimizer was given. Default: those beside the state, if any.
    told
        Fields of `rmsprop.Rule` which the state does not tell; `centered=True` says of count, mu and nu that
        they are those of centered RMSprop with bias correction, and not Adam's.

    Raises
    ------
    ValueError
        For another optimizer's state, a wrapper of Optax's that is not supported (masked, partition,
        MultiSteps), several states, or parameters that are not real floating-point numbers.

    Examples
    --------
    >>> import numpy as np
    >>> state = [{"nu": {"w": np.ones(2, np.float32)}}, {}, {"trace": {"w": np.full(2, -3.0)}}]
    >>> of_state(state).entries["w"].slots
    {'v': array([1., 1.], dtype=float32), 'b': array([3., 3.])}
    """
    given = dict(told or {})
    tree = trees.plain(state if params is None else {"params": params, "opt_state": state})
    found = find(tree)
    if found.undecided and given.get("centered") is not True:
        raise ValueError(
            "the fields count, mu and nu are those of Adam, and of centered RMSprop with bias correction: "
            "say centered=True if it is that; Adam's state is not translated"
        )
    made = Checkpoint("optax", layout="keras", left=found.left, ordered=False)
    made.dialect = given.pop("dialect", "" if found.ours or not found.slots else "optax")
    made.entries = _entries(tree, found, made)
    made.groups = [_group(given, _facts(tree, found), found, made)]
    made.step = _step(tree, found, made)
    spoken = {"weight_decay", "clip_value", "clip_norm", "clip_global_norm"} & set(given)
    if found.more and found.slots and not spoken:
        made.losses.append(
            Loss("chain", f"beside RMSprop the chain has {found.more} more transformations, and their states "
                 "do not tell what they do: of clipping and weight decay say it, --from "
                 "optax:weight_decay=0.0001, or 0")
        )  # fmt: skip
    return made


def into_state(checkpoint: Checkpoint, like: Any) -> Any:
    """A template with the checkpoint's slots, count and numbers in it.

    Parameters
    ----------
    checkpoint
        As its state's owner means it: for Optax's, b holds the learning rate (lr_in_momentum).
    like
        A state as `of_state` takes, say `optax.rmsprop(...).init(params)`, or a tree with one in it; then
        also its parameters are replaced, if the checkpoint holds them. It is not changed.

    Raises
    ------
    ValueError
        Where the template keeps what the checkpoint lacks, or the other way round, or would round it.

    Examples
    --------
    >>> import numpy as np
    >>> state = [{"nu": {"w": np.ones(2)}}, {}, {}]
    >>> into_state(of_state(state), [{"nu": {"w": np.zeros(2)}}, {}, {}])
    [{'nu': {'w': array([1., 1.])}}, {}, {}]
    """
    tree = trees.plain(like)
    found = find(tree)
    group = _one_group(checkpoint)
    _check_slots(checkpoint, found, group)
    new: dict[Path, Any] = {}
    for slot, path in found.slots.items():
        sign = -1 if slot == "b" and not found.ours else 1
        values = {n: sign * e.slots[slot] for n, e in checkpoint.entries.items() if slot in e.slots}
        _place(tree, path, values, slot, new)
    if found.params is not None and any(e.value is not None for e in checkpoint.entries.values()):
        values = {n: e.value for n, e in checkpoint.entries.items() if e.value is not None}
        _place(tree, found.params, values, "value", new)
    if found.counts and checkpoint.step is None:
        raise ValueError(
            "the template counts steps, and the checkpoint does not say how many: give --step"
        )
    steps = found.counts + ([] if found.step is None else [found.step])
    new |= {
        path: _int(checkpoint.step, trees.at(tree, path))
        for path in steps
        if checkpoint.step is not None
    }
    for name, path in found.numbers.items():
        told = group.get(NUMBERS[name])
        if told is not None and name not in found.scheduled:
            new[path] = trees.cast(told, trees.at(tree, path), name)
    return trees.rebuilt(like, new)


def fresh(checkpoint: Checkpoint) -> Any:
    """A tree for a file that is written without a template: {"params": ..., "opt_state": ...}.

    The state is `optax.rmsprop`'s with a constant learning rate, as a list with a dict for each named tuple,
    where that computes the rule; else `rmsprop.jax.State`'s. The checkpoint's notes say which.

    Raises ValueError where its groups differ, as neither keeps them.

    Examples
    --------
    >>> import numpy as np
    >>> rule = Rule.from_dialect("optax", lr=0.1).to_dict()
    >>> fresh(Checkpoint("optax", groups=[rule], entries={"a/w": Entry({"v": np.ones(1)})}))
    {'opt_state': [{'nu': {'a': {'w': array([1.])}}}, {}, {}]}
    """
    rule = Rule.from_dict(_one_group(checkpoint))
    entries, count = checkpoint.entries, checkpoint.step
    kept = {
        s: trees.nested({n: e.slots[s] for n, e in entries.items() if s in e.slots})
        for s in rule.slots
    }
    for name, entry in entries.items():
        if set(entry.slots) != set(rule.slots):
            raise ValueError(
                f"{name} has {sorted(entry.slots)}, and the rule keeps {list(rule.slots)}"
            )
    native = _native(rule)
    if count is None and (rule.bias_correction or not native):
        raise ValueError("the state to write counts steps: give --step")
    if native:
        state = _optaxs(rule, kept, count)
        said = f"the state is that of {_call(rule)}, which also has to be given these numbers"
    else:
        state = {"count": _counter(count), "v": None, "m": None, "b": None, "key": None} | kept
        said = (
            f"optax.rmsprop has not this rule; the state is that of rmsprop.jax.from_rule({rule!r})"
        )
    checkpoint.notes.append(said)
    values = {name: e.value for name, e in entries.items() if e.value is not None}
    if values and len(values) < len(entries):
        lacking = next(n for n in entries if n not in values)
        raise ValueError(
            f"some parameters have values and {lacking} has none: give --params for all"
        )
    return ({"params": trees.nested(values)} if values else {}) | {"opt_state": state}


def _entries(tree: Any, found: Found, made: Checkpoint) -> dict[str, Entry]:
    """An entry for each parameter, from all the trees that have one."""
    tables = {slot: trees.named(trees.at(tree, path), path) for slot, path in found.slots.items()}
    params = {} if found.params is None else trees.named(trees.at(tree, found.params), found.params)
    if params and not found.slots and found.params == () and not _looks_like_params(tree, params):
        raise ValueError(
            f"it holds no state of Optax's and no parameters; what is there: {', '.join(list(params)[:6])}"
        )
    if params and tables:
        params = _matching(params, next(iter(tables.values())), found)
    columns = tables | ({"value": params} if params else {})
    first = next(iter(columns), None)
    for other in list(columns)[1:]:
        _same_names(columns[first or ""], columns[other], first or "", other)
    entries: dict[str, Entry] = {}
    for name in columns[first] if first else ():
        arrays = {
            c: trees.widened(trees.at(tree, t[name]), f"{name} ({c})") for c, t in columns.items()
        }
        if len({a.shape for a in arrays.values()}) > 1:
            shown = ", ".join(f"{c} {a.shape}" for c, a in arrays.items())
            raise ValueError(f"{name} has several shapes: {shown}")
        if "b" in arrays and not found.ours:
            arrays["b"] = -arrays["b"]
        shape = next(iter(arrays.values())).shape
        entries[name] = Entry(
            value=arrays.pop("value", None), slots=arrays, role=_role(name, shape)
        )
    small = {str(getattr(x, "dtype", "")) for _, x in trees.leaves(tree)} & {
        "float16",
        "bfloat16",
        str(trees.BFLOAT16),
    }
    if small and entries:
        made.notes.append("arrays of two bytes are widened to float32, which is exact")
    return entries


def _role(name: str, shape: tuple[int, ...]) -> str:
    """What Flax's name says of a parameter, but for kernels that are neither dense nor a convolution's."""
    *_, layer, last = f"/{name}".split("/")
    projects = layer in ("query", "key", "value", "out") and len(shape) == 3
    if last == "kernel" and (projects or "convtranspose" in layer.lower()):
        return ""
    return _ROLES.get(last, last if last.startswith("recurrent") else "")


def _looks_like_params(tree: Any, params: dict[str, Path]) -> bool:
    """Whether all of it is arrays of numbers with a fraction."""
    found = [trees.at(tree, path) for path in params.values()]
    return all(
        hasattr(x, "dtype")
        and (x.dtype == trees.BFLOAT16 or str(x.dtype).startswith(("float", "bfloat", "complex")))
        for x in found
    )


def _matching(params: dict[str, Path], slots: dict[str, Path], found: Found) -> dict[str, Path]:
    """The parameters by the slots' names, where only the former have other collections beside "params"."""
    inner = {n.removeprefix("params/"): p for n, p in params.items() if n.startswith("params/")}
    if set(params) == set(slots) or set(inner) != set(slots):
        return params
    found.left |= {n: "beside the parameters" for n in params if not n.startswith("params/")}
    found.params = (*(found.params or ()), "params")
    return inner


def _same_names(one: dict[str, Any], other: dict[str, Any], a: str, b: str) -> None:
    """ValueError where two trees have not the same leaves."""
    lacking, more = [n for n in one if n not in other], [n for n in other if n not in one]
    if lacking or more:
        words = {"value": "the parameters"}
        shown = "; ".join(
            f"only {words.get(which, which)} has {', '.join(names[:3])}{' ...' * (len(names) > 3)}"
            for which, names in ((a, lacking), (b, more))
            if names
        )
        raise ValueError(
            f"{words.get(a, a)} and {words.get(b, b)} are not of the same parameters: {shown}"
        )


def _facts(tree: Any, found: Found) -> dict[str, Any]:
    """Fields of the rule that the state tells: its numbers, and what it keeps."""
    facts: dict[str, Any] = {}
    if found.slots and not found.ours:
        facts = {"centered": "m" in found.slots, "bias_correction": found.corrected}
    if found.ours and "m" in found.slots:
        facts["centered"] = True
    for name, path in found.numbers.items():
        value = trees.at(tree, path)
        if value is not None:
            facts[NUMBERS[name]] = trees.number(value, name)
    if found.slots and "b" not in found.slots:
        facts["momentum"] = 0.0
    return facts


def _group(
    told: dict[str, Any], facts: dict[str, Any], found: Found, made: Checkpoint
) -> dict[str, Any]:
    """What the state tells of the rule, and what is told beside; of a schedule the latter counts."""
    scheduled = {NUMBERS[name] for name in found.scheduled if name in NUMBERS}
    for name in sorted(scheduled - set(told)):
        made.notes.append(
            f"{name} follows a schedule, which is not in the state: {facts.get(name)} was its last value"
        )
    for name, value in facts.items():
        if name in told and told[name] != value and name not in scheduled:
            made.notes.append(f"the state says {name}={value}, which counts, and not {told[name]}")
    # The next step's rate is another, and a momentum buffer would be brought into the wrong unit.
    return told | {n: x for n, x in facts.items() if n not in scheduled or n not in {"lr", *told}}


def _step(tree: Any, found: Found, made: Checkpoint) -> int | None:
    """The updates made, by the optimizer's own counts, else by the step beside it."""
    counted = [*found.counts, *([] if found.step is None else [found.step])]
    counts = [trees.whole(trees.at(tree, path), "/".join(path)) for path in counted]
    if len(set(counts)) > 1:
        shown = ", ".join(f"{'/'.join(path)} {n}" for path, n in zip(counted, counts, strict=True))
        made.notes.append(f"its counts of steps differ ({shown}); the first is taken")
    return counts[0] if counts else None


def _one_group(checkpoint: Checkpoint) -> dict[str, Any]:
    """The group of all entries; a state of Optax's keeps the numbers of none."""
    used = sorted({e.group for e in checkpoint.entries.values()}) or [0]
    groups = [checkpoint.groups[k] for k in used]
    if any(group != groups[0] for group in groups):
        raise ValueError(
            f"its {len(used)} groups have different numbers, and one optax.rmsprop has one of each: write "
            "them one at a time"
        )
    return dict(groups[0])


def _check_slots(checkpoint: Checkpoint, found: Found, group: dict[str, Any]) -> None:
    """ValueError where the template and the checkpoint do not keep the same."""
    words = (
        dict(zip(SLOTS, SLOTS, strict=True))
        if found.ours
        else {"v": "v (nu)", "m": "m (mu)", "b": "b (trace)"}
    )
    remedy = {"v": "second_moment", "m": "centered", "b": "momentum"}
    there = checkpoint.slots()
    for slot in SLOTS:
        if slot in found.slots and slot not in there:
            raise ValueError(
                f"the template keeps {words[slot]}, which the checkpoint lacks: make it without "
                f"{remedy[slot]}"
            )
        if slot in there and slot not in found.slots:
            raise ValueError(
                f"the checkpoint holds {words[slot]}, which the template does not keep: make it with "
                f"{remedy[slot]}"
            )
    rule = (DIALECTS | PRESETS)[checkpoint.dialect].fields if checkpoint.dialect else {}
    known = rule | group
    if "b" in there and not found.ours and not known.get("lr_in_momentum", False):
        raise ValueError(
            "the template's trace holds the learning rate, and the checkpoint's b does not, or it is not "
            "known: translate it, or say lr_in_momentum=True"
        )
    if "v" in there and not found.ours and bool(known.get("bias_correction")) != found.corrected:
        has, lacks = ("template", "checkpoint") if found.corrected else ("checkpoint", "template")
        raise ValueError(
            f"the {has} has bias_correction=True, and the {lacks} has not: make them the same"
        )


def _place(tree: Any, path: Path, values: dict[str, Any], what: str, new: dict[Path, Any]) -> None:
    """Put each value where the template has its name."""
    places = trees.named(trees.at(tree, path), path)
    _same_names(values, places, "the checkpoint", "the template")
    for name, place in places.items():
        new[place] = trees.cast(values[name], trees.at(tree, place), f"{name} ({what})")


def _int(step: int | None, leaf: Any) -> Any:
    """A count in the type of the one it replaces."""
    return trees.cast(np.asarray(step, np.int64), leaf, "count")


def _counter(step: int | None) -> Array:
    """A count as Optax keeps it, which stops at the largest."""
    return np.asarray(min(step or 0, np.iinfo(np.int32).max), np.int32)


def _native(rule: Rule) -> bool:
    """Whether optax.rmsprop computes it."""
    clipped = any((rule.clip_value, rule.clip_norm, rule.clip_global_norm))
    averaged = rule.second_moment == "ema" and rule.first_moment == "after"
    inside = rule.lr_in_momentum or not rule.momentum
    return averaged and inside and not (rule.weight_decay or clipped or rule.maximize)


def _optaxs(rule: Rule, kept: dict[str, Any], count: int | None) -> list[Any]:
    """optax.rmsprop's chain: averages, learning rate, trace."""
    averages = {"count": _counter(count)} if rule.bias_correction else {}
    averages |= {"mu": kept["m"]} if "m" in kept else {}
    trace = {"trace": _negated(kept["b"])} if "b" in kept else {}
    return [averages | {"nu": kept["v"]}, {}, trace]


def _negated(tree: Any) -> Any:
    return {k: _negated(x) for k, x in tree.items()} if isinstance(tree, dict) else -tree


def _call(rule: Rule) -> str:
    """How the optimizer is made that goes on with the state."""
    words = {"learning_rate": rule.lr, "decay": rule.decay, "eps": rule.eps}
    on = {
        n: getattr(rule, n) for n in ("centered", "nesterov", "bias_correction") if getattr(rule, n)
    }
    words |= ({} if rule.eps_in_sqrt else {"eps_in_sqrt": False}) | on
    words |= {"momentum": rule.momentum} if rule.momentum else {}
    return f"optax.rmsprop({', '.join(f'{name}={value!r}' for name, value in words.items())})"
