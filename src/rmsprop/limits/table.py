"""The study of the limitations in a terminal: a row for each cure, in 80 columns."""

from typing import Any

from rich.console import Console
from rich.table import Table

from rmsprop.limits.study import HELPS, HURTS, SAME

HEAD = ["limitation", "where", "cure", "verdict", "difference"]
_SHORT = {HELPS: "helps", SAME: "no difference", HURTS: "hurts"}


def rows(study: dict[str, Any]) -> list[list[str]]:
    """The table of a study, its head first; a difference is the mean of the paired ones, or their ratio.

    Where a cure is set against several things, each stands after a slash.

    Examples
    --------
    >>> found = {"cure": "cosine", "against": "constant", "verdict": HELPS, "difference": {"mean": -2.0}}
    >>> p = {"name": "a bowl", "measure": {"log": True, "percent": False}, "comparisons": [found]}
    >>> rows({"limits": [{"key": "overshooting", "parts": [p]}]})[1]
    ['overshooting', 'a bowl', 'cosine', 'helps', 'x 0.01']
    """
    table = [HEAD]
    for found in study["limits"]:
        for p in found["parts"]:
            cures = [c["cure"] for c in p["comparisons"]]
            for c in p["comparisons"]:
                several = cures.count(c["cure"]) > 1
                cure = f"{c['cure']} / {c['against']}" if several else c["cure"]
                gap = _gap(p["measure"], c["difference"]["mean"])
                table.append([found["key"], p["name"], cure, _SHORT[c["verdict"]], gap])
    return table


def _gap(measure: dict[str, Any], mean: float) -> str:
    if measure["log"]:
        return f"x {10.0 ** max(-300.0, min(300.0, mean)):.2g}"
    return f"{100 * mean:+.1f} points" if measure["percent"] else f"{mean:+.3g}"


def show(study: dict[str, Any]) -> None:
    """Print the table and the verdict of a study."""
    console = Console()
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for k, name in enumerate(HEAD):
        table.add_column(name, justify="right" if k == len(HEAD) - 1 else "left", no_wrap=k != 2)
    before = ["", ""]
    for row in rows(study)[1:]:
        # A name is said once: at its first row.
        limit = "" if row[0] == before[0] else row[0]
        where = "" if row[:2] == before else row[1]
        before = row[:2]
        table.add_row(limit, where, *row[2:])
    console.print()
    console.print(table)
    console.print()
    console.print(study["verdict"], highlight=False, markup=False)
    console.print()
