"""A benchmark's command line, its tables of ratios and its lines of targets."""

import argparse
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from rmsprop.environment import describe
from timing import NOISY, Times, race

PACKAGES = ("rmsprop", "numpy", "numba", "scikit-learn", "torch", "jax", "optax", "keras")
WIDTH = 79


class Report:
    """Rows and targets of one benchmark, printed as they come.

    Attributes
    ----------
    quick
        Small sizes and few rounds: whether it runs, not how fast.
    large
        Also what needs more than 12 GB.
    patience
        Seconds that each table may wait for other processes.
    """

    def __init__(self, name: str, options: argparse.Namespace):
        self.name, self.quick, self.large = name, options.quick, options.large
        self.patience = 0.0 if options.quick else options.patience
        self.environment = describe(PACKAGES)
        self.environment["threads"] = numba.get_num_threads()
        self.noisy = False  # whether others disturbed the last table
        self.rows: list[dict[str, Any]] = []
        self.targets: list[dict[str, Any]] = []

    @property
    def device(self) -> str:
        """The processor, and how many threads ours uses."""
        return f"{self.environment['machine']['processor']}, {self.environment['threads']} threads"

    def race(self, contenders: dict[str, Callable[[], Any]], rounds: int) -> Times:
        """As `timing.race`; three rounds are enough for --quick."""
        return race(contenders, 3 if self.quick else rounds, self.patience)

    def table(
        self,
        case: str,
        times: Times,
        base: str,
        limit: str | dict[str, str] | None = None,
        notes: dict[str, str] | None = None,
        column: str = "ours faster",
    ) -> None:
        """Print and keep one case: for each contender its ratios, then its times.

        Parameters
        ----------
        base
            Ours: the contender by whose time each one's is divided, for the column of that name.
        limit
            The contender of whose speed each one reaches a part; or of each one that is to be shown its own.
        notes
            What else there is to say of a contender, or why it takes no part.
        """
        notes = notes or {}
        limits = limit if isinstance(limit, dict) else dict.fromkeys(times.seconds, limit)
        unit, scale = _unit(min(float(np.median(times.seconds[name])) for name in limits))
        print(f"\n{case}\n{'of limit' if limit else '':>40}{column:>13}", end="")
        print(f"{'median ' + unit:>10}{'p10':>8}{'p90':>8}")
        for name, bound in limits.items():
            seconds = times.seconds[name]
            p10, median, p90 = (float(q) for q in np.percentile(seconds, [10, 50, 90]))
            part = times.ratio(bound, name) if bound else None
            over = times.ratio(name, base)
            row = {"case": case, "contender": name, "device": self.device, "quick": self.quick}
            row |= {"versions": self.environment["versions"], "others_cores": times.others}
            row |= {"median_s": median, "p10_s": p10, "p90_s": p90, "rounds": len(seconds)}
            row |= {"of_limit": part, column.replace(" ", "_"): over, "note": notes.get(name, "")}
            self.rows.append(row)
            print(f"  {name:<30}{'' if part is None else f'{part:.2f}':>8}", end="")
            print(f"{_short(over) + 'x':>13}{_short(median / scale):>10}", end="")
            print(f"{_short(p10 / scale):>8}{_short(p90 / scale):>8}")
        for name, note in notes.items():
            print(
                textwrap.fill(
                    f"{name}: {note}", WIDTH, initial_indent="  ", subsequent_indent="    "
                )
            )
        self.noisy = times.others > NOISY
        if self.noisy:
            print(f"  NOISY: other processes used {times.others:.2f} cores meanwhile")

    def target(
        self,
        claim: str,
        figure: float,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Keep a figure of the last table with what it should be; they are printed at the end."""
        met = figure >= at_least if at_least is not None else figure <= (at_most or 0.0)
        goal = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
        found = {"claim": claim, "figure": figure, "target": goal}
        self.targets.append(found | {"met": bool(met), "noisy": self.noisy})

    def write(self, path: Path) -> None:
        """The environment, the targets and the rows as JSON."""
        content = {"benchmark": self.name, "environment": self.environment}
        content |= {"targets": self.targets, "rows": self.rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def print_targets(targets: list[dict[str, Any]]) -> None:
    """A line a target: the verdict, the figure, the target and the claim."""
    for t in targets:
        verdict = ("met" if t["met"] else "MISSED") + ("?" if t["noisy"] else "")
        print(f"{verdict:<8}{_short(t['figure']):>6}  {t['target']:<15}{t['claim']}")
    if any(t["noisy"] for t in targets):
        print("?: other processes disturbed this measurement; run it again on a quiet machine")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that a benchmark and all of them together share."""
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, few rounds: does it run?"
    )
    parser.add_argument("--large", action="store_true", help="also what needs more than 12 GB")
    parser.add_argument(
        "--patience",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="that each table may wait for other processes to rest [10]",
    )


def main(name: str, doc: str | None, measure: Callable[[Report], None]) -> None:
    """Measure, print, and with --json write the rows."""
    parser = argparse.ArgumentParser(prog=f"benchmarks/{name}.py", description=_title(doc))
    add_options(parser)
    file = Path(__file__).parent / "results" / f"{name}.json"
    where = f"write the rows; to benchmarks/results/{name}.json unless FILE is given"
    parser.add_argument("--json", nargs="?", const=file, type=Path, metavar="FILE", help=where)
    options = parser.parse_args()
    report = Report(name, options)
    versions = ", ".join(f"{k} {v}" for k, v in report.environment["versions"].items())
    print(f"{name}: {_title(doc)}\n{report.device}\n{textwrap.fill(versions, WIDTH)}")
    measure(report)
    print()
    print_targets(report.targets)
    if options.json:
        report.write(options.json)


def _title(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]


def _unit(seconds: float) -> tuple[str, float]:
    units = [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)]
    return next((unit for unit in units if seconds >= unit[1]), units[-1])


def _short(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 100 else f"{x:.0f}"
