"""One epoch of the movie reviews with a recurrent network, in NumPy and in PyTorch, on the same shapes.

Ours is what the loop of `rmsprop.train` does with `rmsprop.models.Recurrent`: embedding, cell and
back-propagation through time in NumPy, and our optimizer. PyTorch runs `rmsprop.networks.Recurrent`, which
has nn.RNN or nn.GRU over packed sequences, with its own RMSprop, eagerly. Both start from the same weights
and take the same batches; the first loss is compared before anything is timed. (Later ones differ: PyTorch's
cells have two biases where one would do, and both learn.)

    python benchmarks/rnn_epoch.py [--quick] [--json [FILE]]

The data are the reviews where RMSPROP_DATA names their folder, else random tokens of their lengths.
"""

import os
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from peers import require_torch, torch
from rmsprop import Rule
from rmsprop.data import Dataset, Split, batches, load
from rmsprop.learners.arrays import NumpyLearner
from rmsprop.models import Recurrent
from rmsprop.schedules import Constant
from tables import Report, main

EMBEDDING, HIDDEN, BATCH = 64, 64, 32
RULE = Rule.from_dialect("torch", lr=1e-3)
OURS, TORCH = "ours: NumPy", "torch, eager"


class Ours:
    """What the loop of `rmsprop.train` does in an epoch."""

    def __init__(self, data: Dataset, cell: str):
        words = len(data.vocabulary or ())
        self.model = Recurrent(EMBEDDING, HIDDEN, 1, cell=cell, words=words, pool="mean")
        self.learner = NumpyLearner(self.model, data, RULE, Constant(RULE.lr))

    def __call__(self) -> list[float]:
        dealt = batches(self.learner.rows, BATCH, np.random.default_rng(0))
        with threadpool_limits(1, user_api="blas"):  # as `train` does
            return [self.learner.step(rows) for rows in dealt]


class Torch:
    """The same network and rule in PyTorch."""

    def __init__(self, data: Dataset, cell: str):
        from rmsprop.networks import Recurrent as Network

        start = Ours(data, cell).model
        self.x = torch.from_numpy(data.train.x).long()
        self.y = torch.from_numpy(data.train.y).float().view(-1, 1)
        words = len(data.vocabulary or ())
        self.model = Network(EMBEDDING, HIDDEN, 1, cell=cell, words=words, pool="mean")
        _copy(start.params, self.model)
        self.optimizer = torch.optim.RMSprop(
            self.model.parameters(), lr=RULE.lr, alpha=RULE.decay, eps=RULE.eps
        )

    def __call__(self) -> list[float]:
        losses = []
        for rows in batches(len(self.x), BATCH, np.random.default_rng(0)):
            chosen = torch.from_numpy(rows)
            z = self.model(self.x[chosen])
            loss = torch.nn.functional.binary_cross_entropy_with_logits(z, self.y[chosen])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def _copy(params: dict[str, Any], model: Any) -> None:
    p = {name: torch.from_numpy(array.copy()) for name, array in params.items()}
    with torch.no_grad():
        model.embedding.weight.copy_(p["embedding"])
        model.cell.weight_ih_l0.copy_(p["w"].transpose(1, 2).flatten(0, 1))
        model.cell.weight_hh_l0.copy_(p["u"].transpose(1, 2).flatten(0, 1))
        model.cell.bias_ih_l0.copy_(p["b"].flatten())
        model.cell.bias_hh_l0.zero_()
        if "c" in p:
            model.cell.bias_hh_l0[-HIDDEN:] = p["c"]
        model.output.weight.copy_(p["w_out"].T)
        model.output.bias.copy_(p["b_out"])


def measure(report: Report) -> None:
    require_torch()
    data = dataset(320 if report.quick else 7046)
    for cell, name in (("rnn", "plain (tanh)"), ("gru", "gated (GRU)")):
        ours, theirs = Ours(data, cell), Torch(data, cell)
        np.testing.assert_allclose(ours()[0], theirs()[0], rtol=1e-5)
        times = report.race({OURS: ours, TORCH: theirs}, 5)
        title = f"one epoch of {data.name}, {len(data.train):,} rows, {name}, batch {BATCH}"
        report.table(title, times, OURS)


def dataset(n: int) -> Dataset:
    """The reviews, or as many rows of random tokens, as long as theirs."""
    if os.environ.get("RMSPROP_DATA") and n == 7046:
        return load("reviews")
    rng = np.random.default_rng(0)
    x = rng.integers(1, 5002, (n, 51)).astype(np.int32)
    x[np.arange(51) >= rng.integers(3, 52, n)[:, None]] = 0
    rows = Split(x, rng.integers(0, 2, n))
    words = ("", "<unknown>", *map(str, range(5000)))
    names = ("no", "yes")
    return Dataset("random tokens", rows, rows, rows, "binary", names, None, {}, None, words)


if __name__ == "__main__":
    main("rnn_epoch", __doc__, measure)
