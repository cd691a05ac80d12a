"""Contenders take turns, round by round, in one process; ratios are taken within a round.

Machines drift and neighbours interfere, so a time alone says little.  A ratio here is the median over the
rounds of two times of one round, and rounds in which other processes used the processor are run again.
"""

import gc
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

MOMENT = 0.02  # seconds for which a contender is timed in a round, or one call if that takes longer
SETTLE = 0.02  # before that: idle OpenMP threads of the contender before spin for up to 15 ms
QUIET = 0.05  # of one core: what other processes may use in a round
NOISY = 0.1  # what they may use on average, before a figure is in doubt


class Times(NamedTuple):
    """What a race found."""

    seconds: dict[str, Array]
    """A call of each contender, one number a round."""
    others: float = 0.0
    """The cores that other processes used meanwhile: the mean over the rounds."""

    def ratio(self, over: str, under: str) -> float:
        """The median over the rounds of one contender's time over another's."""
        return float(np.median(self.seconds[over] / self.seconds[under]))


def race(contenders: dict[str, Callable[[], Any]], rounds: int, patience: float = 0.0) -> Times:
    """Time the contenders in turn; who begins moves on by one each round.

    Parameters
    ----------
    rounds
        How many rounds to keep: the quietest.
    patience
        Seconds to spend at most on waiting for other processes and on rounds that they disturbed.
    """
    calls = {name: _calls(run) for name, run in contenders.items()}
    found: list[tuple[float, dict[str, float]]] = []
    gc.collect()
    gc.disable()
    try:
        while len(found) < rounds or (patience > 0 and _quiet(found) < rounds):
            patience -= _wait(patience)
            start = time.perf_counter()
            found.append(_round(contenders, calls, len(found)))
            if found[-1][0] > QUIET:
                patience -= time.perf_counter() - start
    finally:
        gc.enable()
    kept = sorted(found, key=lambda one: one[0])[:rounds]
    seconds = {name: np.array([one[name] for _, one in kept]) for name in contenders}
    return Times(seconds, float(np.mean([busy for busy, _ in kept])))


def _quiet(found: list[tuple[float, dict[str, float]]]) -> int:
    return sum(busy <= QUIET for busy, _ in found)


def _wait(patience: float) -> float:
    """Wait until other processes rest, or patience is spent; the seconds that it took."""
    begin = time.perf_counter()
    while (spent := time.perf_counter() - begin) < patience:
        before = others()
        time.sleep(0.25)
        if others() - before < 0.25 * 2 * QUIET:  # the clock has ticks of 0.01 s
            break
    return spent


def _round(
    contenders: dict[str, Callable[[], Any]], calls: dict[str, int], k: int
) -> tuple[float, dict[str, float]]:
    """The cores that others used, and the seconds a call of each contender."""
    names = list(contenders)
    first = k % len(names)
    start, before = time.perf_counter(), others()
    seconds = {name: turn(contenders[name], calls[name]) for name in names[first:] + names[:first]}
    return (others() - before) / (time.perf_counter() - start), seconds


def _calls(run: Callable[[], Any]) -> int:
    """How many calls fill a moment; also the warm-up."""
    run()
    once = min(turn(run, 1) for _ in range(2))
    return max(1, round(MOMENT / max(once, 1e-7)))


def turn(run: Callable[[], Any], calls: int) -> float:
    """Seconds a call."""
    if calls == 1:
        time.sleep(SETTLE)
    else:  # threads of its own that sleep would slow it: let it run
        stop = time.perf_counter() + SETTLE
        while time.perf_counter() < stop:
            run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def others() -> float:
    """Processor seconds that all but this process and its children ever used here; 0 if unknown."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, steal, *_ = map(
                int, file.readline().split()[1:]
            )
    except (OSError, ValueError):
        return 0.0
    busy = user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time() - sum(os.times()[2:4])
