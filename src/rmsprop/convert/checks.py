"""What a translation must not take for granted: refused, or named as a loss, before anything is written."""

from collections.abc import Collection

from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.losses import Loss
from rmsprop.convert.names import Place
from rmsprop.rule import Rule


def check_slots(source: Checkpoint, rules: list[Rule]) -> None:
    """Raise ValueError for an average that the rule divides by and the file lacks for a stepped parameter."""
    for name, entry in source.entries.items():
        if not entry.slots:
            continue
        if "b" in entry.slots and "momentum" not in source.groups[entry.group]:
            raise ValueError(
                f"{name!r} has a momentum buffer, and the file does not say the momentum: give it, --from "
                f"{source.dialect or 'torch'}:momentum=0.9 (momentum=0.9)"
            )
        for slot in rules[entry.group].slots:
            if slot not in entry.slots and slot != "b":
                mean = "mean of the gradients (m)" if slot == "m" else "mean of their squares (v)"
                raise ValueError(
                    f"{name!r} has no {mean}, which this rule needs and nobody can make up: if the rule that "
                    "wrote it is another, say so (--from torch:centered=false)"
                )


def check_members(entries: dict[str, Entry], like: Checkpoint) -> None:
    """Raise ValueError where the target has as many groups with other parameters, counted group by group."""
    theirs = [entry.group for entry in like.entries.values()]
    ours = [entry.group for entry in entries.values()]
    if len({*theirs}) == len({*ours}) > 1 and theirs != ours:
        name = next(n for n, a, b in zip(entries, ours, theirs, strict=True) if a != b)
        raise ValueError(
            f"{name!r} is in group {entries[name].group} of the source and in group "
            f"{like.entries[name].group} of the target: make the target with the same groups"
        )


def check_correction(
    entries: dict[str, Entry], new: list[Rule], step: int | None, fresh: Collection[str]
) -> None:
    """Raise ValueError for a parameter without a step where one count corrects the averages of all."""
    for name in fresh if step else ():
        if new[entries[name].group].bias_correction:
            raise ValueError(
                f"{name!r} has had no step and others {step}: bias correction by one count for all would "
                "not go on as it was"
            )


def lost_recurrence(source: Checkpoint) -> list[Loss]:
    """Name the loss of a GRU with one bias: it resets before the product, and torch.nn.GRU behind it."""
    for name, entry in source.entries.items():
        if entry.role == "gru/bias" and not name.endswith(("/input", "/recurrent")):
            why = f"{name} is of a GRU with reset_after=False, which torch.nn.GRU does not compute"
            return [Loss("gru", why)]
    return []


_STILL = ("not trained", "a buffer, no parameter", "a variable that the optimizer does not move")


def lost_buffers(source: Checkpoint) -> list[Loss]:
    """Name the loss of running statistics and frozen weights, where the parameters travel too."""
    still = [name for name, what in source.left.items() if what in _STILL]
    if not still or all(entry.value is None for entry in source.entries.values()):
        return []
    some = ", ".join(still[:4]) + (", ..." if len(still) > 4 else "")
    why = (
        f"{some} are not trained, and are not carried: copy them yourself (running statistics of "
        "normalisation layers, frozen weights)"
    )
    return [Loss("buffers", why)]


def flattened(source: Checkpoint, found: dict[str, Place], like: Checkpoint | None) -> list[str]:
    """A word on matrices that may stand behind a Flatten, where no file tells how layers are connected."""
    keras = source if source.layout == "keras" else like
    if keras is None or keras.kind == "keras":
        return []
    ours = (
        source.entries if keras is source else {n: keras.entries[p.name] for n, p in found.items()}
    )
    channels = {entry.shape[-1] for entry in ours.values() if len(entry.shape) > 2}
    notes = []
    for name, place in found.items():
        rows = ours[name].shape[0] if place.move.name == "transpose" else 0
        of = next((c for c in sorted(channels) if rows > c and rows % c == 0), 0)
        if of:
            notes.append(
                f"{name} takes {rows} numbers and a convolution gives {of} channels: if it stands behind a "
                'Flatten, its rows must be reordered, layout = "flatten" with sizes = [height, width, '
                f"{of}] in --map"
            )
    return notes[:3]


def assumed(source: Checkpoint) -> list[str]:
    """What stands in for numbers that the file does not tell, in words."""
    found = [source.assumed(k) for k in range(len(source.groups))]
    numbers = {name: value for group in found for name, value in group.items()}
    said = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
    if numbers and source.kind == "optax":  # these switches leave no trace in a state
        unsaid = [n for n in ("eps_in_sqrt", "nesterov") if n not in source.groups[0]]
        said += "".join(f", {name} {getattr(source.rule(), name)}" for name in unsaid)
    return [f"not in the file, the dialect's defaults: {said}"] if numbers else []
