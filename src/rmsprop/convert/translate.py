"""From one optimizer's state to another's: units, names, layouts, and what is lost on the way."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rmsprop.convert import checks
from rmsprop.convert.checkpoint import Array, Checkpoint, Entry
from rmsprop.convert.completion import complete, narrow
from rmsprop.convert.layouts import SAME, moved, with_gru_halves, without_gru_halves
from rmsprop.convert.losses import Loss, as_dialect, losses
from rmsprop.convert.names import Names, Place, is_to_torch, places
from rmsprop.convert.translation import FRESH, LAYOUTS, WHOLE, Row, Translation
from rmsprop.rule import Rule

_IMPLIED = {"tf1": "tf1", "sb3": "sb3", "bitsandbytes": "torch"}


def translate(
    source: Checkpoint,
    kind: str,
    *,
    dialect: str | None = None,
    lr: float | Sequence[float] | None = None,
    step: int | None = None,
    names: Names = None,
    like: Checkpoint | None = None,
) -> Translation:
    """What a checkpoint becomes in another kind of file; nothing is written.

    The rule stays what it was unless a dialect is named: v and m are then copied, b is copied, and the
    optimizer that goes on computes the old framework's update in the new one.  To another dialect,

    ::

        b (lr inside) = lr * b (lr outside)      with the learning rate of the next step

    which is exact as long as lr stays what it is.

    Parameters
    ----------
    source
        What `rmsprop.convert.read` returned.
    kind
        "torch", "sb3", "bitsandbytes", "keras", "tf1", "optax" or "numpy".
    dialect
        Whose rule is to go on: "torch", "timm", "sb3", "keras", "tf1" or "optax". Default: the source's
        rule, but for kinds whose optimizer has one rule only ("tf1", "sb3", "bitsandbytes").
    lr
        The learning rate of the next step, or one for each group. Default: the one in the file.
    step
        Updates made. Default: what the file says.
    names
        Which parameter is which: a dict such as {"dense/kernel": "fc.weight"}, whose values may also be
        {"to": "fc.weight", "layout": "transpose"}; a function of the source's names; "order"; or None, by
        what the frameworks call them.
    like
        A checkpoint of the target's model: its names, their order, shapes and dtypes are taken.

    Returns
    -------
    Translation
        The new `checkpoint`, a row for each tensor in `rows`, `losses` and `notes`.

    Raises
    ------
    ValueError
        For what cannot be translated at any price.

    Examples
    --------
    >>> w = Entry({"v": np.ones(2), "b": np.ones(2)})
    >>> keras = Checkpoint("keras", "keras", [{"lr": 0.5, "momentum": 0.9, "eps": 0.0}], {"w": w}, step=3)
    >>> translate(keras, "torch", dialect="torch").checkpoint.entries["w"].slots["b"]
    array([2., 2.])
    """
    if kind not in LAYOUTS:
        raise ValueError(f"no file of kind {kind!r} can be written; known: {', '.join(LAYOUTS)}")
    if not source.slots():
        raise ValueError(
            "the source holds no optimizer state, only parameters: nothing to translate"
        )
    like = None if like is None else with_gru_halves(like)
    source = _with_rates(with_gru_halves(source), lr)
    layout = LAYOUTS[kind] or source.layout
    old = [source.rule(k) for k in range(len(source.groups))]
    checks.check_slots(source, old)
    wanted = _wanted(kind, dialect, like)
    new = [_new_rule(rule, kind, wanted) for rule in old]
    found = places(source, like, layout, names)
    told = _foreseen(source, old, new, found, layout, kind, like)
    known = _step(source, step, new, told)
    entries = _entries(source, old, new, found, layout, told)
    if kind in WHOLE:  # a group may be empty: the rule is that of the first that is not
        new = [new[min(entry.group for entry in source.entries.values())]] * len(new)
    complete(entries, new, like, kind, told)
    if kind in WHOLE:
        fresh = {row.target for row in told.rows if row.what.endswith(FRESH)}
        checks.check_correction(entries, new, known, fresh)
    elif like is not None:
        checks.check_members(entries, like)
    narrow(entries, like, kind, told)
    if kind == "numpy" and any(place.move != SAME for place in found.values()):
        layout = ""  # by the user's own map
    result = _result(entries, new, kind, wanted, layout)
    shape = source if like is None else like
    told.checkpoint = replace(result, step=known, named=shape.named, ordered=shape.ordered)
    told.rows += [
        Row(name, "", "", (), f"not translated: {what}") for name, what in source.left.items()
    ]
    return told


def _wanted(kind: str, dialect: str | None, like: Checkpoint | None) -> str:
    """Whose rule is to go on; "" keeps the source's."""
    if kind == "sb3" and like is not None and not dialect:
        return like.dialect or _IMPLIED[kind]
    return dialect or _IMPLIED.get(kind, "")


