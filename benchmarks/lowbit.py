"""Do two bytes and one byte of state train as well as four? Final losses over five seeds.

MNIST, an MLP 784-128-10 for 3 epochs at batch 128; movie reviews, a character-level transformer (2 layers of
128) for 400 steps of 16 x 64 characters.  The same seed has the same start and the same batches with every
format, so differences are taken within a seed: the mean of these with its 95% interval, beside the spread of
float32 over the seeds.  Losses are on data that training has not seen.

Target: the mean difference from float32 is within the standard deviation of float32 over the seeds.

    python benchmarks/lowbit.py [--quick] [--json [FILE]]
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from nets import characters, loss_of, mlp, transformer, windows
from peers import Missing, require_torch, torch
from rmsprop.data import load
from rmsprop.statistics import interval
from tables import Report, main

SEEDS = 5
FLOAT32 = "float32"
FORMATS: dict[str, dict[str, Any]] = {
    FLOAT32: {},
    "bfloat16": {"state_dtype": "bfloat16"},
    "1 byte": {"state_dtype": "uint8"},
    "1 byte, momentum": {"state_dtype": "uint8", "momentum": 0.9},
    "float32, momentum": {"momentum": 0.9},
}
AGAINST = {"bfloat16": FLOAT32, "1 byte": FLOAT32, "1 byte, momentum": "float32, momentum"}
RATES = {"MNIST": 1e-3, "transformer": 1e-3}


@functools.cache
def mnist() -> Any:
    if not os.environ.get("RMSPROP_DATA"):
        raise Missing("no data: set RMSPROP_DATA to a folder with mnist/")
    data = load("mnist")
    return [
        torch.from_numpy(a) for s in (data.train, data.test) for a in (s.x, s.y.astype(np.int64))
    ]


def optimizer_of(model: Any, lr: float, options: dict[str, Any]) -> Any:
    from rmsprop.torch import RMSprop

    options = dict(options)
    if "state_dtype" in options:
        options["state_dtype"] = getattr(torch, options["state_dtype"])
    if options.get("momentum"):
        lr /= 10  # the buffer sums ten steps
    return RMSprop(model.parameters(), lr=lr, **options)


def train_mnist(seed: int, options: dict[str, Any], quick: bool) -> float:
    x, y, x_test, y_test = mnist()
    model, rng = mlp(seed), np.random.default_rng(seed)
    optimizer = optimizer_of(model, RATES["MNIST"], options)
    for _ in range(1 if quick else 3):
        order = torch.from_numpy(rng.permutation(len(x)))
        for at in order.split(128)[: 50 if quick else None]:
            optimizer.zero_grad()
            loss_of(model, x[at], y[at]).backward()
            optimizer.step()
    with torch.no_grad():
        return float(loss_of(model, x_test, y_test))


@functools.cache
def reviews() -> Any:
    return characters()


def train_transformer(seed: int, options: dict[str, Any], quick: bool) -> float:
    text, symbols = reviews()
    held, rng = len(text) // 10, np.random.default_rng(seed)
    model = transformer(seed, symbols)
    optimizer = optimizer_of(model, RATES["transformer"], options)
    for _ in range(20 if quick else 400):
        x, y = windows(text[held:], 16, rng)
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()
    x, y = windows(text[:held], 128, np.random.default_rng(0))
    with torch.no_grad():
        return float(loss_of(model, x, y))


TASKS: dict[str, Callable[[int, dict[str, Any], bool], float]] = {
    "MNIST": train_mnist,
    "transformer": train_transformer,
}


def measure(report: Report) -> None:
    for task, train in TASKS.items():
        try:
            require_torch()
            _compare(report, task, train)
        except Missing as reason:
            print(f"{task} left out: {reason}")


def _compare(report: Report, task: str, train: Callable[..., float]) -> None:
    seeds = 2 if report.quick else SEEDS
    losses = {
        name: np.array([train(seed, options, report.quick) for seed in range(seeds)])
        for name, options in FORMATS.items()
    }
    print(f"\n{task}: loss on unseen data after training, {seeds} seeds")
    print(f"{'mean':>32}{'std':>9}   minus float32, 95% interval")
    for name, found in losses.items():
        row: dict[str, Any] = {"case": task, "contender": name, "losses": found.tolist()}
        row |= {"device": report.device, "quick": report.quick}
        line = f"  {name:<22}{found.mean():8.4f}{found.std(ddof=1):9.4f}"
        if name in AGAINST:
            base = losses[AGAINST[name]]
            difference = found - base
            row["difference"] = span = interval(difference.tolist())
            line += f"   {span['mean']:+.4f} ({span['low']:+.4f} to {span['high']:+.4f})"
            if not report.quick:
                part = abs(float(difference.mean())) / float(base.std(ddof=1))
                claim = f"{task}, {name}: mean difference over the seeds' deviation"
                report.target(claim, part, at_most=1)
        print(line)
        report.rows.append(row)


if __name__ == "__main__":
    main("lowbit", __doc__, measure)
