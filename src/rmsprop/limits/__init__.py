"""Limitations of RMSprop, each shown and each mitigated, measured over seeds.

    >>> from rmsprop.limits import LIMITS
    >>> sorted(LIMITS)[:4]
    ['centering', 'explosion', 'first-steps', 'initialisation']

`rmsprop.report_limits` makes a page of what `measure` returns, `show` prints its table.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from threadpoolctl import threadpool_limits

from rmsprop.environment import describe
from rmsprop.limits.averages import centering, first_steps, short_memory
from rmsprop.limits.rates import learning_rate, limit_cycle, schedules
from rmsprop.limits.starts import explosion, initialisation, ravine
from rmsprop.limits.study import tally
from rmsprop.limits.table import rows, show
from rmsprop.rule import near

__all__ = ["LIMITS", "SEEDS", "measure", "rows", "show"]

Progress = Callable[[int, int, str], None]
SEEDS = 10
LIMITS: dict[str, Callable[[int], dict[str, Any]]] = {
    "learning-rate": learning_rate,
    "overshooting": limit_cycle,
    "momentum": ravine,
    "centering": centering,
    "initialisation": initialisation,
    "first-steps": first_steps,
    "explosion": explosion,
    "schedules": schedules,
    "short-memory": short_memory,
}
"""Each limitation by its key: a function of the number of seeds, that runs it."""


def measure(
    seeds: int = SEEDS, *, only: Sequence[str] | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Run every limitation with its cures, and say what each cure does.

    Parameters
    ----------
    seeds
        Runs of each setting, 2 or more; run k draws all that it draws from seed k, so that two settings
        are compared run by run, and fewer seeds are the first of more.
    only
        Keys of `LIMITS`; default all.
    progress
        Called as progress(done, total, "limitations").

    Returns
    -------
    dict
        The study, ready for JSON and `report_limits.write`: `limits`, each with its `parts`, and in those
        `variants` (what was run, its values by seed, mean and 95% interval) and `comparisons` (paired
        differences with verdicts).

    Raises
    ------
    TypeError, ValueError
        For seeds that are not a whole number of 2 or more, or an unknown key.

    Examples
    --------
    >>> study = measure(seeds=3, only=["overshooting"])
    >>> [c["verdict"] for c in study["limits"][0]["parts"][0]["comparisons"]]
    ['helps', 'helps', 'helps', 'helps']
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int):
        raise TypeError(f"seeds must be a whole number, 2 or more; got {seeds!r}: pass an int")
    if seeds < 2:
        raise ValueError(f"seeds must be 2 or more, as one run has no interval; got {seeds}")
    keys = list(LIMITS) if only is None else list(only)
    for key in keys:
        if key not in LIMITS:
            raise ValueError(f"unknown limitation {key!r}{near(key, LIMITS)}")
    if not keys:
        raise ValueError(
            f"only names no limitation: name some of {', '.join(LIMITS)}, or leave it out"
        )
    began = time.perf_counter()
    found = []
    for k, key in enumerate(keys):
        if progress is not None:
            progress(k, len(keys), "limitations")
        start = time.perf_counter()
        # With more threads BLAS is no faster on layers this small, and sums in another order.
        with threadpool_limits(1, user_api="blas"):
            limit = LIMITS[key](seeds)
        found.append(limit | {"seconds": time.perf_counter() - start})
    if progress is not None:
        progress(len(keys), len(keys), "limitations")
    study = {
        "kind": "limits",
        "settings": {"seeds": seeds},
        "verdict": tally(found, seeds),
        "limits": found,
    }
    return study | describe() | {"seconds": time.perf_counter() - began}
