"""Tables of 80 columns of what a checkpoint holds, and of what became of each of its tensors."""

from typing import Any

from rich.console import Console
from rich.table import Table

from rmsprop.console import say
from rmsprop.convert import Translation
from rmsprop.convert.describe import going_on, rule_line
from rmsprop.convert.reading import printable

MANY, LONG = 60, 400
"""Rows of a table, and characters of a name in it, that are shown; --json has all."""


def _short(text: str) -> str:
    """A name as it is shown in a table."""
    return printable(text if len(text) <= LONG else f"{text[:LONG]}...")


def show_file(found: dict[str, Any]) -> None:
    """Print what `rmsprop.convert.describe.inspect` found."""
    dialect = f", dialect {found['dialect']}" if found["dialect"] else ""
    step = "" if found["step"] is None else f", step {found['step']:,}"
    say(printable(f"{found['file']}: {found['of']}{dialect}{step}"))
    for rule in found["rules"]:
        _line(rule_line(rule))
    for group in [] if found["rules"] else found["groups"]:
        _line(", ".join(f"{key} {value}" for key, value in group.items()))
    assumed = {name: value for group in found["assumed"] for name, value in group.items()}
    if assumed and any(p["holds"].keys() - {"value"} for p in found["parameters"]):
        told = ", ".join(f"{name} {value:g}" for name, value in assumed.items())
        _line(f"Not in the file, the dialect's defaults: {told}")
    names = ("parameter", "shape", "holds", "sqrt(mean v)")
    rows = [_file_row(p) for p in found["parameters"]]
    _table(names, rows, right=(3,))
    for name, what in [*found["left"].items()][:MANY]:
        _line(f"Also there: {_short(name)}, {what}")
    if len(found["left"]) > MANY:
        _line(f"... and {len(found['left']) - MANY:,} more; --json lists all")
    for note in found["notes"]:
        _line(f"Note: {note}")


def _file_row(parameter: dict[str, Any]) -> list[str]:
    dtypes = set(parameter["holds"].values())
    holds = ", ".join(parameter["holds"]) + (f" ({', '.join(sorted(dtypes))})" if dtypes else "")
    if parameter["not_finite"]:
        holds += f", {parameter['not_finite']:,} NOT FINITE"
    rms = "" if parameter["root_mean_v"] is None else f"{parameter['root_mean_v']:.3g}"
    return [parameter["name"], _shape(parameter["shape"]), holds, rms]


def show_translation(done: Translation, target: str, *, written: bool) -> None:
    """Print a row for each tensor, what is lost, and who can go on."""
    rows = [
        [row.source, row.target, row.part, _shape(row.shape), row.what, row.exact]
        for row in done.rows
    ]
    _table(("there", "here", "part", "shape", "what happens", "exact"), rows)
    for loss in done.losses:
        _line(f"Lost ({loss.name}): {loss.why}")
    for note in dict.fromkeys([*done.notes, *done.checkpoint.notes]):
        _line(f"Note: {note}")
    state = f"Written: {target}" if written else f"Nothing is written to {target}"
    say(
        printable(
            f"{state}. {'Goes' if written else 'Would go'} on with {going_on(done.checkpoint)}"
        )
    )


def _table(names: tuple[str, ...], rows: list[list[str]], right: tuple[int, ...] = ()) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for k, name in enumerate(names):
        table.add_column(name, justify="right" if k in right else "left", overflow="fold")
    for row in rows[:MANY]:
        table.add_row(*map(_short, row))
    console = Console()
    console.print(table, markup=False)
    if len(rows) > MANY:
        _line(f"... and {len(rows) - MANY:,} more; --json lists all")


def _line(text: str) -> None:
    Console().print(printable(text), highlight=False, markup=False)


def _shape(shape: Any) -> str:
    return " x ".join(f"{n}" for n in shape)
