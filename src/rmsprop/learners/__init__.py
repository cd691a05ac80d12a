"""Learners: a model, its data and its optimizer, as the one thing that the training loop moves."""

from typing import Any, Protocol

import numpy as np

from rmsprop.data import Dataset, Split
from rmsprop.rule import Rule
from rmsprop.schedules import Schedule

Arrays = dict[str, np.ndarray]
SAMPLE = 5000  # training rows for the loss at the start; all 50,000 of MNIST took the cnn 20 s


class Learner(Protocol):
    """What the loop of `rmsprop.train` asks of anything that it trains."""

    @property
    def rows(self) -> int:
        """Rows of the training split, which the loop shuffles and deals out."""
        ...

    @property
    def step_count(self) -> int:
        """Updates made so far."""
        ...

    def step(self, rows: np.ndarray) -> float:
        """One update on these training rows; the mean loss over them, before it."""
        ...

    def measure(self, part: str) -> tuple[float, float | None]:
        """Mean loss and score on "validation", "test" or a "sample" of the training rows.

        None where there is no score.
        """
        ...

    def arrays(self) -> Arrays:
        """Copies of all arrays that going on bit for bit needs, the parameters as "params/NAME"."""
        ...

    def header(self) -> dict[str, Any]:
        """The rest of what going on needs, ready for JSON."""
        ...

    def load(self, arrays: Arrays, header: dict[str, Any]) -> None:
        """Go on from what `arrays` and `header` returned; ValueError where it does not fit."""
        ...


def learner_of(
    model: Any, dataset: Dataset, rule: Rule, plan: Schedule, *, seed: int = 0
) -> Learner:
    """The learner for a model: NumPy's if it has `loss_and_grads`, PyTorch's if it is a Module.

    Parameters
    ----------
    model
        As `rmsprop.models.MLP`, or a torch.nn.Module.
    dataset
        What it learns.
    rule, plan
        The update, and its learning rate by the step.
    seed
        Of what a Module draws in training, as dropout does.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> from rmsprop.data import load
    >>> from rmsprop.models import MLP
    >>> moons = load("moons")
    >>> model = MLP((2, 8, 1), loss="binary_cross_entropy")
    >>> learner = learner_of(model, moons, Rule(lr=0.01), lambda step: 0.01)
    >>> loss = learner.step(np.arange(32))
    >>> learner.step_count, sorted(learner.arrays())[:2]
    (1, ['params/b1', 'params/b2'])
    """
    if hasattr(model, "loss_and_grads"):
        from rmsprop.learners.arrays import NumpyLearner

        missing = [n for n in ("params", "loss", "score", "scores") if not hasattr(model, n)]
        if missing:
            raise TypeError(
                f"a model must have params, loss_and_grads, loss, score and scores, as rmsprop.models.MLP; "
                f"{type(model).__name__} has no {', '.join(missing)}"
            )
        return NumpyLearner(model, dataset, rule, plan)
    if hasattr(model, "named_parameters"):
        from rmsprop.learners.modules import TorchLearner

        return TorchLearner(model, dataset, rule, plan, seed=seed)
    raise TypeError(
        "a model must have loss_and_grads, as rmsprop.models.MLP, or be a torch.nn.Module; "
        f"got {type(model).__name__}"
    )


def split_of(dataset: Dataset, part: str) -> Split:
    """The rows to measure on: "validation", "test", or a "sample" of at most 5,000 training rows.

    Examples
    --------
    >>> from rmsprop.data import load
    >>> split_of(load("moons"), "sample")
    Split(600 rows, 2 features)
    """
    if part != "sample":
        return getattr(dataset, part)
    train = dataset.train
    every = slice(None, None, -(-len(train) // SAMPLE))  # all over it, as it may be sorted by class
    return Split(np.ascontiguousarray(train.x[every]), train.y[every])


def part_of(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays under a prefix, by the rest of their names.

    Examples
    --------
    >>> part_of({"params/w": 1, "state/w": 2}, "params/")
    {'w': 1}
    """
    return {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


def check_same_arrays(saved: Arrays, ours: Arrays) -> None:
    """Raise ValueError where saved parameters are not of the shapes and dtypes of a model's.

    Examples
    --------
    >>> check_same_arrays({"w": np.zeros(2)}, {"w": np.zeros(3)})
    Traceback (most recent call last):
    ValueError: the saved parameter 'w' is float64(2,), the model's float64(3,): another network
    """
    if set(saved) != set(ours):
        raise ValueError(
            f"the saved parameters are {', '.join(sorted(saved)) or 'none'}, the model's "
            f"{', '.join(sorted(ours))}: another network"
        )
    for name, a in saved.items():
        b = ours[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"the saved parameter {name!r} is {a.dtype}{a.shape}, the model's {b.dtype}{b.shape}: "
                "another network"
            )
