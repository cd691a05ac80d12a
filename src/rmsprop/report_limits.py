"""The study of `rmsprop.limits` as one self-contained HTML page, with the numbers beside it as run.json."""

import json
from html import escape
from pathlib import Path
from typing import Any

from rmsprop import files, page, plots_limits
from rmsprop.limits.study import HELPS, HURTS, SAME, Measure, shown

Study = dict[str, Any]

TITLE = "Limitations of RMSprop, shown and mitigated"
_WRAP = '<div style="white-space: normal; text-align: left">{}</div>'


def write(study: Study, folder: str | Path, *, command: str) -> Path:
    """Write report.html and run.json into a folder, and return the page's path.

    Parameters
    ----------
    study
        From `limits.measure`.
    folder
        Made if it is not there; files of these names are replaced.
    command
        What to run to get this again; shown on the page and kept in run.json.

    Raises
    ------
    OSError
        Where the folder cannot be written; what was there before is kept.

    Examples
    --------
    >>> import tempfile
    >>> from rmsprop import limits
    >>> study = limits.measure(seeds=2, only=["overshooting"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(study, folder, command="rmsprop limits").name
    'report.html'
    """
    folder = Path(folder)
    study = {"command": command} | study
    text = html(study)
    files.write_text(folder / "run.json", json.dumps(study, indent=1, allow_nan=False))
    files.write_text(folder / "report.html", text)
    return folder / "report.html"


def html(study: Study) -> str:
    """The page as text. It asks for nothing from outside: style and pictures are in it."""
    parts = [
        *page.heading(TITLE, study["verdict"]),
        _summary(study),
        page.bullets("Read with care", caveats(study)),
    ]
    for found in study["limits"]:
        parts += _limit(found, study["settings"]["seeds"])
    slides = [f"{x['claim']} {x['fact']}" for found in study["limits"] for x in found["slides"]]
    if slides:
        parts.append(page.bullets("What the slides say, and what is so", slides))
    return page.document(TITLE, [*parts, page.origin(study)])


def caveats(study: Study) -> list[str]:
    """What the figures do not say."""
    seeds = study["settings"]["seeds"]
    return [
        f"A cure helps, or hurts, where the 95% interval of its paired difference over {seeds} seeds leaves "
        "out 0, and makes no difference that so many seeds can show where it holds 0. Of comparisons where "
        "nothing differs, one in twenty leaves out 0 by chance.",
        "Ratios are of geometric means: what is lower is better where a loss, a height or a distance is "
        "measured.",
        "The problems are small, and chosen to show one limitation each. That a cure helps here says that "
        "the mechanism is real, not that your network needs it.",
        "The digits are split once: seeds change the starting weights and the order of the mini-batches.",
    ]


def _summary(study: Study) -> str:
    rows = []
    for found in study["limits"]:
        groups: dict[str, list[str]] = {HELPS: [], SAME: [], HURTS: []}
        for p in found["parts"]:
            for c in p["comparisons"]:
                text = f"{c['cure']} ({p['name']})"
                if text not in groups[c["verdict"]]:
                    groups[c["verdict"]].append(text)
        cells = [found["title"], *("; ".join(who) for who in groups.values())]
        rows.append([_WRAP.format(escape(cell)) for cell in cells])
    return page.table(["limitation", HELPS, SAME, HURTS], rows, [False] * len(rows))


def _limit(found: dict[str, Any], seeds: int) -> list[str]:
    note = f"<b>{escape(found['verdict'])}</b>"
    parts = [page.picture(found["title"], note, plots_limits.limit(found))]
    parts.append(
        '<p class="note">Left: the median of '
        f"{seeds} seeds, in a band from the least to the most. Right: a dot for each seed, the mean and its "
        "95% interval, and what each cure does.</p>"
    )
    parts += [f"<p>{escape(text)}</p>" for text in found["why"]]
    parts.append(f"<pre>{escape(found['equation'])}</pre>")
    parts.append(f"<p>Cure: {escape(found['cure'])}</p>")
    for p in found["parts"]:
        parts += _part(p)
    return parts


def _part(p: dict[str, Any]) -> list[str]:
    measure = Measure(**p["measure"])
    head = [
        "",
        f"{escape(measure.name)}<br><small>mean, 95% interval</small>",
        "learning rate",
        "also",
    ]
    rows = [
        [
            escape(v["label"]),
            _interval(measure, v["summary"]),
            escape(v["schedule"]),
            escape(v["note"]),
        ]
        for v in p["variants"]
    ]
    if not any(v["note"] for v in p["variants"]):
        head, rows = head[:-1], [row[:-1] for row in rows]
    sentences = "".join(f"<li>{escape(c['text'])}</li>" for c in p["comparisons"])
    rules = "".join(
        f"<p class='note'>{escape(v['label'])}</p><pre>{escape(v['equations'])}</pre>"
        for v in p["variants"]
    )
    return [
        f'<h3>{escape(p["name"])}</h3><p class="note">{escape(p["setting"])}</p>',
        page.table(head, rows, [False] * len(rows)),
        f"<ul>{sentences}</ul>",
        f"<details><summary>What each computes</summary>{rules}</details>",
    ]


def _interval(measure: Measure, found: dict[str, Any]) -> str:
    low, high = (shown(measure, found[k]) for k in ("low", "high"))
    return f"{shown(measure, found['mean'])} <small>{low} to {high}</small>"
