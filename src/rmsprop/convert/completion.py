"""The last part of a translation: the target's order, what its kind keeps of every parameter, its dtypes."""

import numpy as np

from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.losses import Loss
from rmsprop.convert.translation import FRESH, WHOLE, Row, Translation
from rmsprop.rule import Rule


def complete(
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
        if fresh and kind not in WHOLE:  # PyTorch keeps no state of what has had no step
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
                if slot == "b" and not fresh and told.checkpoint.kind in WHOLE:
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


def narrow(
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
