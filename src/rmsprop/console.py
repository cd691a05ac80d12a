"""What a comparison says in a terminal: progress while it runs, and a table of 80 columns at the end."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rmsprop import ledger


@contextlib.contextmanager
def progress() -> Iterator[ledger.Progress]:
    """A callback for `run_all`: a bar with the time left on a terminal, else a plain line now and then.

    Both go to standard error, so that standard output can be piped.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainLines().tell
        return
    columns = (
        TextColumn("{task.description:<15}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        known: dict[str, Any] = {}

        def tell(done: int, total: int, what: str) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        yield tell


class _PlainLines:
    """A line at the start, at every tenth part, and at the end."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, int]] = {}

    def tell(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        began, at_first = self._began.setdefault(what, (now, done))
        step = max(1, total // 10)
        if done not in (at_first, total) and done % step:
            return
        left = ""
        if at_first < done < total:
            left = f", about {(now - began) / (done - at_first) * (total - done):.0f} s left"
        print(f"{what}: {done} of {total}{left}", file=sys.stderr, flush=True)


def show(study: dict[str, Any]) -> None:
    """Print the table and the verdict of a study."""
    console = Console()
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    rows = _surface_rows(study) if study["kind"] == "surface" else _task_rows(study)
    for k, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if k == 0 else "right", no_wrap=k > 0)
    for row, e in zip(rows[1:], study["entries"], strict=True):
        table.add_row(*row, style="bold" if e["is_rmsprop"] else None)
    console.print()
    console.print(table)
    console.print()
    console.print(study["verdict"], highlight=False, markup=False)  # a file may be named a[b].csv
    console.print()


def _task_rows(study: dict[str, Any]) -> list[list[str]]:
    from rmsprop.report import score

    percent = study["task"]["kind"] != "regression"
    target = score(study["settings"]["target"], percent)
    rows = [
        [
            "optimizer",
            "lr",
            f"test {study['task']['metric']}",
            "95% interval",
            f"steps to {target}",
            "diverged",
        ]
    ]
    for e in study["entries"]:
        found = e["test_score"]
        low, high = (
            score(found[side], percent) if found[side] is not None else ""
            for side in ("low", "high")
        )
        rows.append(
            [
                e["label"],
                "none" if e["lr"] is None else f"{e['lr']:.3g}",
                score(found["mean"], percent) if found["n"] else "",
                f"{low} {high}",
                f"{e['steps_to_target']:,.0f}" if e["reached"] else "never",
                f"{e['search_diverged']}/{e['search_runs']}",
            ]
        )
    return rows


def _surface_rows(study: dict[str, Any]) -> list[list[str]]:
    target = study["settings"]["target"]
    bounded = study["surface"]["minimum"] is not None
    goal = f"steps to {target:.2g}" if bounded else "steps to leave"
    rows = [
        ["optimizer", "lr", "height at the end" if bounded else "f at the end", goal, "diverged"]
    ]
    for e in study["entries"]:
        rows.append(
            [
                e["label"],
                "none" if e["lr"] is None else f"{e['lr']:.3g}",
                f"{e['final']['mean']:.2g}" if e["final"]["n"] else "diverged",
                f"{e['steps_to_target']:,.0f}" if e["reached"] else "never",
                f"{e['search_diverged']}/{e['search_runs']}",
            ]
        )
    return rows
