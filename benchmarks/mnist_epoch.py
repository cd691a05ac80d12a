"""One epoch of MNIST, 784-128-10 at batch 128, against PyTorch, scikit-learn and NumPy.

Ours is the loop of `rmsprop.train` (its MLP and its optimizer, both NumPy). PyTorch runs eagerly, on tensors
in memory that are indexed a batch at a time; the seeds' NumPy is their network (slides B10 and B11)
in float32 with their optimizer.  These three take the same batches, gather them from the same rows, record
the same loss and end at the same parameters, which is checked first.  scikit-learn's MLPClassifier has no
RMSprop and runs its Adam, in an order of its own.

`train` keeps NumPy's BLAS on one thread: on two, other processes beside it made an epoch last ten times as
long. The others have all threads.

Targets: at most 0.6 of PyTorch's time and 0.4 of scikit-learn's.

    python benchmarks/mnist_epoch.py [--quick] [--json [FILE]]

The data are MNIST where RMSPROP_DATA names its folder, else random numbers of its shape.
"""

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from limit import Array
from peers import Missing, SeedsRMSprop, require_torch, torch
from rmsprop import Rule
from rmsprop.data import Dataset, Split, batches, load
from rmsprop.learners.arrays import NumpyLearner
from rmsprop.models import MLP
from rmsprop.numpy import Optimizer
from rmsprop.schedules import Constant
from tables import Report, main

WIDTHS, BATCH = (784, 128, 10), 128
RULE = Rule(lr=1e-3)
OURS, OURS_THREADS, TORCH, SKLEARN, SEEDS = (
    "ours: MLP, RMSprop",
    "ours, BLAS on all threads",
    "torch, eager",
    "scikit-learn, adam",
    "seeds' NumPy",
)


class Ours:
    """What the loop of `rmsprop.train` does in an epoch, which keeps BLAS on one thread; None is all."""

    def __init__(self, data: Dataset, threads: int | None = 1):
        self.threads = threads
        self.model = MLP(WIDTHS, seed=0)
        self.learner = NumpyLearner(self.model, data, RULE, Constant(RULE.lr))
        self.learner.optimizer = self.optimizer = Timed(RULE)

    def __call__(self) -> float:
        total = 0.0
        with threadpool_limits(self.threads, user_api="blas"):
            for rows in batches(self.learner.rows, BATCH, np.random.default_rng(0)):
                total += self.learner.step(rows) * len(rows)
        return total / self.learner.rows


class Timed(Optimizer):
    """It also keeps the time that it takes."""

    spent = 0.0

    def update(self, params: Any, grads: Any) -> Any:
        start = time.perf_counter()
        super().update(params, grads)
        self.spent += time.perf_counter() - start
        return params


class Torch:
    """PyTorch without a DataLoader, which would only slow it."""

    def __init__(self, data: Dataset):
        require_torch()
        self.x, self.y = torch.from_numpy(data.train.x), torch.from_numpy(data.train.y)
        hidden, last = torch.nn.Linear(*WIDTHS[:2]), torch.nn.Linear(*WIDTHS[1:])
        start = MLP(WIDTHS, seed=0).params
        with torch.no_grad():
            for layer, k in ((hidden, 1), (last, 2)):
                layer.weight.copy_(torch.from_numpy(start[f"w{k}"].T))
                layer.bias.copy_(torch.from_numpy(start[f"b{k}"]))
        self.model = torch.nn.Sequential(hidden, torch.nn.ReLU(), last)
        self.weight = hidden.weight
        self.loss = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.RMSprop(
            self.model.parameters(), lr=RULE.lr, alpha=RULE.decay, eps=RULE.eps
        )

    def __call__(self) -> float:
        total = 0.0
        for rows in batches(len(self.x), BATCH, np.random.default_rng(0)):
            chosen = torch.from_numpy(rows)
            loss = self.loss(self.model(self.x[chosen]), self.y[chosen])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(rows)
        return total / len(self.x)


class Seeds:
    """The network and the loop of slides B10 and B11, and the optimizer of B4."""

    def __init__(self, data: Dataset):
        self.x, self.y = data.train.x, data.train.y
        self.params = {name: p.copy() for name, p in MLP(WIDTHS, seed=0).params.items()}
        self.optimizer = SeedsRMSprop(RULE.lr, RULE.decay, RULE.eps)

    def __call__(self) -> float:
        total = 0.0
        for rows in batches(len(self.x), BATCH, np.random.default_rng(0)):
            loss, grads = self.loss_and_grads(self.x[rows], self.y[rows])
            self.optimizer.update(self.params, grads)
            total += loss * len(rows)
        return total / len(self.x)

    def loss_and_grads(self, x: Array, y: Array) -> tuple[float, dict[str, Array]]:
        p, n = self.params, len(x)
        a1 = np.maximum(0, np.dot(x, p["w1"]) + p["b1"])
        z2 = np.dot(a1, p["w2"]) + p["b2"]
        exp_scores = np.exp(z2 - np.max(z2, axis=1, keepdims=True))
        probs = exp_scores / np.sum(exp_scores, axis=1, keepdims=True)
        loss = float(np.sum(-np.log(probs[range(n), y])) / n)
        delta3 = probs
        delta3[range(n), y] -= 1
        delta3 /= n
        delta2 = np.dot(delta3, p["w2"].T)
        delta2[a1 <= 0] = 0
        first = {"w1": np.dot(x.T, delta2), "b1": np.sum(delta2, axis=0)}
        return loss, first | {"w2": np.dot(a1.T, delta3), "b2": np.sum(delta3, axis=0)}


