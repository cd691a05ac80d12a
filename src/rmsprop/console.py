"""What is said in a terminal: progress while something runs, and tables of 80 columns at the end."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
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
from rmsprop.run import Moment


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


@contextlib.contextmanager
def training() -> Iterator[Callable[[Moment], None]]:
    """A callback for `train`: a bar with loss, rate and time left on a terminal, else a line an epoch."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Epochs().tell
        return
    columns = (
        TextColumn("epoch {task.fields[epoch]:<3}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}, {task.fields[rate]}/s, left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        bar = _Bar(bars)
        yield bar.tell


class _Bar:
    """One bar over all steps, refreshed ten times a second at most: a step can take a millisecond."""

    def __init__(self, bars: Progress):
        self._bars = bars
        self._bar: Any = None
        self._began = self._told = time.monotonic()
        self._first, self._mean = 0, 0.0

    def tell(self, moment: Moment) -> None:
        now = time.monotonic()
        if self._bar is None:
            shown: dict[str, Any] = {"epoch": 1, "loss": "", "rate": ""}
            self._bar = self._bars.add_task("", total=moment.steps, completed=moment.step, **shown)
            self._began, self._first, self._mean = now, moment.step, moment.loss
        self._mean += 0.05 * (moment.loss - self._mean)  # one mini-batch's alone jumps about
        if moment.measured or moment.step == moment.steps or now - self._told > 0.1:
            rate = (moment.step - self._first) / max(now - self._began, 1e-9)
            shown = {"loss": f"{self._mean:.4f}", "rate": f"{rate:,.0f} steps"}
            epoch = len(moment.run.steps) - moment.measured
            self._bars.update(self._bar, completed=moment.step, epoch=epoch, **shown)
            self._told = now


SPARSE = 1.0  # seconds between two lines, so that a log of a thousand epochs can be read


class _Epochs:
    """A line at the end of an epoch, but not more than one a second."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None
        self._told = 0.0

    def tell(self, moment: Moment) -> None:
        now = time.monotonic()
        if self._began is None:
            self._began = now, moment.step - 1
        last = moment.step == moment.steps or moment.run.stopped
        if not moment.measured or (now - self._told < SPARSE and not last):
            return
        self._told = now
        run, (began, first) = moment.run, self._began
        score = run.validation_score[-1]
        validation = "" if score is None else f", validation {score:.4f}"
        left = (now - began) / max(moment.step - first, 1) * (moment.steps - moment.step)
        line = f"epoch {len(run.steps) - 1}: step {moment.step:,} of {moment.steps:,}, loss {moment.loss:.4f}"
        ahead = f", about {left:.0f} s left" if moment.step < moment.steps else ""
        print(f"{line}{validation}{ahead}", file=sys.stderr, flush=True)


def say(sentence: str) -> None:
    """Print a sentence, broken at the width of the terminal."""
    console = Console()
    console.print()
    console.print(sentence, highlight=False, markup=False)
    console.print()


def show_evaluation(found: dict[str, Any]) -> None:
    """Print what `evaluate` found: the score, and each class with whom it is taken for."""
    from rmsprop.report import score

    percent = found["metric"] == "accuracy"
    text = f"{score(found['score'], percent)} {found['part']} {found['metric']} of {found['data']}"
    if not percent:
        say(f"{text}; root of the mean squared error {found['rmse']:.4g}, {found['rows']:,} rows")
        return
    low, high = (f"{100 * x:.2f}" for x in found["interval"])
    text += (
        f" (95% interval over the {found['rows']:,} rows {low} to {high}); loss {found['loss']:.4f}"
    )
    if "baseline" in found:
        text += f"; a logistic regression on bags of words has {score(found['baseline'], True)}"
    say(text)
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for k, name in enumerate(("class", "rows", "recall", "precision", "most often taken for")):
        table.add_column(name, justify="right" if 1 <= k <= 3 else "left")
    for k, row in enumerate(found["confusion"]):
        wrong = max((n, j) for j, n in enumerate(row) if j != k)
        taken = f"{found['classes'][wrong[1]]} ({wrong[0]})" if wrong[0] else ""
        table.add_row(
            found["classes"][k],
            f"{sum(row):,}",
            score(found["recall"][k], True) if found["recall"][k] is not None else "",
            score(found["precision"][k], True) if found["precision"][k] is not None else "",
            taken,
        )
    Console().print(table, markup=False)


def show_answers(answers: list[dict[str, Any]]) -> None:
    """Print a line for each prediction: the class and its probability, or the value."""
    for answer in answers:
        said = (
            f"{answer['value']:.6g}"
            if "value" in answer
            else f"{answer['label']} ({100 * answer['probability']:.1f}%)"
        )
        print(f"{said}  {answer['input']}" if len(answers) > 1 else said)


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


def show_search(study: dict[str, Any]) -> None:
    """Print the ranking of a search, and what it came to."""
    from rmsprop import report_search, report_words

    console = Console()
    rows = report_search.table(study)
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for k, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if k < 3 else "left", no_wrap=k < 3)
    for row in rows[1:]:
        table.add_row(*row)
    console.print()
    if len(rows) > 1:
        console.print(table, markup=False)
    say(study["sentence"])
    if study["splits"] is not None and "settings" in study:
        console.print(" ".join(report_words.single_split(study)), highlight=False, markup=False)
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
