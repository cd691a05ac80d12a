"""Which tensor of a TensorFlow checkpoint is a slot of RMSProp's, and whose."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from rmsprop.convert.tensorflow.bundle import Item, read_index

NAME = "RMSProp"
FLOATS = ("float32", "float64", "float16", "bfloat16")
STEPS = ("global_step", "step", "iter", "iterations")
OTHERS = (
    "Adam",
    "Adadelta",
    "Adagrad",
    "AdagradDA",
    "Ftrl",
    "Momentum",
    "ExponentialMovingAverage",
)
"""The names under which other optimizers of TensorFlow keep theirs."""

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_SLOT = re.compile(r"(?s)(.*)/\.OPTIMIZER_SLOT/(.+)/([^/]+)" + re.escape(VALUE))
_NUMBERED = re.compile(r"(?s)(.+)_([1-9]\d?)")


@dataclass
class Scheme:
    """Which tensor of a checkpoint is what.

    Attributes
    ----------
    slots
        Of each parameter that the optimizer moved: the names of v, (m,) b.
    values
        Of each parameter whose value is there: its name in the file.
    step
        The counter's name; "" where there is none.
    left
        What else there is: what it is, by name.
    """

    slots: dict[str, list[str]] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    step: str = ""
    left: dict[str, str] = field(default_factory=dict)
    objects: bool = False

    @property
    def centered(self) -> bool:
        """Whether there is a slot for m."""
        return any(len(names) == 3 for names in self.slots.values())


def find_scheme(prefix: Path) -> Scheme:
    """Which tensor of a checkpoint is what, by the names and shapes in its index.

    Raises FileNotFoundError, and ValueError for files that are damaged or of another optimizer.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from rmsprop.convert.tensorflow.bundle_writing import write_bundle
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bundle(f"{folder}/model", {n: np.ones(2) for n in ("w", "w/My", "w/My_1", "other")})
    ...     found = find_scheme(Path(folder) / "model")
    >>> found.slots, found.values, found.left
    ({'w': ['w/My', 'w/My_1']}, {'w': 'w'}, {'other': 'a variable that the optimizer does not move'})
    """
    items = {k: v for k, v in read_index(prefix)[0].items() if not k.startswith("\0")}
    objects = any(name.endswith(VALUE) for name in items)
    scheme = Scheme(objects=objects)
    try:
        for name, item in items.items():
            if item.type_name.startswith("complex"):
                raise ValueError(
                    f"{name} is {item.type_name}: torch averages real and imaginary parts apart, Optax "
                    "|g|^2: this cannot be translated"
                )
        (_by_objects if objects else _by_names)(scheme, items)
        _check_slots(scheme, items)
    except ValueError as error:
        raise ValueError(f"{prefix}: {error}") from error
    _find_step(scheme, items)
    _find_values(scheme, items)
    return scheme


def _plain(name: str) -> str:
    return name.removesuffix(VALUE)


def _by_objects(scheme: Scheme, items: dict[str, Item]) -> None:
    """The slots of a `tf.train.Checkpoint`, each of which says whose it is."""
    if any(re.search(r"/_variables/\d+" + re.escape(VALUE), name) for name in items):
        raise ValueError(
            "it was written by a Keras 3 optimizer: save a .keras file, and convert that"
        )
    known: dict[str, dict[tuple[str, str], str]] = {}
    for name in items:
        if slot := _SLOT.fullmatch(name):
            known.setdefault(slot[1], {})[slot[2], slot[3]] = name
    for parameter, slots in known.items():
        optimizers = sorted({optimizer for optimizer, letter in slots if letter == "rms"})
        if len(optimizers) > 1:
            raise ValueError(f"{parameter} has slots of two optimizers, {', '.join(optimizers)}")
        for (optimizer, letter), name in slots.items():
            if [optimizer] != optimizers or letter not in ("rms", "mg", "momentum"):
                scheme.left[_plain(name)] = f"a slot, {letter}, of another optimizer"
        if optimizers:
            (of,) = optimizers
            if (of, "momentum") not in slots or f"{of}/rho{VALUE}" in items:
                raise ValueError(
                    f"{of} is not tf.compat.v1.train.RMSPropOptimizer but one of Keras: load it in Keras, "
                    "save a .keras file, and convert that"
                )
            letters = ("rms", "mg", "momentum")
            scheme.slots[parameter] = [slots[of, x] for x in letters if (of, x) in slots]


def _by_names(scheme: Scheme, items: dict[str, Item]) -> None:
    """The slots of a `Saver`: two or three tensors of a parameter's shape, named after it."""
    families = _families(items)
    ours = {key: names for key, names in families.items() if key[1] == NAME}
    if not ours:  # an optimizer with a name of its own
        ours = {k: names for k, names in families.items() if k[1] not in OTHERS and len(names) > 1}
        adam = [name for name in items if re.search(r"(^|/)beta1_power(_\d+)?$", name)]
        if ours and adam:
            raise ValueError(
                f"{adam[0]} says that Adam wrote it: only RMSProp's state is translated"
            )
    for (parameter, optimizer), names in ours.items():
        if len(names) not in (2, 3):
            raise ValueError(
                f"{parameter} has {len(names)} slots named {optimizer}, but RMSProp makes 2, or 3 if "
                "centered: save the variables of one optimizer, Saver(var_list=[...])"
            )
        if parameter in scheme.slots:
            raise ValueError(f"{parameter} has slots of two optimizers, {optimizer} is one of them")
        scheme.slots[parameter] = names
    for key, names in families.items():
        if key not in ours:
            what = f"{key[1]} of {key[0]}, which is not RMSProp's"
            scheme.left |= dict.fromkeys([n for n in names if n not in scheme.slots], what)