def _new_rule(rule: Rule, kind: str, wanted: str) -> Rule:
    new = as_dialect(rule, wanted) if wanted else rule
    return new.replace(momentum=0.0, centered=False) if kind == "bitsandbytes" else new


def _foreseen(
    source: Checkpoint,
    old: list[Rule],
    new: list[Rule],
    found: dict[str, Place],
    layout: str,
    kind: str,
    like: Checkpoint | None,
) -> Translation:
    """What is lost, and what to know, before any array is looked at."""
    notes = [*source.notes, *checks.assumed(source)]
    lost = [*source.losses, *_rule_losses(source, old, new, kind), *_missing(source, like, found)]
    if layout == "torch" and source.layout == "keras":
        lost += checks.lost_recurrence(source)
    if "torch" in (layout, source.layout) and layout != source.layout:
        notes += checks.flattened(source, found, like)
    return Translation(source, losses=lost + checks.lost_buffers(source), notes=notes)


def _result(
    entries: dict[str, Entry], new: list[Rule], kind: str, wanted: str, layout: str
) -> Checkpoint:
    groups = [new[0]] if kind in WHOLE else new
    for entry in entries.values():
        entry.group = 0 if kind in WHOLE else entry.group
    rules = [rule.to_dict() for rule in groups]
    result = Checkpoint(kind, wanted, rules, entries, layout=layout)
    return without_gru_halves(result) if layout == "keras" else result


def _with_rates(source: Checkpoint, lr: float | Sequence[float] | None) -> Checkpoint:
    """The checkpoint with the learning rates that were given."""
    if lr is None:
        return source
    rates = list(lr) if isinstance(lr, Sequence) else [lr] * len(source.groups)
    if not isinstance(lr, Sequence) and len({group.get("lr") for group in source.groups}) > 1:
        raise ValueError(
            f"one learning rate for {len(source.groups)} groups, which have different ones: give one for each"
        )
    if len(rates) != len(source.groups):
        raise ValueError(
            f"{len(rates)} learning rates for {len(source.groups)} groups: give one for each"
        )
    groups = [g | {"lr": Rule(lr=rate).lr} for g, rate in zip(source.groups, rates, strict=True)]
    source = source.with_entries(source.entries)
    source.groups = groups
    return source


def _rule_losses(source: Checkpoint, old: list[Rule], new: list[Rule], kind: str) -> list[Loss]:
    found: dict[str, Loss] = {}
    for k, (a, b) in enumerate(zip(old, new, strict=True)):
        started = all("v" in e.slots for e in source.entries.values() if e.group == k)
        for loss in losses(a, b, started=started):
            found.setdefault(loss.name, loss)
    used = {entry.group for entry in source.entries.values()}
    if kind in WHOLE and len({new[k] for k in used}) > 1:
        found["groups"] = Loss(
            "groups", f"the source has {len(old)} groups of parameters with rules of their own, and this "
            "kind has one rule: all would go on with the first group's"
        )  # fmt: skip
    refused = [loss for loss in found.values() if not loss.name]
    if refused:
        raise ValueError(f"this cannot be translated: {refused[0].why}")
    return list(found.values())


