"""The canonical form: what an optimizer remembers, whatever framework's file it came from."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from rmsprop.convert.losses import Loss
from rmsprop.dialects import DIALECTS, PRESETS
from rmsprop.rule import Rule

Array = np.ndarray[Any, Any]
SLOTS = ("v", "m", "b")


@dataclass
class Entry:
    """One parameter, and what is remembered of it.

    Attributes
    ----------
    slots
        Of "v", "m" and "b" those that there are: of the parameter's shape, float32 or float64. As the rule
        that wrote them means them: raw averages, not corrected for their start, and b with the sign that
        lets p <- p - b (or p - lr*b) descend.
    value
        The parameter; None where the file does not hold it.
    group
        Which of the checkpoint's groups it belongs to.
    role
        What it is to its layer, in Keras's words, where that is known: "kernel", "bias", "embeddings",
        "recurrent_kernel", with the layer's class before it where that matters, "gru/kernel".
    """

    slots: dict[str, Array] = field(default_factory=dict)
    value: Array | None = None
    group: int = 0
    role: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's."""
        arrays = [*self.slots.values()] if self.value is None else [self.value]
        return arrays[0].shape if arrays else ()


@dataclass
class Checkpoint:
    """Parameters and optimizer state, as read from a file or from a live optimizer.

    Attributes
    ----------
    kind
        Of the file: "torch", "sb3", "bitsandbytes", "keras", "tf1", "optax" or "numpy".
    dialect
        Whose rule wrote it, a key of `rmsprop.DIALECTS` or `PRESETS`; "" where the file does not say.
    groups
        For each group of parameters: the fields of its `Rule` that the file tells.
    entries
        By the parameters' names, in their order.
    step
        Updates made; None where the file does not say.
    layout
        How weights lie in memory: "torch", (out, in) and channels first; "keras", (in, out) and channels
        last, also TensorFlow's and Flax's; "" where nobody knows.
    named
        Whether the names are the parameters' own, and not only their places "0", "1", ...
    left
        What else the file holds and is not translated: by name, what it is.
    notes
        What the reader should know.
    losses
        What of the source's run no target goes on with, such as Keras's averages of the parameters.
    ordered
        Whether the entries stand in the model's order; False where the file sorts them by their names.
    """

    kind: str
    dialect: str = ""
    groups: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    entries: dict[str, Entry] = field(default_factory=dict)
    step: int | None = None
    layout: str = ""
    named: bool = True
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    ordered: bool = True

    def rule(self, group: int = 0) -> Rule:
        """The rule of a group: what the file tells, and the dialect's defaults for the rest.

        Raises ValueError where the dialect or the learning rate is not known.
        """
        if len(self.groups[group]) == len(fields(Rule)):
            return Rule.from_dict(self.groups[group])
        if not self.dialect:
            raise ValueError(
                "the file does not say whose RMSprop wrote it: name it, --from tf1 (dialect='tf1')"
            )
        told = self.groups[group]
        if "lr" not in told:  # a default would bring the buffer into a unit that is nobody's
            raise ValueError(
                "the file does not say the learning rate: give it, --lr 0.001 (lr=0.001)"
            )
        return Rule.from_dialect(self.dialect, **told)

    def assumed(self, group: int = 0) -> dict[str, Any]:
        """The numbers of the rule that the file does not tell, and the dialect's defaults stand in for."""
        known = (DIALECTS | PRESETS)[self.dialect].fields if self.dialect else {}
        return {
            name: known.get(name, getattr(Rule(), name))
            for name in ("decay", "eps", "momentum")
            if name not in self.groups[group]
        }

    def slots(self) -> tuple[str, ...]:
        """Those of "v", "m" and "b" that any parameter has."""
        return tuple(s for s in SLOTS if any(s in entry.slots for entry in self.entries.values()))

    def with_entries(self, entries: dict[str, Entry]) -> "Checkpoint":
        """The same with other entries."""
        return replace(self, entries=entries)
