"""The learner of a NumPy model."""

from typing import Any

import numpy as np

from rmsprop.data import Dataset
from rmsprop.learners import Arrays, check_same_arrays, part_of, split_of
from rmsprop.numpy import Optimizer
from rmsprop.rule import Rule
from rmsprop.schedules import Schedule
from rmsprop.state import SLOTS


class NumpyLearner:
    """A model with the methods of `rmsprop.models.MLP`, moved by `rmsprop.numpy`.

    Parameters
    ----------
    model
        Has `params`, `loss_and_grads`, `loss`, `score` and `scores`; and `rng`, if it draws in training.
    dataset
        What it learns.
    rule, plan
        The update, and its learning rate by the step.

    Examples
    --------
    >>> from rmsprop.data import load
    >>> from rmsprop.models import MLP
    >>> learner = NumpyLearner(MLP((64, 10)), load("digits"), Rule(lr=0.01), lambda step: 0.01)
    >>> learner.rows, learner.scores(learner.dataset.test.x).shape
    (1079, (359, 10))
    """

    def __init__(self, model: Any, dataset: Dataset, rule: Rule, plan: Schedule):
        self.model = model
        self.dataset = dataset
        self.optimizer = Optimizer(rule, learning_rate=plan)
        self.rows = len(dataset.train)
        _compile(rule)

    @property
    def step_count(self) -> int:
        """Updates made so far."""
        return self.optimizer.step_count

    def step(self, rows: np.ndarray) -> float:
        """One update on these training rows; the mean loss over them, before it."""
        split = self.dataset.train
        loss, grads = self.model.loss_and_grads(split.x[rows], split.y[rows])
        self.optimizer.update(self.model.params, grads)
        return loss

    def measure(self, part: str) -> tuple[float, float | None]:
        """Mean loss and score on a split."""
        split = split_of(self.dataset, part)
        return self.model.loss(split.x, split.y), self.model.score(split.x, split.y)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """The outputs (rows, outputs) for inputs: logits, or the values of a regression."""
        return self.model.scores(x)

    def averages(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each parameter that has them, the averages v and m that its denominator is made of."""
        slots = self.optimizer.state.slots
        return {
            path: (v, slots.get("m", slots["v"])[path]) for path, v in slots.get("v", {}).items()
        }

    def arrays(self) -> Arrays:
        """Copies of the parameters and the optimizer's state."""
        params = {f"params/{name}": p.copy() for name, p in self.model.params.items()}
        state = self.optimizer.state_dict()
        slots = {
            f"state/{slot}/{path}": a
            for slot in SLOTS.values()
            for path, a in state.get(slot, {}).items()
        }
        return params | slots

    def header(self) -> dict[str, Any]:
        """The optimizer's rule and counts, and the state of the model's generator."""
        optimizer = self.optimizer
        state = optimizer.state.to_dict(
            optimizer.rule, optimizer.skipped
        )  # without copies of arrays
        rng = getattr(self.model, "rng", None)
        return {
            "optimizer": {key: state[key] for key in ("rule", "step", "skipped")},
            "rng": None if rng is None else rng.bit_generator.state,
        }

    def load(self, arrays: Arrays, header: dict[str, Any]) -> None:
        """Go on from what `arrays` and `header` returned."""
        saved = part_of(arrays, "params/")
        check_same_arrays(saved, self.model.params)
        state = dict(header["optimizer"])
        for slot in SLOTS.values():
            found = part_of(arrays, f"state/{slot}/")
            if found:
                state[slot] = found
        self.optimizer.load_state_dict(state)
        for name, p in self.model.params.items():
            p[...] = saved[name]
        if header["rng"] is not None:
            self.model.rng.bit_generator.state = header["rng"]


def _compile(rule: Rule) -> None:
    """So that the first step is not timed with the compilation of its kernel."""
    p = {"w": np.zeros(1, np.float32)}
    Optimizer(rule).update(p, p)
