"""Tasks: a data set, a network of the right shape for it, and how long to train it."""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import data
from rmsprop.data import Dataset
from rmsprop.learners import Learner, learner_of
from rmsprop.models import MLP, Recurrent
from rmsprop.rule import Rule, near
from rmsprop.schedules import Schedule

LOSSES = {
    "binary": "binary_cross_entropy",
    "multiclass": "softmax_cross_entropy",
    "regression": "squared_error",
}
METRICS = {"binary": "accuracy", "multiclass": "accuracy", "regression": "R^2"}
NETWORKS = {
    "mlp": ("numpy",),
    "cnn": ("torch",),
    "rnn": ("numpy", "torch"),
    "gru": ("numpy", "torch"),
    "lstm": ("torch",),
}
"""The kinds of network, and the frameworks that each is written in; the first is the default."""
RECURRENT = ("rnn", "gru", "lstm")

# The settings that suit a task that has a name; those of _NETWORK suit a network on any other data.
_PRESETS: dict[str, dict[str, Any]] = {
    "digits-mlp": {"hidden": (64,), "batch_size": 32, "epochs": 30},
    "mnist-mlp": {"hidden": (128,), "batch_size": 128, "epochs": 10},
    "moons-mlp": {"hidden": (16,), "batch_size": 32, "epochs": 40},
    "xor-mlp": {"hidden": (8,), "batch_size": 32, "epochs": 40},
    "linear-mlp": {"hidden": (), "batch_size": 32, "epochs": 30},
    "digits-cnn": {"batch_size": 32, "epochs": 20},
}
_NETWORK: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (64,), "batch_size": 32, "epochs": 30},
    "cnn": {"hidden": (128,), "batch_size": 64, "epochs": 5},
    "rnn": {"hidden": (64,), "batch_size": 32, "epochs": 20},
    "gru": {"hidden": (64,), "batch_size": 32, "epochs": 20},
    "lstm": {"hidden": (64,), "batch_size": 32, "epochs": 20},
}
# Chosen on the reviews' validation split.
_OF_TEXTS: dict[str, dict[str, Any]] = {
    "rnn": {"pool": "mean", "dropout": 0.2, "batch_size": 64, "epochs": 3},
    "gru": {"pool": "last", "dropout": 0.5, "batch_size": 64, "epochs": 3},
    "lstm": {"pool": "last", "dropout": 0.5, "batch_size": 64, "epochs": 3},
}


