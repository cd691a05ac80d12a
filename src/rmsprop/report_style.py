"""The page of one style transfer: before and after, how it came about, how to repeat it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from rmsprop import files, page, plots, plots_run
from rmsprop.style import read, sheet

if TYPE_CHECKING:
    from rmsprop.style import StyleTask

Record = dict[str, Any]


def sentence(record: Record) -> str:
    """What was made, and how far the loss came down."""
    first, last = record["validation_loss"][0], record["validation_loss"][-1]
    if first is None or last is None or record["diverged"]:
        return f"The loss did not fall at learning rate {record['rule']['lr']:g}: lower it (--lr)."
    return (
        f"{record['task']}: {record['steps'][-1]:,} steps on the pixels in {record['seconds'][-1]:.0f} s "
        f"took the loss from {first:.3g} to {last:.3g}; see picture.png."
    )


def write(record: Record, folder: str | Path, task: "StyleTask") -> Path:
    """Write report.html, sheet.png (before and after) and run.json; return the report's path."""
    folder = Path(folder)
    image = _pixels(folder / "picture.png")
    side_by_side = sheet(task, image)
    plots.save(side_by_side, folder / "sheet.png")
    stages = [_pixels(path) for path in sorted((folder / "progress").glob("*.png"))]
    note = "The pixels are the only parameters; the networks' weights stay as they are."
    parts = [
        *page.heading(f"{record['task']}: {record['label']}", record["sentence"]),
        page.picture("Before and after", note, side_by_side),
        page.picture("How it came about", "After each epoch, coarse to fine.", _strip(stages)),
        page.picture(
            "Loss",
            "Content, style and total variation, weighted; it changes its scale where the size does.",
            plots_run.curves(record, record["metric"]),
        ),
        page.preformatted("What was computed", record["equations"], "For every pixel's colours."),
        page.preformatted(
            "The same again", record["toml"], "As run.toml here: rmsprop train --config run.toml"
        ),
        page.origin(record | {"seconds": record["seconds"][-1]}),
    ]
    files.write_text(folder / "run.json", json.dumps(record, indent=1, allow_nan=False))
    files.write_text(folder / "report.html", page.document(record["task"], parts))
    return folder / "report.html"


def _pixels(path: Path) -> np.ndarray:
    from rmsprop.style.images import to_array

    return to_array(read(path))


def _strip(stages: list[np.ndarray]) -> Figure:
    columns = min(4, len(stages))
    rows = -(-len(stages) // columns)
    height, width = stages[-1].shape[:2]
    side = 9 / columns
    figure = Figure(figsize=(9, rows * (side * height / width + 0.3)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for k, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if k < len(stages):
            ax.imshow(stages[k], interpolation="lanczos")
            ax.set_title(f"epoch {k + 1}", fontsize=9)
    return figure