class Sklearn:
    """MLPClassifier; each call of partial_fit is one shuffled epoch."""

    def __init__(self, data: Dataset):
        self.x, self.y = data.train.x, data.train.y
        batch_size: Any = BATCH  # its stub wants a string
        self.model = MLPClassifier(
            WIDTHS[1:-1],
            batch_size=batch_size,
            alpha=0.0,
            learning_rate_init=RULE.lr,
            random_state=0,
        )

    def __call__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model.partial_fit(self.x, self.y, classes=np.arange(WIDTHS[-1]))


def measure(report: Report) -> None:
    data = dataset(5_000 if report.quick else 50_000)
    verify(data)
    ours = Ours(data)
    runs: dict[str, Callable[[], Any]] = {
        OURS: ours,
        OURS_THREADS: Ours(data, None),
        SEEDS: Seeds(data),
        SKLEARN: Sklearn(data),
    }
    notes = {"NumPy's BLAS": blas(report)}
    try:
        runs[TORCH] = Torch(data)
    except Missing as reason:
        notes[TORCH] = str(reason)
    times = report.race(runs, 11)
    share = optimizer_share(ours)
    notes[OURS] = f"the optimizer takes {share:.0%} of the epoch"
    report.table(f"one epoch of {data.name}, {len(data.train):,} rows", times, OURS, notes=notes)
    if report.quick:
        return
    if TORCH in runs:
        report.target("part of PyTorch's time", times.ratio(OURS, TORCH), at_most=0.6)
        wide = times.ratio(OURS_THREADS, TORCH)
        report.target("the same with BLAS on all threads", wide, at_most=0.6)
    report.target("part of scikit-learn's time", times.ratio(OURS, SKLEARN), at_most=0.4)


def dataset(n: int) -> Dataset:
    """MNIST's training split, or as many random rows of which, as there, four fifths are 0."""
    if os.environ.get("RMSPROP_DATA") and n == 50_000:
        return load("mnist")
    rng = np.random.default_rng(0)
    x = rng.random((n, WIDTHS[0]), dtype=np.float32)
    x *= rng.random(x.shape, dtype=np.float32) < 0.2
    rows = Split(x, rng.integers(0, WIDTHS[-1], n))
    names = tuple("0123456789")
    return Dataset("random numbers", rows, rows, rows, "multiclass", names, (28, 28), {})


def verify(data: Dataset) -> None:
    """Stop unless the three that run the same rule end a short epoch at the same parameters."""
    few = Split(data.train.x[:1000], data.train.y[:1000])
    short = Dataset("a few rows", few, few, few, data.kind, data.classes, data.image_shape, {})
    ours, seeds = Ours(short), Seeds(short)
    loss = ours()
    np.testing.assert_allclose(seeds(), loss, rtol=1e-4)
    rtol, atol = 1e-2, 2e-4  # g/sqrt(v) turns rounding of a tiny g into part of a step
    np.testing.assert_allclose(seeds.params["w1"], ours.model.params["w1"], rtol, atol)
    try:
        theirs = Torch(short)
    except Missing:
        return
    np.testing.assert_allclose(theirs(), loss, rtol=1e-4)
    np.testing.assert_allclose(
        theirs.weight.detach().numpy().T, ours.model.params["w1"], rtol, atol
    )


def optimizer_share(ours: Ours) -> float:
    """The part of our epoch that the optimizer takes."""
    ours.optimizer.spent = 0.0
    start = time.perf_counter()
    ours()
    return ours.optimizer.spent / (time.perf_counter() - start)


def blas(report: Report) -> str:
    """NumPy's matrix library and its kernels, with a hint where others are known to be faster."""
    name = report.environment["machine"]["blas"]
    if name.endswith(("Haswell", "Zen")) and "avx512f" in cpu_flags():
        name += "; this processor has AVX-512: try OPENBLAS_CORETYPE=SkylakeX"
    return name


def cpu_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


if __name__ == "__main__":
    main("mnist_epoch", __doc__, measure)
