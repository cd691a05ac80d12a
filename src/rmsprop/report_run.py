"""The page of one training: the score on unseen rows, curves, confusion, mistakes, how to repeat it."""

import json
from html import escape
from pathlib import Path
from typing import Any

from rmsprop import files, page, plots, plots_run
from rmsprop.data import Dataset
from rmsprop.report import score

Record = dict[str, Any]


def sentence(record: Record) -> str:
    """What came of the training, in one sentence, and how the baseline does."""
    found = record["evaluation"]
    if record["test_loss"] is None:
        return (
            f"{record['label']} diverged on {record['task']} at learning rate {record['rule']['lr']:g}: its "
            "loss is not finite. Lower the rate, clip the gradients, or find a rate with rmsprop compare."
        )
    if found is None:  # a learner of the user's own
        return f"The test loss is {record['test_loss']:.4g} after {record['steps'][-1]:,} steps."
    percent = found["metric"] == "accuracy"
    text = f"{score(found['score'], percent)} test {found['metric']}"
    if percent:
        low, high = (f"{100 * x:.2f}" for x in found["interval"])
        text += f" (95% interval over the {found['rows']:,} rows {low} to {high})"
    steps = record["steps"]
    text += f" after {steps[-1]:,} steps in {_seconds(record['seconds'][-1])} of training."
    if record["patience"] and record["best"] != len(steps) - 1:
        text += (
            f" These are the parameters of step {steps[record['best']]:,}, the best on validation."
        )
    if record["diverged"]:
        text += " The training loss did not fall: try another learning rate, or rmsprop compare."
    if "baseline" in found:
        text += " " + _beside(found["interval"], found["baseline"])
    return text


def _seconds(x: float) -> str:
    return f"{x:.2g} s" if x < 1 else f"{x:.1f} s" if x < 100 else f"{x:.0f} s"


def _beside(interval: list[float], baseline: float) -> str:
    low, high = interval
    how = "better" if baseline > high else "worse" if baseline < low else "no clear difference"
    return (
        f"A logistic regression on bags of words, fitted on the training and the validation rows, has "
        f"{100 * baseline:.2f}%: {how}."
    )


def write(record: Record, folder: str | Path, dataset: Dataset | None) -> Path:
    """Write report.html into a folder, and return its path.

    Parameters
    ----------
    record
        That of the Run; and `label`, `metric`, `equations`, `patience`, `evaluation` (None if the loss is not
        finite, or there is no data set), `toml`, `command`, and what `environment.describe` says.
    folder
        That of the training; its report is replaced, and the record goes to run.json.
    dataset
        Whose test rows are shown; None where there is none.
    """
    folder = Path(folder)
    files.write_text(folder / "run.json", json.dumps(record, indent=1, allow_nan=False))
    files.write_text(folder / "report.html", html(record, dataset))
    return folder / "report.html"


def html(record: Record, dataset: Dataset | None) -> str:
    """The page as text. It asks for nothing from outside: style and pictures are in it."""
    found, metric = record["evaluation"], record["metric"]
    note = (
        "The loss on training rows is the mean over each epoch's mini-batches, as they were seen."
    )
    if found and metric == "accuracy":
        note += " The ring is the best validation score."
    parts = page.heading(f"{record['task']}: {record['label']}", sentence(record))
    parts.append(page.picture("Curves", note, plots_run.curves(record, metric)))
    if found and dataset is not None:
        parts += _evaluation(found, dataset)
    if record["rates"]:
        entry = {"label": record["label"], "runs": [record]}
        rates = plots.effective_rates([entry])
        if rates is not None:
            text = (
                "The learning rate over the denominator, for each array: the median element, in a band from "
                "the 10% to the 90% quantile."
            )
            parts.append(page.picture("Effective learning rates", text, rates))
    parts += [
        page.preformatted("What was computed", record["equations"], _computed(record)),
        page.preformatted(
            "The same again",
            record["toml"],
            "As run.toml in this folder: rmsprop train --config run.toml",
        ),
        page.origin(record | {"seconds": record["seconds"][-1]}),
    ]
    return page.document(f"{record['task']} trained with {record['label']}", parts)


def _computed(record: Record) -> str:
    text = "For every parameter"
    if record["schedule"] != "constant":
        text += f", with the learning rate of the schedule {record['schedule']}, which begins at this one"
    return f"{text}."


def _share(x: float | None) -> str:
    return "" if x is None else score(x, True)


def _evaluation(found: Record, dataset: Dataset) -> list[str]:
    if found["metric"] != "accuracy":
        note = f"The {len(found['worst'])} test rows with the largest errors; RMSE {found['rmse']:.4g}."
        return [page.picture("Worst errors", note, plots_run.residuals(found["worst"]))]
    classes = found["classes"]
    note = "Test rows: true classes down, predicted ones across; mistakes in red."
    parts = [page.picture("Confusion", note, plots_run.confusion(found["confusion"], classes))]
    head = ["class", "rows", "recall", "precision"]
    rows = [
        [escape(name), f"{sum(row):,}", _share(recall), _share(precision)]
        for name, row, recall, precision in zip(
            classes, found["confusion"], found["recall"], found["precision"], strict=True
        )
    ]
    parts.append(page.table(head, rows, [False] * len(rows)))
    if not found["worst"]:
        return parts
    note = "Of the test rows, those that the model is surest of and wrong about."
    if dataset.images is not None:
        figure = plots_run.mistakes(dataset.images, found["worst"], classes)
        parts.append(page.picture("Worst mistakes", note, figure))
    elif dataset.texts is not None:
        rows = [
            [
                f"<q>{escape(dataset.texts[i])}</q>",
                escape(classes[said]),
                escape(classes[true]),
                f"{100 * p:.0f}%",
            ]
            for i, said, true, p in found["worst"]
        ]
        table = page.table(["text", "predicted", "true", "probability"], rows, [False] * len(rows))
        parts.append(f'<h2>Worst mistakes</h2><p class="note">{note}</p>{table}')
    return parts
