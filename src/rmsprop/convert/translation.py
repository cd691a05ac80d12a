"""What a translation is: the new checkpoint, what became of each tensor, and what is lost."""

from dataclasses import dataclass, field
from typing import NamedTuple

from rmsprop.convert.checkpoint import Checkpoint
from rmsprop.convert.losses import Loss

LAYOUTS = {"torch": "torch", "sb3": "torch", "bitsandbytes": "torch", "keras": "keras", "tf1": "keras",
           "optax": "keras", "numpy": ""}  # fmt: skip
"""The kinds of file that can be written, and how weights lie in them; "" as in the source."""

WHOLE = ("keras", "tf1", "optax", "numpy")
"""Kinds with one rule for all parameters, and a state for each."""

FRESH = "it has had no step"
"""Of a parameter, in the words of a row."""


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