@dataclass(frozen=True)
class Task:
    """Something to train: plain settings, from which data and network are made where they are needed.

    Parameters
    ----------
    data
        A name (digits, mnist, moons, xor, linear, reviews), or the path of the user's own: an .npz, .csv or
        folder of IDX files; a .tsv or folder of texts.
    network
        "mlp"; "cnn", for images; "rnn", "gru" or "lstm", for texts, and for images read row by row.
    framework
        "numpy" or "torch"; None is the first that has the network: NumPy for mlp, rnn and gru.
    hidden
        Widths of the hidden layers: of a cnn those after the convolutions, of a recurrent network the one of
        its state.
    activation
        Of an mlp's hidden layers: relu, tanh or sigmoid.
    embedding
        Width of a word's vector, for texts.
    pool
        What a recurrent network's output layer sees: its "last" state, or the "mean" or "max" of all.
    dropout
        The probability that an input of the output layer is left out, in training; not of an mlp.
    words, longest
        Texts: size of the vocabulary, and tokens kept of each text.
    batch_size, epochs
        Rows of a mini-batch, and passes over the training split.
    data_dir
        Where mnist or reviews lie.
    split_seed
        Decides which rows are for training, validation and test.

    Raises
    ------
    ValueError
        For an unknown network or framework, a batch size or a number of epochs below 1. Data and network are
        checked as they are made.

    Examples
    --------
    >>> task = Task.of("digits", epochs=5)
    >>> task.hidden, task.epochs, task.model(seed=0).params["w1"].shape
    ((64,), 5, (64, 64))
    >>> Task.of("digits-gru").name
    'digits-gru'
    """

    data: str
    network: str = "mlp"
    framework: str | None = None
    hidden: tuple[int, ...] = (64,)
    activation: str = "relu"
    embedding: int = 64
    pool: str = "last"
    dropout: float = 0.0
    words: int = 5000
    longest: int = 64
    batch_size: int = 32
    epochs: int = 30
    data_dir: str | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "embedding", "words", "longest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more; got {getattr(self, name)}")
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden must be widths, each at least 1; got {self.hidden}")
        if self.network not in NETWORKS:
            raise ValueError(
                f"network must be one of {', '.join(NETWORKS)}; got {self.network!r}"
                f"{near(self.network, NETWORKS)}"
            )
        has = NETWORKS[self.network]
        if self.framework is None:
            object.__setattr__(self, "framework", has[0])
        elif self.framework not in has:
            raise ValueError(
                f"a {self.network} is written in {' and '.join(has)}; got {self.framework!r}"
            )

    @classmethod
    def of(cls, name: str, **settings: Any) -> "Task":
        """The task of that name, with the settings that suit it unless they are given (not None).

        Parameters
        ----------
        name
            Of a data set and a network, as "mnist-cnn"; or as `data`. Then the network is the one given, or
            an rnn for texts and an mlp for all else.
        settings
            As the class's.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        source, network = split_name(name)
        network = given.setdefault("network", network or _default_network(source))
        if network in NETWORKS:
            read = (*read_by(source, network), "batch_size", "epochs")
            if idle := [key for key in given if key not in read]:
                raise ValueError(f"a {network} on {source} does not read {', '.join(idle)}")
        return cls(source, **(_suited(source, network) | given))

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Task":
        """The task that `to_dict` described."""
        known: dict[str, Any] = {f.name: plain[f.name] for f in fields(cls) if f.name in plain}
        known["hidden"] = tuple(known["hidden"])
        return cls(**known)

    @property
    def name(self) -> str:
        """The data's name, or its file's without folder and ending; and the network, unless an mlp."""
        stem = Path(self.data).stem
        return stem if self.network == "mlp" else f"{stem}-{self.network}"

    @property
    def dataset(self) -> Dataset:
        """The data, loaded once a process."""
        return _load(
            self.data, self.data_dir, self.split_seed, self.words, self.longest, _stamp(self.data)
        )

    @property
    def metric(self) -> str:
        """What a score is: accuracy, or R^2 (1 is perfect, 0 is predicting the mean)."""
        return METRICS[self.dataset.kind]

    @property
    def steps_per_epoch(self) -> int:
        """Mini-batches of one pass over the training split."""
        return -(-len(self.dataset.train) // self.batch_size)

    def model(self, seed: int) -> Any:
        """A new network with weights drawn by this seed: a NumPy model or a torch.nn.Module."""
        return self.model_for(self.dataset, seed)

    def model_for(self, dataset: Dataset, seed: int) -> Any:
        """As `model`, for data of this kind and shape, which may have no rows."""
        _check_fits(self, dataset)
        loss = LOSSES[dataset.kind]
        if self.network == "mlp":
            sizes = (dataset.features, *self.hidden, dataset.outputs)
            return MLP(sizes, activation=self.activation, loss=loss, seed=seed, dtype=np.float32)
        shape = dataset.image_shape
        if self.network == "cnn":
            from rmsprop import networks

            return networks.drawn(
                seed, networks.CNN, shape, dataset.outputs, hidden=self.hidden, dropout=self.dropout
            )
        sizes = (self.embedding if shape is None else shape[1], self.hidden[0], dataset.outputs)
        options: dict[str, Any] = {
            "cell": self.network,
            "words": None if dataset.vocabulary is None else len(dataset.vocabulary),
            "pool": self.pool,
            "dropout": self.dropout,
        }
        if self.framework == "torch":
            from rmsprop import networks

            return networks.drawn(seed, networks.Recurrent, *sizes, **options)
        return Recurrent(*sizes, **options, loss=loss, seed=seed)

    def learner(self, rule: Rule, plan: Schedule, seed: int) -> Learner:
        """A new network, and the optimizer that trains it."""
        return learner_of(self.model(seed), self.dataset, rule, plan, seed=seed)

    def to_dict(self) -> dict[str, Any]:
        """The settings, and where the data come from, ready for JSON."""
        more = {
            "name": self.name,
            "metric": self.metric,
            "kind": self.dataset.kind,
            "steps_per_epoch": self.steps_per_epoch,
            "provenance": self.dataset.provenance,
        }
        if self.network == "mlp":
            more["widths"] = [self.dataset.features, *self.hidden, self.dataset.outputs]
        return asdict(self) | more


@dataclass(frozen=True)
class OwnTask:
    """A task of your own making: your data and any model, for `rmsprop train my_file.py:make_task`.

    Parameters
    ----------
    name
        For titles and the folder.
    dataset
        As `rmsprop.data.from_arrays` makes it.
    build
        From a seed, a new model: a torch.nn.Module whose outputs are (rows, outputs) scores, or an object
        with the methods of `rmsprop.models.MLP`.
    batch_size, epochs
        Rows of a mini-batch, and passes over the training split.

    Examples
    --------
    >>> from rmsprop.data import from_arrays
    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> data = from_arrays("mine", {"x": x, "y": (x[:, 0] * x[:, 1] > 0).astype(int)})
    >>> task = OwnTask("mine", data, lambda seed: MLP((2, 8, 1), loss="binary_cross_entropy", seed=seed))
    >>> task.metric, task.steps_per_epoch
    ('accuracy', 2)
    """

    name: str
    dataset: Dataset
    build: Callable[[int], Any]
    batch_size: int = 32
    epochs: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.dataset, Dataset):
            raise TypeError(
                "dataset must be a Dataset, as rmsprop.data.from_arrays makes it; got "
                f"{type(self.dataset).__name__}"
            )

    @property
    def metric(self) -> str:
        """What a score is."""
        return METRICS[self.dataset.kind]

    @property
    def steps_per_epoch(self) -> int:
        """Mini-batches of one pass over the training split."""
        return -(-len(self.dataset.train) // self.batch_size)

    def learner(self, rule: Rule, plan: Schedule, seed: int) -> Learner:
        """A new model, and the optimizer that trains it."""
        return learner_of(self.build(seed), self.dataset, rule, plan, seed=seed)

    def to_dict(self) -> dict[str, Any]:
        """What is known of the task, ready for JSON."""
        return {
            "name": self.name,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "metric": self.metric,
            "kind": self.dataset.kind,
            "steps_per_epoch": self.steps_per_epoch,
            "provenance": self.dataset.provenance,
        }


def split_name(name: str) -> tuple[str, str | None]:
    """The data set and the network of a name such as mnist-cnn; all else is data.

    Examples
    --------
    >>> split_name("mnist-cnn"), split_name("mine-cnn")
    (('mnist', 'cnn'), ('mine-cnn', None))
    """
    source, dash, network = name.rpartition("-")
    if dash and network in NETWORKS and source in data.NAMES:
        return source, network
    return name, None


def read_by(source: str, network: str) -> tuple[str, ...]:
    """The settings of `Task`, but for its pace, that a network on such data reads.

    Examples
    --------
    >>> read_by("moons", "mlp")
    ('network', 'framework', 'data_dir', 'split_seed', 'hidden', 'activation')
    """
    names = ("network", "framework", "data_dir", "split_seed", "hidden")
    names += ("activation",) if network == "mlp" else ("dropout",)
    names += ("pool",) if network in RECURRENT else ()
    return names + (("embedding", "words", "longest") if _holds_texts(source) else ())


def _default_network(source: str) -> str:
    return "rnn" if _holds_texts(source) else "mlp"


def _suited(source: str, network: str) -> dict[str, Any]:
    general = _NETWORK.get(network, {})
    if _holds_texts(source):
        general = general | _OF_TEXTS.get(network, {})
    return general | _PRESETS.get(f"{source}-{network}", {})


def _holds_texts(source: str) -> bool:
    return source == "reviews" or (source not in data.NAMES and data.is_texts(Path(source)))


def _check_fits(task: Task, dataset: Dataset) -> None:
    """Raise ValueError where this network cannot read such data."""
    if task.network == "cnn" and dataset.image_shape is None:
        raise ValueError(f"a cnn needs images, and {dataset.name} has none: use network mlp")
    if task.network == "mlp" and dataset.vocabulary is not None:
        raise ValueError(f"{dataset.name} holds texts, which an mlp cannot read: use rnn or gru")
    if task.network in RECURRENT:
        if dataset.vocabulary is None and dataset.image_shape is None:
            raise ValueError(
                f"a {task.network} needs texts or images, and {dataset.name} has neither: use network mlp"
            )
        if len(task.hidden) != 1:
            raise ValueError(
                f"a {task.network} has one state: hidden is one width; got {task.hidden}"
            )


def _stamp(name: str) -> tuple[int, int] | None:
    """What changes where a file is written anew: a notebook must not go on with the old one."""
    path = Path(name).expanduser()
    if name in data.NAMES or not path.is_file():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=4)
def _load(
    name: str, data_dir: str | None, seed: int, words: int, longest: int, stamp: Any
) -> Dataset:
    return data.load(name, data_dir=data_dir, seed=seed, words=words, longest=longest)
