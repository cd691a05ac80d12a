"""Tasks: a data set, a network of the right shape for it, and how long to train it."""

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.data import Dataset, load
from rmsprop.models import MLP

_LOSSES = {
    "binary": "binary_cross_entropy",
    "multiclass": "softmax_cross_entropy",
    "regression": "squared_error",
}
METRICS = {"binary": "accuracy", "multiclass": "accuracy", "regression": "R^2"}

# Hidden widths, batch size and epochs of the data sets that have names; the user's own take _OTHER.
_PRESETS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "digits": ((64,), 32, 30),
    "mnist": ((128,), 128, 10),
    "moons": ((16,), 32, 40),
    "xor": ((8,), 32, 40),
    "linear": ((), 32, 30),
}
_OTHER = ((64,), 32, 30)


@dataclass(frozen=True)
class Task:
    """Something to train: plain settings, from which data and model are made where they are needed.

    Parameters
    ----------
    data
        A name (digits, mnist, moons, xor, linear) or the path of an .npz, .csv or folder of IDX files.
    hidden
        Widths of the hidden layers.
    activation
        Of the hidden layers: relu, tanh or sigmoid.
    batch_size, epochs
        Rows of a mini-batch, and passes over the training split.
    data_dir
        Where mnist lies.
    split_seed
        Decides which rows are for training, validation and test.

    Raises
    ------
    ValueError
        For a batch size or a number of epochs below 1. Data and network are checked as they are made.

    Examples
    --------
    >>> task = Task.of("digits", epochs=5)
    >>> task.hidden, task.epochs, task.model(seed=0).params["w1"].shape
    ((64,), 5, (64, 64))
    """

    data: str
    hidden: tuple[int, ...] = (64,)
    activation: str = "relu"
    batch_size: int = 32
    epochs: int = 30
    data_dir: str | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}")

    @classmethod
    def of(cls, name: str, **settings: Any) -> "Task":
        """The task for a data set, with the settings that suit it unless they are given (not None)."""
        hidden, batch_size, epochs = _PRESETS.get(name, _OTHER)
        defaults = {"hidden": hidden, "batch_size": batch_size, "epochs": epochs}
        given = {key: value for key, value in settings.items() if value is not None}
        return cls(name, **(defaults | given))

    @property
    def name(self) -> str:
        """The data set's name, or its file's without folder and ending."""
        return Path(self.data).stem

    @property
    def dataset(self) -> Dataset:
        """The data, loaded once a process."""
        return _load(self.data, self.data_dir, self.split_seed)

    @property
    def metric(self) -> str:
        """What a score is: accuracy, or R^2 (1 is perfect, 0 is predicting the mean)."""
        return METRICS[self.dataset.kind]

    @property
    def steps_per_epoch(self) -> int:
        """Mini-batches of one pass over the training split."""
        return -(-len(self.dataset.train) // self.batch_size)

    def model(self, seed: int) -> MLP:
        """A new network with weights drawn by this seed."""
        sizes = (self.dataset.features, *self.hidden, self.dataset.outputs)
        loss = _LOSSES[self.dataset.kind]
        return MLP(sizes, activation=self.activation, loss=loss, seed=seed, dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """The settings, the network's widths and where the data come from, ready for JSON."""
        widths = [self.dataset.features, *self.hidden, self.dataset.outputs]
        more = {
            "name": self.name,
            "metric": self.metric,
            "kind": self.dataset.kind,
            "widths": widths,
            "steps_per_epoch": self.steps_per_epoch,
            "provenance": self.dataset.provenance,
        }
        return asdict(self) | more


@functools.lru_cache(maxsize=4)
def _load(name: str, data_dir: str | None, seed: int) -> Dataset:
    return load(name, data_dir=data_dir, seed=seed)
