"""What all benchmarks share: contenders that take turns, ratios of pairs, tables and targets.

Machines drift and neighbours interfere, so a time alone says little.  All contenders run in one process and
take turns, round by round; a ratio is the median over the rounds of two times of one round.
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from rmsprop.environment import PACKAGES, describe

Times = dict[str, np.ndarray[Any, Any]]
"""Seconds a call of each contender, one number a round."""

MOMENT = 0.02  # seconds for which a contender is timed in a round, or one call if that takes longer
SETTLE = 0.02  # before that: idle OpenMP threads of the contender before spin for up to 15 ms


def race(contenders: dict[str, Callable[[], Any]], rounds: int) -> Times:
    """Time the contenders in turn; who begins moves on by one each round."""
    calls = {name: _calls(run) for name, run in contenders.items()}
    times = {name: np.empty(rounds) for name in contenders}
    names = list(contenders)
    gc.collect()
    gc.disable()
    try:
        for k in range(rounds):
            first = k % len(names)
            for name in names[first:] + names[:first]:
                times[name][k] = _turn(contenders[name], calls[name])
    finally:
        gc.enable()
    return times


def _calls(run: Callable[[], Any]) -> int:
    """How many calls fill a moment; also the warm-up."""
    run()
    once = min(_turn(run, 1) for _ in range(2))
    return max(1, round(MOMENT / max(once, 1e-7)))


def _turn(run: Callable[[], Any], calls: int) -> float:
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


def ratio(times: Times, over: str, under: str) -> float:
    """The median over the rounds of one contender's time over another's."""
    return float(np.median(times[over] / times[under]))


class Report:
    """Rows and targets of one benchmark, printed as they come."""

    def __init__(self, name: str, quick: bool, large: bool):
        self.name, self.quick, self.large = name, quick, large
        self.environment = describe((*PACKAGES, "torch"))
        self.environment["threads"] = numba.get_num_threads()
        self.environment["load"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
        self.rows: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []

    @property
    def device(self) -> str:
        """The processor, and how many threads we may use."""
        return f"{self.environment['machine']['processor']}, {self.environment['threads']} threads"

    def table(
        self, case: str, times: Times, ours: str, limit: str | None = None, **more: Any
    ) -> None:
        """Print and keep one case: for each contender its ratios, then its times.

        Parameters
        ----------
        ours
            The contender whose speed over each other one is shown.
        limit
            The contender of which every other one reaches a part.
        **more
            What else the rows of this case should say, in the JSON.
        """
        unit, scale = _unit(min(float(np.median(t)) for t in times.values()))
        print(f"\n{case:<36}{'of the limit' if limit else '':>12}{'ours is':>9}{'median':>9}", end="")
        print(f"{'p10':>7}{'p90':>7}")
        for name, seconds in times.items():
            p10, median, p90 = (float(q) for q in np.percentile(seconds, [10, 50, 90]))
            part = ratio(times, limit, name) if limit else None
            faster = ratio(times, name, ours)
            row = {"case": case, "contender": name, "device": self.device, "quick": self.quick}
            row |= {"versions": self.environment["versions"], "rounds": len(seconds)}
            row |= {"median_s": median, "p10_s": p10, "p90_s": p90, "of_the_limit": part}
            self.rows.append(row | {"ours_is_faster_by": faster} | more)
            shown = "" if part is None else f"{part:.2f}"
            figures = "".join(f"{_short(q / scale):>7}" for q in (p10, p90))
            print(f"  {name:<34}{shown:>12}{_short(faster) + 'x':>9}", end="")
            print(f"{_short(median / scale) + ' ' + unit:>9}{figures}")

    def note(self, text: str) -> None:
        """Print a line that belongs to the table above."""
        print(f"  {text}")

    def target(
        self,
        claim: str,
        figure: float,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Keep a figure with what it should be; they are printed at the end."""
        met = figure >= at_least if at_least is not None else figure <= (at_most or 0.0)
        goal = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
        self.targets.append({"claim": claim, "figure": figure, "target": goal, "met": bool(met)})


def _unit(seconds: float) -> tuple[str, float]:
    return next((u, s) for u, s in [("s", 1.0), ("ms", 1e-3), ("us", 1e-6)] if seconds > s or u == "us")


def _short(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"


def print_targets(targets: list[dict[str, Any]]) -> None:
    """A line a target: the verdict, the figure, the target and the claim."""
    for t in targets:
        verdict = "met" if t["met"] else "MISSED"
        print(f"{verdict:<7}{_short(t['figure']):>7}  {t['target']:<14}{t['claim']}")


def main(name: str, doc: str | None, measure: Callable[[Report], None]) -> None:
    """The command line of a benchmark: measure, print, and with --json write the rows."""
    parser = argparse.ArgumentParser(prog=f"{name}.py", description=(doc or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: a smoke test")
    parser.add_argument("--large", action="store_true", help="also what needs more than 12 GB")
    default = Path(__file__).parent / "results" / f"{name}.json"
    where = {"nargs": "?", "const": default, "type": Path, "metavar": "FILE"}
    parser.add_argument("--json", **where, help=f"write the rows [benchmarks/results/{name}.json]")
    options = parser.parse_args()
    report = Report(name, options.quick, options.large)
    versions = ", ".join(f"{k} {v}" for k, v in report.environment["versions"].items())
    print(f"{(doc or '').strip().splitlines()[0]}\n{report.device}; load {report.environment['load']}")
    print(versions)
    measure(report)
    print()
    print_targets(report.targets)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"benchmark": name, "environment": report.environment}
        content |= {"targets": report.targets, "rows": report.rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
