"""From one optimizer's state to another's: units, names, layouts, and what is lost on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rmsprop.convert import checks
from rmsprop.convert.checkpoint import Array, Checkpoint, Entry
from rmsprop.convert.layouts import SAME, moved, with_gru_halves, without_gru_halves
from rmsprop.convert.losses import Loss, as_dialect, losses
from rmsprop.convert.names import Names, Place, is_to_torch, places
from rmsprop.rule import Rule

LAYOUTS = {"torch": "torch", "sb3": "torch", "bitsandbytes": "torch", "keras": "keras", "tf1": "keras",
           "optax": "keras", "numpy": ""}  # fmt: skip
"""The kinds of file that can be written, and how weights lie in them; "" as in the source."""

_IMPLIED = {"tf1": "tf1", "sb3": "sb3", "bitsandbytes": "torch"}
_WHOLE = ("keras", "tf1", "optax", "numpy")
"""Kinds with one rule for all parameters, and a state for each."""

FRESH = "it has had no step"


class Row(NamedTuple):
    """What happens to one tensor.

    Attributes
    ----------
    source, target
        Its names there and here, "" where it is on one side only.
    part
        "value", or the rule's "v", "m", "b".
    shape
        In the target.
    what
        In words.
    exact
        "yes"; "rounded", to the last place of the arithmetic; or "no".
    """

    source: str
    target: str
    part: str
    shape: tuple[int, ...]
    what: str
    exact: str = "yes"


@dataclass
class Translation:
    """A checkpoint for another framework, and how it came about.

    Attributes
    ----------
    checkpoint
        What is to be written.
    rows
        One for each tensor.
    losses
        What the run will not go on with as it was; empty where the translation is faithful.
    notes
        What else to know.
    """

    checkpoint: Checkpoint
    rows: list[Row] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
        A key of `LAYOUTS`.
    dialect
        Whose rule is to go on: "torch", "timm", "sb3", "keras", "tf1" or "optax". Default: the source's
        rule, but for kinds whose optimizer has one rule only ("tf1", "sb3", "bitsandbytes").
    lr
        The learning rate of the next step, or one for each group. Default: the one in the file.
    step
        Updates made. Default: what the file says.
    names
        As in `rmsprop.convert.names.places`.
    like
        A checkpoint of the target's model: its names, their order, shapes and dtypes are taken.

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
    wanted = dialect or _IMPLIED.get(kind)
    if kind == "sb3" and like is not None and like.dialect and not dialect:
        wanted = like.dialect
    new = [as_dialect(rule, wanted) if wanted else rule for rule in old]
    if kind == "bitsandbytes":
        new = [rule.replace(momentum=0.0, centered=False) for rule in new]
    found = places(source, like, layout, names)
    told = Translation(
        source, notes=[*source.notes, *checks.assumed(source)], losses=[*source.losses]
    )
    told.losses += _rule_losses(source, old, new, kind) + _missing(source, like, found)
    if layout == "torch" and source.layout == "keras":
        told.losses += checks.lost_recurrence(source)
    told.losses += checks.lost_buffers(source)
    if "torch" in (layout, source.layout) and layout != source.layout:
        told.notes += checks.flattened(source, found, like)
    known = _step(source, step, new, told)
    entries = _entries(source, old, new, found, layout, told)
    first = min(entry.group for entry in source.entries.values())  # a group may be empty
    if kind in _WHOLE:
        new = [new[first]] * len(new)
    _complete(entries, new, like, kind, told)
    if kind in _WHOLE:
        fresh = {row.target for row in told.rows if row.what.endswith(FRESH)}
        checks.check_correction(entries, new, known, fresh)
    elif like is not None:
        checks.check_members(entries, like)
    _narrow(entries, like, kind, told)
    groups = [new[0]] if kind in _WHOLE else new
    for entry in entries.values():
        entry.group = 0 if kind in _WHOLE else entry.group
    named = source.named if like is None else like.named
    if kind == "numpy" and any(place.move != SAME for place in found.values()):
        layout = ""  # by the user's own map
    rules = [rule.to_dict() for rule in groups]
    ordered = source.ordered if like is None else like.ordered
    result = Checkpoint(kind, wanted or "", rules, entries, known, layout, named, ordered=ordered)
    told.checkpoint = without_gru_halves(result) if layout == "keras" else result
    told.rows += [
        Row(name, "", "", (), f"not translated: {what}") for name, what in source.left.items()
    ]
    return told


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
    if kind in _WHOLE and len({new[k] for k in used}) > 1:
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


def _complete(
    entries: dict[str, Entry],
    new: list[Rule],
    like: Checkpoint | None,
    kind: str,
    told: Translation,
) -> None:
    """Bring the entries into the target's order, and make what its kind keeps and the source lacks."""
    if like is not None:
        ordered = {
            name: entries.get(name, _lacking(other, len(new)))
            for name, other in like.entries.items()
        }
        for name, entry in ordered.items():
            entry.role = like.entries[name].role
        entries.clear()
        entries.update(ordered)
    for name, entry in entries.items():
        rule, shape = new[entry.group], entry.shape
        fresh = not entry.slots
        if fresh and entry.value is None:
            shape = () if like is None else like.entries[name].shape
        if fresh and kind not in _WHOLE:  # PyTorch keeps no state of what has had no step
            told.rows.append(Row("", name, "", shape, f"no state: {FRESH}"))
            continue
        if fresh and entry.value is None and like is None:
            raise ValueError(
                f"{name!r} has had no step, and nothing says its shape: give --params or --like"
            )
        dtype = _dtype(entry, like.entries[name] if like is not None else None)
        for slot in rule.slots:
            if slot not in entry.slots:
                start = rule.initial_scale if slot == "v" else 0.0
                if slot == "b" and not fresh and told.checkpoint.kind in _WHOLE:
                    _unkept(name, told)
                entry.slots[slot] = np.full(shape, start, dtype)
                why = FRESH if fresh else f"the source has no {slot}"
                told.rows.append(Row("", name, slot, shape, f"starts at {start:g}: {why}"))


