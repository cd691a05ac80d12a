"""A grid of learning rates and decays: all networks at once, against training one after the other.

Ours is `rmsprop.stacked.train_many`, on all threads and on one; beside it a loop of `rmsprop.train.train`
over the same cells.  That loop is timed on some cells, spread over the grid, and their time stands for the
others', as each cell costs the same.  The losses of these cells are compared before anything is timed.

    python benchmarks/stacked.py [--quick] [--json [FILE]]
"""

import numpy as np

from rmsprop import Rule
from rmsprop.run import Run
from rmsprop.stacked import train_many
from rmsprop.tasks import Task
from rmsprop.train import train
from tables import Report, main
from timing import Times

OURS, ONE, LOOP = "ours: train_many", "ours, one thread", "loop of train"
EPOCHS, SIDE, TIMED, TARGET = 5, 16, 16, 5.0


def measure(report: Report) -> None:
    epochs, side, timed = (1, 4, 4) if report.quick else (EPOCHS, SIDE, TIMED)
    for name in ("digits", "moons", "linear"):
        task, rules = Task.of(name, epochs=epochs), grid(side)
        some = rules[:: len(rules) // timed]
        verify(train_many(task, some), [train(task, rule) for rule in some])
        raced = report.race(
            {
                OURS: lambda task=task, rules=rules: train_many(task, rules),
                ONE: lambda task=task, rules=rules: train_many(task, rules, threads=1),
                LOOP: lambda task=task, some=some: [train(task, rule) for rule in some],
            },
            7,
        )
        scale = {OURS: 1.0, ONE: 1.0, LOOP: len(rules) / len(some)}
        times = Times({who: t * scale[who] for who, t in raced.seconds.items()}, raced.others)
        updates = len(rules) * epochs * task.steps_per_epoch
        notes = {
            who: f"{np.median(t) / updates * 1e6:.3g} us an update, measurements included"
            for who, t in times.seconds.items()
        }
        report.table(f"{len(rules)} networks of {name}, {epochs} epochs", times, OURS, notes=notes)
        for who in (OURS, ONE):
            claim = f"{name}, a grid of {len(rules)}: {who} over the loop"
            report.target(claim, times.ratio(LOOP, who), at_least=TARGET)


def grid(side: int) -> list[Rule]:
    """Learning rates that train, by decays."""
    return [
        Rule(lr=float(lr), decay=float(decay))
        for lr in np.geomspace(1e-4, 1e-2, side)
        for decay in np.linspace(0.8, 0.99, side)
    ]


def verify(together: list[Run], alone: list[Run]) -> None:
    """Stop unless both train the same networks."""
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.steps == theirs.steps
        np.testing.assert_allclose(
            np.array(ours.train_loss), np.array(theirs.train_loss), rtol=1e-3
        )


if __name__ == "__main__":
    main("stacked", __doc__, measure)
