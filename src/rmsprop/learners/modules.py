"""The learner of a PyTorch module."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmsprop.data import Dataset
from rmsprop.learners import Arrays, check_same_arrays, part_of, split_of
from rmsprop.models.outputs import r_squared
from rmsprop.rule import Rule
from rmsprop.schedules import Schedule
from rmsprop.torch import from_rule

AT_ONCE = 100  # rows of a forward pass that measures


class TorchLearner:
    """A torch.nn.Module, moved by `rmsprop.torch`.

    Parameters
    ----------
    module
        From (rows, ...) inputs to (rows, outputs) scores. Images come as (rows, 1, height, width), texts as
        (rows, longest) tokens, padded with 0, all else as (rows, features).
    dataset
        What it learns; its kind decides the loss.
    rule, plan
        The update, and its learning rate by the step.
    seed
        Of what the module draws in training. It has a stream of its own: PyTorch's global one is left alone.

    Examples
    --------
    >>> from rmsprop.data import load
    >>> moons = load("moons")
    >>> module = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> learner = TorchLearner(module, moons, Rule(lr=0.01), lambda step: 0.01)
    >>> loss = learner.step(np.arange(32))
    >>> learner.step_count, learner.scores(moons.test.x).shape
    (1, (200, 1))
    """

    def __init__(
        self, module: nn.Module, dataset: Dataset, rule: Rule, plan: Schedule, *, seed: int = 0
    ):
        self.model = module
        self.dataset = dataset
        self.plan = plan
        self.optimizer = from_rule(module.parameters(), rule)
        self.rows = len(dataset.train)
        self.step_count = 0
        self._x = _inputs(dataset, dataset.train.x)
        self._y = _targets(dataset.train.y, dataset.kind)
        self._rng = torch.Generator().manual_seed(seed).get_state()

    def step(self, rows: np.ndarray) -> float:
        """One update on these training rows; the mean loss over them, before it."""
        index = torch.from_numpy(rows)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan(self.step_count)
        self.model.train()
        with self._own_stream():
            z = _forward(self.model, self._x[index], self.dataset)
            loss = self._loss(z, self._y[index])
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        self.step_count += 1
        return float(loss.detach())

    def measure(self, part: str) -> tuple[float, float | None]:
        """Mean loss and score on a split."""
        split = split_of(self.dataset, part)
        z, y = torch.from_numpy(self.scores(split.x)), _targets(split.y, self.dataset.kind)
        loss = float(self._loss(z, y))
        if self.dataset.kind == "multiclass":
            return loss, float((z.argmax(1) == y).double().mean())
        if self.dataset.kind == "binary":
            return loss, float(((z > 0) == (y > 0)).double().mean())
        return loss, r_squared(split.y, z.numpy())

    def scores(self, x: np.ndarray) -> np.ndarray:
        """The outputs (rows, outputs) for inputs: logits, or the values of a regression."""
        return scores(self.model, self.dataset, x)

    def averages(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each parameter that has them, the averages v and m that its denominator is made of."""
        found = {}
        for name, p in self.model.named_parameters():
            state = self.optimizer.state.get(p, {})
            if "square_avg" in state:
                v = state["square_avg"].numpy()
                found[name] = v, state["grad_avg"].numpy() if "grad_avg" in state else v
        return found

    def arrays(self) -> Arrays:
        """Copies of the parameters and buffers, the optimizer's state and the random stream's."""
        params = {f"params/{name}": _array(p) for name, p in self.model.state_dict().items()}
        state = {
            f"state/{k}/{key}": _array(value)
            for k, known in self.optimizer.state_dict()["state"].items()
            for key, value in known.items()
        }
        return params | state | {"rng": _array(self._rng)}

    def header(self) -> dict[str, Any]:
        """How many updates were made."""
        return {"step": self.step_count, "threads": torch.get_num_threads()}

    def load(self, arrays: Arrays, header: dict[str, Any]) -> None:
        """Go on from what `arrays` and `header` returned."""
        saved = part_of(arrays, "params/")
        state: dict[int, dict[str, Tensor]] = {}
        for path, a in part_of(arrays, "state/").items():
            k, _, key = path.partition("/")
            state.setdefault(int(k), {})[key] = torch.from_numpy(a.copy())
        self._check_state(state)
        restore(self.model, saved)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if header["threads"] != torch.get_num_threads():
            warnings.warn(
                f"this run had {header['threads']} threads and goes on with {torch.get_num_threads()}: its "
                "last bits will not be those of an uninterrupted one; see OMP_NUM_THREADS",
                stacklevel=2,
            )
        self._rng = torch.from_numpy(arrays["rng"].copy())
        self.step_count = int(header["step"])

    def _check_state(self, state: dict[int, dict[str, Tensor]]) -> None:
        shapes = [p.shape for group in self.optimizer.param_groups for p in group["params"]]
        for k, known in state.items():
            for key, a in known.items():
                if k >= len(shapes) or a.shape not in ((), shapes[k]):
                    raise ValueError(
                        f"the saved state {key!r} of parameter {k} has shape {tuple(a.shape)}, the "
                        f"model's {tuple(shapes[k]) if k < len(shapes) else 'is missing'}: another network"
                    )

    def _loss(self, z: Tensor, y: Tensor) -> Tensor:
        if self.dataset.kind == "multiclass":
            return nn.functional.cross_entropy(z, y)
        if self.dataset.kind == "binary":
            return nn.functional.binary_cross_entropy_with_logits(z, y)
        return nn.functional.mse_loss(z, y)

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        """PyTorch's global generator with this learner's state, and as it was when the block ends."""
        theirs = torch.get_rng_state()
        torch.set_rng_state(self._rng)
        try:
            yield
        finally:
            self._rng = torch.get_rng_state()
            torch.set_rng_state(theirs)


def scores(module: nn.Module, dataset: Dataset, x: np.ndarray) -> np.ndarray:
    """The outputs (rows, outputs) of a module for inputs of its data set, in bounded memory."""
    module.eval()
    with torch.no_grad():
        parts = [_forward(module, part, dataset) for part in _inputs(dataset, x).split(AT_ONCE)]
    return torch.cat(parts).numpy()


def restore(module: nn.Module, params: Arrays) -> None:
    """Put saved parameters and buffers into a module; ValueError where they do not fit."""
    check_same_arrays(params, {name: _array(p) for name, p in module.state_dict().items()})
    module.load_state_dict({name: torch.from_numpy(a) for name, a in params.items()})


def _inputs(dataset: Dataset, x: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    if dataset.image_shape is not None:
        return tensor.view(-1, 1, *dataset.image_shape)
    return tensor.long() if dataset.vocabulary is not None else tensor


def _forward(module: nn.Module, x: Tensor, dataset: Dataset) -> Tensor:
    """The scores, or an error: of another shape they would broadcast against the targets."""
    try:
        z = module(x)
    except RuntimeError as error:  # as PyTorch says that shapes do not fit
        raise ValueError(
            f"the model cannot take inputs of shape {tuple(x.shape)}: {error}"
        ) from error
    if z.ndim != 2 or z.shape[1] != dataset.outputs:
        raise ValueError(
            f"the model must return scores of shape (rows, {dataset.outputs}) for {dataset.name}; got "
            f"{tuple(z.shape)}"
        )
    return z


def _targets(y: np.ndarray, kind: str) -> Tensor:
    tensor = torch.from_numpy(y)
    return tensor.float().view(-1, 1) if kind == "binary" else tensor


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()