def _families(items: dict[str, Item]) -> dict[tuple[str, str], list[str]]:
    """By parameter and optimizer: w/Name, w/Name_1, ... in their order."""
    children: dict[str, set[str]] = {}
    for name, item in items.items():
        head, _, last = name.rpartition("/")
        if head and item.type_name in FLOATS:
            children.setdefault(head, set()).add(last)
    found = {}
    for head, lasts in children.items():
        counts: dict[str, list[int]] = {}
        for last in lasts:
            parts = _NUMBERED.fullmatch(last)
            counts.setdefault(parts[1] if parts and parts[1] in lasts else last, []).append(
                int(parts[2]) if parts and parts[1] in lasts else 0
            )
        for base, numbers in counts.items():
            names = [f"{head}/{base}" + (f"_{n}" if n else "") for n in sorted(numbers)]
            parameter = _owner(head, [items[name].shape for name in names], items)
            if not parameter and base == NAME:
                parameter = head  # slots without their parameters
            if parameter and sorted(numbers) == [*range(len(numbers))]:
                found[parameter, base] = names
    return found


def _owner(head: str, shapes: list[tuple[int, ...]], items: dict[str, Item]) -> str:
    """The parameter whose name ends what stands before the slot's: before that may stand a scope."""
    parts = head.split("/")
    for k in range(min(len(parts), 64)):
        name = "/".join(parts[k:])
        if name in items and items[name].type_name in FLOATS:
            return name if all(shape == items[name].shape for shape in shapes) else ""
    return ""


def _check_slots(scheme: Scheme, items: dict[str, Item]) -> None:
    if len({len(names) for names in scheme.slots.values()}) > 1:
        raise ValueError(
            "some parameters have 2 slots, others 3, as of two optimizers of which one is centered: "
            "save the variables of each apart, Saver(var_list=[...])"
        )
    for parameter, names in scheme.slots.items():
        own = parameter + VALUE if scheme.objects else parameter
        shapes = {items[name].shape for name in [*names, own] if name in items}
        types = {items[name].type_name for name in [*names, own] if name in items}
        if len(shapes) > 1 or len(types) > 1 or not types <= {*FLOATS}:
            raise ValueError(
                f"{parameter} and its slots must have one shape and one floating type; they have "
                f"{sorted(shapes)} and {sorted(types)}"
            )


def _find_step(scheme: Scheme, items: dict[str, Item]) -> None:
    counters = {
        _plain(name): name
        for name, item in items.items()
        if item.type_name in ("int32", "int64") and not item.shape
    }
    for last in STEPS:
        known = [name for name in counters if name.rpartition("/")[2] == last]
        if last in known or len(known) == 1:
            scheme.step = counters[last if last in known else known[0]]
            return


def _find_values(scheme: Scheme, items: dict[str, Item]) -> None:
    """Values of the parameters: of those that have slots, or of all where there are no slots."""
    slots = {name for names in scheme.slots.values() for name in names}
    for name, item in items.items():
        plain = _plain(name)
        if name in slots or name == scheme.step or plain in scheme.left:
            continue
        if item.type_name in FLOATS and (plain in scheme.slots or not scheme.slots):
            scheme.values[plain] = name
        elif name == "_CHECKPOINTABLE_OBJECT_GRAPH":
            scheme.left[plain] = "TensorFlow's graph of objects"
        elif item.type_name in FLOATS:
            scheme.left[plain] = "a variable that the optimizer does not move"
        else:
            scheme.left[plain] = f"of type {item.type_name}"
