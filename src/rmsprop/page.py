"""Pieces of a self-contained HTML page: nothing is asked for from outside."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2330; max-width: 62rem; margin: 0 auto;
       padding: 2rem 1.2rem 4rem; background: #fff; }
h1 { font-size: 1.15rem; font-weight: 600; color: #5a6372; margin: 0; }
.verdict { font-size: 1.45rem; line-height: 1.4; margin: .6rem 0 1.4rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .4rem; }
p.note, li { color: #4a5260; }
p.note { margin: .2rem 0 .6rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid #e3e6eb; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
q { white-space: normal; }
th { font-weight: 600; color: #5a6372; vertical-align: bottom; }
tr.ours { background: #fdf3ec; }
small { color: #5a6372; }
img { max-width: 100%; height: auto; display: block; }
pre { background: #f5f6f8; padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .88rem; }
details { margin: .3rem 0; } summary { cursor: pointer; }
"""


FULL_WIDTH = 9.0  # inches of a figure as wide as the page


def document(title: str, parts: Sequence[str]) -> str:
    """The page, from its title and its parts in HTML.

    Examples
    --------
    >>> "<title>A &amp; B</title>" in document("A & B", ["<p>text</p>"])
    True
    """
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'  # or the browser asks for /favicon.ico
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
    )
    return head + "\n".join(parts) + "</body></html>\n"


def heading(title: str, verdict: str) -> list[str]:
    """The title, small, and what the page says in one sentence, large."""
    return [f"<h1>{escape(title)}</h1>", f'<p class="verdict">{escape(verdict)}</p>']


def picture(title: str, note: str, figure: Figure) -> str:
    """A figure under its title and an explanation, which may hold HTML."""
    stream = io.BytesIO()
    # Pixels, not SVG: a contour plot with paths is ten times as large, and slow, as vectors.
    figure.savefig(stream, format="png", dpi=160)
    data = base64.b64encode(stream.getvalue()).decode()
    width = min(100.0, 100 * figure.get_figwidth() / FULL_WIDTH)  # so that letters are of one size
    image = (
        f'<img style="width:{width:.0f}%" alt="{escape(title)}" src="data:image/png;base64,{data}">'
    )
    return f'<h2>{escape(title)}</h2><p class="note">{note}</p>{image}'


def bullets(title: str, items: Sequence[str]) -> str:
    """A list of plain sentences under a title."""
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def preformatted(title: str, text: str, note: str = "") -> str:
    """Plain text as it is, under a title."""
    below = f'<p class="note">{note}</p>' if note else ""
    return f"<h2>{escape(title)}</h2><pre>{escape(text)}</pre>{below}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], ours: Sequence[bool]) -> str:
    """A table of cells in HTML; the rows that are `ours` are shaded."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr{' class=ours' if mine else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for row, mine in zip(rows, ours, strict=True)
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def origin(study: dict[str, Any]) -> str:
    """The command, the moment, the machine and the versions of a study."""
    machine, versions = study["machine"], study["versions"]
    text = "\n".join(
        [
            study["command"],
            "",
            f"{study['created']}, {study['seconds']:.1f} s",
            f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, BLAS {machine['blas']}",
            ", ".join(f"{name} {version}" for name, version in versions.items()),
        ]
    )
    return preformatted("Run it again", text, "Every number on this page is in run.json beside it.")
