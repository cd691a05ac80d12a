"""A search as one self-contained HTML page, with run.json and the winner's settings beside it."""

import json
from html import escape
from pathlib import Path
from typing import Any

from rmsprop import files, page, plots_search, statistics
from rmsprop.plots_scales import short, words
from rmsprop.plots_search import main_of, trial_of
from rmsprop.report_words import (
    caveats,
    finite,
    numpy_lines,
    single_split,
    torch_lines,
    value,
)
from rmsprop.verdict import Unit

Study = dict[str, Any]
Interval = dict[str, Any]

TOP = 10
_WRAP = '<div style="white-space: normal; text-align: left">{}</div>'


def write(study: Study, folder: str | Path, *, command: str) -> Path:
    """Write report.html, run.json and, where a trial succeeded, winner.toml into a folder.

    Parameters
    ----------
    study
        From `search.tune`.
    folder
        Made if it is not there; files of these names are replaced, and a winner.toml of before is removed
        where no trial succeeded.
    command
        What to run to get this again; shown on the page and kept in run.json.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    OSError
        Where the folder cannot be written; what was there before is kept.

    Examples
    --------
    >>> import tempfile
    >>> from rmsprop.search import tune
    >>> study = tune(lambda config, report: config["x"] ** 2, {"x": (-1.0, 1.0)}, trials=4, finalists=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write(study, folder, command="python search.py")
    ...     sorted(path.name for path in written.parent.iterdir())
    ['report.html', 'run.json', 'winner.toml']
    """
    folder = Path(folder)
    study = finite({"command": command} | study)
    text = html(study)
    files.write_text(folder / "run.json", json.dumps(study, indent=1, allow_nan=False))
    if study["winner"] is None:
        (folder / "winner.toml").unlink(missing_ok=True)
    else:
        files.write_text(folder / "winner.toml", study["winner"]["toml"])
    files.write_text(folder / "report.html", text)
    return folder / "report.html"


def html(study: Study) -> str:
    """The page as text. It asks for nothing from outside: style and pictures are in it."""
    title = f"{study['label']}: a search" + (
        f" for {study['optimizer']}" if study["optimizer"] else ""
    )
    parts = [
        *page.heading(title, study["sentence"]),
        _top(study),
        *_finalists(study),
        *_winner(study),
        page.bullets("Read with care", caveats(study)),
        *_pictures(study),
        *_splits(study),
        *_failures(study),
        page.origin(study),
    ]
    return page.document(title, parts)


def table(study: Study, *, rows: int = TOP, width: int = 80) -> list[list[str]]:
    """The best trials, the head first: rank, trial, value, then what was searched in its shortest form.

    Parameters
    ----------
    study
        From `search.tune`.
    rows
        How many trials at most; default 10.
    width
        Columns of the terminal; default 80. What matters least is left out where not all fits.

    Returns
    -------
    list of lists of str
        Names are broken after an underscore.

    Examples
    --------
    >>> from rmsprop.search import tune
    >>> study = tune(lambda config, report: config["x"] ** 2, {"x": [2.0, 1.0]}, method="grid", finalists=0)
    >>> table(study)
    [['rank', 'trial', 'value', 'x'], ['1', '1', '1', '1'], ['2', '0', '4', '2']]
    """
    best = study["ranking"][:rows]
    lead = [["rank", "trial", "value"]]
    lead += [[str(k + 1), str(t["number"]), value(study, t["value"])] for k, t in enumerate(best)]
    columns = {
        d["name"]: [_broken(d["name"]), *(short(t["config"][d["name"]]) for t in best)]
        for d in study["space"]
    }
    shares = study["importance"] or {}
    by_share = sorted(columns, key=lambda name: -shares.get(name, 0.0))
    left = width - _width(list(zip(*lead, strict=True))) - 2
    shown = set()
    for name in by_share:
        left -= _width([columns[name]]) + 2
        if left < -2 and shown:
            break
        shown.add(name)
    kept = [column for name, column in columns.items() if name in shown]
    return [[*row, *more] for row, more in zip(lead, zip(*kept, strict=True), strict=True)]


def _top(study: Study) -> str:
    best = study["ranking"][:TOP]
    if not best:
        return ""
    names = [d["name"] for d in study["space"]]
    kind = "value" if study["task"] is None else f"validation {study['task']['metric']}"
    head = ["rank", "trial", escape(kind), *map(escape, names)]
    rows = [
        [str(k + 1), str(t["number"]), value(study, t["value"])]
        + [escape(short(t["config"][name])) for name in names]
        for k, t in enumerate(best)
    ]
    won = study["winner"]["number"] if study["winner"] else None
    note = f"The best {len(best)} of {len(study['trials'])}; the winner is shaded."
    return (
        f'<h2>Trials</h2><p class="note">{note}</p>'
        f"{page.table(head, rows, [t['number'] == won for t in best])}"
    )