def _unkept(name: str, told: Translation) -> None:
    """Name the loss of a buffer of which the source says there was none: PyTorch begins one at zero too."""
    if not any(loss.name == "momentum" for loss in told.losses):
        told.losses.append(
            Loss(
                "momentum",
                f"{name} has no momentum buffer in the source, and it would start at zero",
            )
        )


def _lacking(other: Entry, groups: int) -> Entry:
    """A parameter of the target that the source lacks."""
    return Entry(value=other.value, group=min(other.group, groups - 1), role=other.role)


def _dtype(entry: Entry, other: Entry | None) -> np.dtype:
    for known in (entry, other):
        arrays = [] if known is None else [*known.slots.values(), known.value]
        for array in arrays:
            if array is not None:
                return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)
    return np.dtype(np.float32)


def _narrow(
    entries: dict[str, Entry], like: Checkpoint | None, kind: str, told: Translation
) -> None:
    """Bring float64 to the float32 of the target, which is a loss."""
    cut = []
    for name, entry in entries.items():
        template = None if like is None else like.entries[name].value
        if template is None:
            continue
        dtype = np.dtype(np.float64 if template.dtype == np.float64 else np.float32)
        parts = [*entry.slots.values(), *([] if entry.value is None else [entry.value])]
        if any(a.dtype == np.float64 for a in parts) and dtype == np.float32:
            cut.append(name)
        entry.slots = {slot: a.astype(dtype, copy=False) for slot, a in entry.slots.items()}
        entry.value = None if entry.value is None else entry.value.astype(dtype, copy=False)
    if kind == "bitsandbytes":
        cut = [name for name, entry in entries.items() if entry.slots]
    if cut:
        to = "8 bits" if kind == "bitsandbytes" else "float32"
        told.losses.append(Loss("precision", f"{', '.join(cut[:5])} would be rounded to {to}"))
        rows = [row._replace(exact="no") if row.target in cut else row for row in told.rows]
        told.rows[:] = rows