def _missing(source: Checkpoint, like: Checkpoint | None, found: dict[str, Place]) -> list[Loss]:
    """Parameters on one side only."""
    there = [name for name in source.entries if name not in found]
    taken = {place.name for place in found.values()}
    here = [] if like is None else [name for name in like.entries if name not in taken]
    lines = [f"{', '.join(there[:5])} of the source would be left out"] if there else []
    lines += [f"{', '.join(here[:5])} of the target would start fresh"] if here else []
    advice = ": a map of names (--map) says which is which"
    return [Loss("missing", "; ".join(lines) + advice)] if lines else []


def _step(source: Checkpoint, step: int | None, new: list[Rule], told: Translation) -> int | None:
    if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 0):
        raise ValueError(f"step must be a whole number, 0 or more; got {step!r}")
    known = source.step if step is None else step
    if known is None and any(rule.bias_correction for rule in new):
        raise ValueError(
            "the source does not say how many steps were made, and bias correction needs it: give --step N"
        )
    if known is None:
        told.losses.append(
            Loss("step", "the source does not say how many steps were made, and the count would start at 0: "
                 "give --step N")
        )  # fmt: skip
    return known


def _entries(
    source: Checkpoint,
    old: list[Rule],
    new: list[Rule],
    found: dict[str, Place],
    layout: str,
    told: Translation,
) -> dict[str, Entry]:
    entries, to_torch = {}, is_to_torch(source.layout, layout)
    for name, place in found.items():
        entry = source.entries[name]
        a, b = old[entry.group], new[entry.group]
        parts = {} if entry.value is None else {"value": entry.value}
        made: dict[str, Array] = {}
        for part, array in (parts | entry.slots).items():
            changed, what, exact = _unit(part, array, a, b)
            if changed is not None:
                made[part] = moved(place.move, changed, to_torch)
                words = [w for w in (_moving(place, to_torch), what) if w] or ["copied"]
                told.rows.append(
                    Row(name, place.name, part, made[part].shape, ", ".join(words), exact)
                )
            else:
                told.rows.append(Row(name, "", part, array.shape, what, exact))
        value = made.pop("value", None)
        entries[place.name] = Entry(made, value, entry.group, entry.role)
    return entries


def _moving(place: Place, to_torch: bool) -> str:
    if place.move == SAME:
        return ""
    words = {
        "transpose": "transposed",
        "gru": "transposed, gates reordered",
        "gru bias": "gates reordered",
    }
    to = "PyTorch's" if to_torch else "Keras's"
    return words.get(place.move.name, f"{place.move} to {to} order")


def _unit(part: str, array: Array, a: Rule, b: Rule) -> tuple[Array | None, str, str]:
    """A part under the new rule, what was done to it, and whether exactly; None where it is dropped."""
    if part == "value" or (part in a.slots and part != "b" and part in b.slots):
        return array, "", "yes"
    if part not in a.slots:
        return None, "dropped: the rule that wrote it does not use it", "yes"
    if part not in b.slots:
        return None, f"dropped: the new rule has no {part}", "no"
    if a.lr_in_momentum == b.lr_in_momentum or a.first_moment == "before":
        return array, "", "yes"
    if not a.lr > 0:
        raise ValueError(
            "the momentum buffer cannot be brought from one unit to the other at a learning rate of 0: give "
            "that of the next step that moves, --lr 0.001"
        )
    rate = array.dtype.type(a.lr)
    what = f"times lr {a.lr:g}" if b.lr_in_momentum else f"divided by lr {a.lr:g}"
    with np.errstate(all="ignore"):
        found = array * rate if b.lr_in_momentum else array / rate
    if np.count_nonzero(np.isfinite(found)) < np.count_nonzero(np.isfinite(array)):
        raise ValueError(
            f"the momentum buffer {what} goes beyond {array.dtype}: give the learning rate of the next step, "
            "--lr 0.001"
        )
    return found, what, "rounded"
