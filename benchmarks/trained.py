"""Every task of `rmsprop train` with its defaults: score on the test split over seeds, and time.

The seed draws the start and the mini-batches; the split stays. The interval is of the mean over seeds (95%,
Student's t). Seconds are of training alone, without loading, measuring and reporting.

    python benchmarks/trained.py [--quick] [--json [FILE]]

Targets: 98.0% on MNIST for the NumPy mlp in 10 epochs, 99.0% for the cnn in 5, and for the recurrent network
in NumPy 75% on the reviews within 3 minutes.
"""

import time
from typing import Any

import numpy as np

from peers import torch
from rmsprop import statistics
from rmsprop.baseline import baseline
from rmsprop.settings import Settings, make_entry, make_task
from rmsprop.train import train
from tables import Report, main

SEEDS = {"mnist-cnn": 3, "mnist-mlp": 5}
TASKS = (
    "xor", "moons", "linear", "digits-mlp", "digits-rnn", "digits-gru", "digits-cnn", "mnist-mlp",
    "reviews-rnn", "reviews-gru", "reviews-lstm", "mnist-cnn",
)  # fmt: skip
NEEDS_TORCH = ("digits-cnn", "reviews-lstm", "mnist-cnn")
TARGETS = {"mnist-mlp": 0.98, "mnist-cnn": 0.99, "reviews-rnn": 0.75, "reviews-gru": 0.75}


def measure(report: Report) -> None:
    print(f"\n{'task':<14}{'score':>8}{'95% interval':>18}{'lowest':>9}{'seeds':>7}{'seconds':>9}")
    for name in ("xor", "digits-rnn") if report.quick else TASKS:
        if torch is None and name in NEEDS_TORCH:
            print(f"{name:<14}needs PyTorch")
            continue
        row = trained(name, 2 if report.quick else SEEDS.get(name, 10))
        report.rows.append(
            row | {"versions": report.environment["versions"], "device": report.device}
        )
        low, high = row["low"], row["high"]
        print(f"{name:<14}{row['mean']:>8.4f}{f'{low:.4f} {high:.4f}':>18}", end="")
        print(f"{row['lowest']:>9.4f}{row['seeds']:>7}{row['seconds']:>9.1f}")
        if name in TARGETS and not report.quick:
            report.target(f"{name}: test accuracy", row["mean"], at_least=TARGETS[name])
    if report.quick:
        return
    found = baseline(make_task(Settings("reviews-rnn")).dataset)
    print(f"\nreviews: a logistic regression on bags of words has {found:.4f}")
    report.rows.append({"task": "reviews: bag of words, logistic regression", "mean": found})


def trained(name: str, seeds: int) -> dict[str, Any]:
    """What the defaults of a task come to, seed by seed."""
    scores, seconds = [], []
    began = time.perf_counter()
    for seed in range(seeds):
        settings = Settings(name, seed=seed)
        task = make_task(settings)
        run = train(task, make_entry(settings, task).rule, seed=seed, schedule=settings.schedule)
        scores.append(float("nan") if run.test_score is None else run.test_score)
        seconds.append(run.seconds[-1])
    whole = (time.perf_counter() - began) / seeds
    found = statistics.interval(scores)
    return {
        "task": name,
        "seeds": seeds,
        "mean": found["mean"],
        "low": found["low"],
        "high": found["high"],
        "lowest": min(scores),
        "seconds": float(np.median(seconds)),
        "whole_seconds": whole,
        "scores": scores,
    }


if __name__ == "__main__":
    main("trained", __doc__, measure)
