"""Optimizer state that travels: read from one framework's file, written for another's.

    >>> from rmsprop import convert
    >>> found = convert.read("model.keras")                            # doctest: +SKIP
    >>> convert.write(found, "optimizer.pt", "torch", like="model.pt")  # doctest: +SKIP

`read` brings every file to one form, a `Checkpoint`; `translate` says what another framework makes of it,
tensor by tensor, and what is lost; `write` does it, and writes nothing where something is lost that
was not accepted.  No pickle runs code: PyTorch's files go through its weights-only loader.
"""

from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.losses import Loss
from rmsprop.convert.optax.states import into_state
from rmsprop.convert.reading import read
from rmsprop.convert.translate import translate
from rmsprop.convert.translation import Row, Translation
from rmsprop.convert.writing import Unfaithful, write

__all__ = [
    "Checkpoint",
    "Entry",
    "Loss",
    "Row",
    "Translation",
    "Unfaithful",
    "into_state",
    "read",
    "translate",
    "write",
]