def _finalists(study: Study) -> list[str]:
    if not study["finalists"]:
        return []
    tested = study["task"] is not None
    own = study["defaults"]
    metric = study["task"]["metric"] if tested else ""
    head = ["finalist", f"validation {escape(metric)}" if tested else "value"]
    head[1] += "<br><small>mean, 95% interval</small>"
    if tested:
        head.append(f"test {escape(metric)}<br><small>mean, 95% interval</small>")
    if own is not None:
        head.append("test, above the defaults<br><small>paired by seed, 95% interval</small>")
    rows, ours = [], []
    for row in [*study["finalists"], *([own] if own else [])]:
        cells = [_WRAP.format(_name(study, row)), _interval(study, row["value"])]
        if tested:
            cells.append(_interval(study, row["test"]))
        if own is not None:
            cells.append("" if row is own else _difference(study, row, own))
        rows.append(cells)
        won = study["winner"] is not None and row["config"] == study["winner"]["config"]
        ours.append(won and row is not own)
    note = f"Each run with {study['settings']['seeds']} seeds that the search has not used."
    return [
        f'<h2>Finalists</h2><p class="note">{note}</p>',
        page.table(head, rows, ours),
    ]


def _name(study: Study, row: dict[str, Any]) -> str:
    failed = f"; {row['failed']} of {study['settings']['seeds']} failed" if row["failed"] else ""
    lead = "defaults" if row is study["defaults"] else trial_of(study, row["config"])
    return f"{lead}: {escape(words(row['config']))}<small>{failed}</small>"


def _interval(study: Study, found: Interval) -> str:
    if found["mean"] is None:
        return "none finished"
    text = value(study, found["mean"])
    if found["low"] is not None:
        text += f" <small>{value(study, found['low'])} to {value(study, found['high'])}</small>"
    return text


def _difference(study: Study, row: dict[str, Any], own: dict[str, Any]) -> str:
    a, b = (
        {run["seed"]: run["test"] for run in x["runs"] if run["test"] is not None}
        for x in (row, own)
    )
    found, unit = statistics.difference(a, b), Unit(study["task"]["kind"])
    if found["mean"] is None:
        return "no seed in common"
    bounds = unit.bounds(found).removeprefix("95% interval ")
    return f"{unit.gap(found['mean'])} <small>{bounds}</small>"


def _winner(study: Study) -> list[str]:
    winner = study["winner"]
    if winner is None:
        return []
    if study["task"] is None:
        return [
            page.preformatted("The winner", f"config = {winner['python']}"),
            page.preformatted("As TOML", winner["toml"], "The same is in winner.toml beside this page."),
        ]  # fmt: skip
    return [
        page.preformatted("What the winner computes", winner["equations"]),
        page.preformatted("The winner in NumPy", numpy_lines(study)),
        page.preformatted("The winner in PyTorch", torch_lines(study)),
        page.preformatted(
            "The winner trained from the command line",
            f"rmsprop train --config winner.toml\n\n{winner['toml']}",
            "The settings below the line are in winner.toml beside this page.",
        ),
    ]


def _pictures(study: Study) -> list[str]:
    if not study["ranking"]:
        return []
    name = escape(str(main_of(study)))
    parts = [
        page.picture(
            "Trial by trial",
            "A dot for each trial that ended, at its value; marks along the bottom did not finish.",
            plots_search.best_so_far(study),
        ),
        page.picture(
            f"How much {name} matters",
            f"All trials against {name}, whatever else they have; the ring is the winner.",
            plots_search.sensitivity(study),
        ),
    ]
    if len(study["space"]) > 1:
        note = (
            "A line for each trial, from value to value, each on its own scale; brighter is better, the "
            "winner is orange, grey were pruned. Choices are drawn a little apart."
        )
        parts.append(page.picture("All that was searched", note, plots_search.parallel(study)))
    if study["importance"]:
        note = (
            "How much of the variance of the values each explains (fANOVA, fitted to the trials)."
        )
        parts.append(page.picture("What mattered", note, plots_search.importance(study)))
    if study["finalists"]:
        note = "A dot for each seed; the mean and its 95% interval. Orange is the winner, green the defaults."
        parts.append(
            page.picture(
                "Final runs",
                note if study["defaults"] else note.replace(", green the defaults", ""),
                plots_search.finalists(study),
            )
        )
    return parts


def _splits(study: Study) -> list[str]:
    if not study["splits"]:
        return []
    title = (
        "What a single split would have said"
        if study["settings"]["splits"]
        else "What a single seed would have said"
    )
    note = (
        "Each config over the seeds of the search; blue cannot be told apart from the best, as the interval "
        "of its paired difference holds 0."
    )
    return [
        page.picture(title, note, plots_search.splits(study)),
        *(f"<p>{escape(text)}</p>" for text in single_split(study)),
    ]


def _failures(study: Study) -> list[str]:
    if not study["failures"]:
        return []
    rows = [[str(f["number"]), _WRAP.format(escape(str(f["why"])))] for f in study["failures"]]
    return [
        "<h2>Trials that failed</h2>"
        '<p class="note">They have no value, and the search went on without them.</p>',
        page.table(["trial", "why"], rows, [False] * len(rows)),
    ]


def _broken(name: str) -> str:
    """A name on two lines, where it has an underscore near its middle."""
    at = [k + 1 for k, letter in enumerate(name) if letter == "_"]
    if len(name) < 9 or not at:
        return name
    k = min(at, key=lambda k: max(k, len(name) - k))
    return f"{name[:k]}\n{name[k:]}"


def _width(columns: Any) -> int:
    """Of columns side by side, two blanks between."""
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    return sum(widths) + 2 * (len(widths) - 1)
