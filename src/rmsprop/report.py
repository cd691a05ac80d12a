"""A study as one self-contained HTML page, with the numbers beside it as run.json."""

import json
from html import escape
from pathlib import Path
from typing import Any

from rmsprop import files, page, plots
from rmsprop.surfaces import Surface
from rmsprop.tasks import Task

Study = dict[str, Any]


def write(
    study: Study, folder: str | Path, *, command: str, surface: Surface | None = None
) -> Path:
    """Write report.html and run.json into a folder, and return the page's path.

    Parameters
    ----------
    study
        From `compare.compare_task` or `compare_surfaces.compare_surface`.
    folder
        Made if it is not there; files of these names are replaced.
    command
        What to run to get this again; shown on the page and kept in run.json.
    surface
        The surface of a surface's study, to draw its contours.

    Raises
    ------
    OSError
        Where the folder cannot be written; what was there before is kept.
    """
    folder = Path(folder)
    study = {"command": command} | study
    text = html(study, surface)
    files.write_text(folder / "run.json", json.dumps(study, indent=1, allow_nan=False))
    files.write_text(folder / "report.html", text)
    return folder / "report.html"


def html(study: Study, surface: Surface | None = None) -> str:
    """The page as text. It asks for nothing from outside: style and pictures are in it."""
    if study["kind"] == "surface":
        if surface is None:
            raise ValueError("the report of a surface needs surface=..., to draw its contours")
        title = f"{study['surface']['name']}: optimizers compared"
        table, pictures = _surface_table(study), _surface_pictures(study, surface)
    else:
        title = f"{study['task']['name']}: optimizers compared"
        table, pictures = _task_table(study), _task_pictures(study)
    parts = [
        *page.heading(title, study["verdict"]),
        table,
        page.bullets("Read with care", study["caveats"]),
        *pictures,
        _equations(study["entries"]),
        _protocol(study),
        page.origin(study),
    ]
    return page.document(title, parts)


def _task_table(study: Study) -> str:
    task, settings = study["task"], study["settings"]
    percent = task["kind"] != "regression"
    metric, target = task["metric"], settings["target"]
    head = [
        "optimizer",
        "learning rate",
        f"test {metric}<br><small>mean, 95% interval</small>",
        f"steps to {score(target, percent)}<br><small>validation, median</small>",
        "seconds<br><small>to the same</small>",
        "settings found"
        if settings.get("tune")
        else "good learning rates<br><small>within 0.01 of its best</small>",
        "diverged<br><small>in the search</small>",
    ]
    rows = []
    for e in study["entries"]:
        good = e["good_lrs"]
        rows.append(
            [
                escape(e["label"]),
                _lr(e),
                _interval(e["test_score"], percent),
                _reached(e, settings["seeds"], f"{e['steps_to_target']:,.0f}")
                if e["reached"]
                else "never",
                f"{e['seconds_to_target']:.2g}" if e["reached"] else "",
                _settings(e)
                if settings.get("tune")
                else f"{good['low']:.2g} to {good['high']:.2g}"
                if good
                else "",
                f"{e['search_diverged']} of {e['search_runs']}" if e["search_runs"] else "",
            ]
        )
    return page.table(head, rows, [e["is_rmsprop"] for e in study["entries"]])


def _surface_table(study: Study) -> str:
    settings, bounded = study["settings"], study["surface"]["minimum"] is not None
    goal = f"to {settings['target']:.2g} above" if bounded else "to leave the domain"
    head = [
        "optimizer",
        "learning rate",
        "height at the end<br><small>above the minimum</small>" if bounded else "f at the end",
        f"steps<br><small>{goal}</small>",
        "where it ends",
        "diverged<br><small>in the search</small>",
    ]
    rows = []
    for e in study["entries"]:
        end = e["path"]["positions"][-1] if e["path"] else []
        rows.append(
            [
                escape(e["label"]),
                _lr(e),
                _height(e["final"]),
                _reached(e, settings["seeds"], f"{e['steps_to_target']:,.0f}")
                if e["reached"]
                else "never",
                "(" + ", ".join("inf" if x is None else f"{x:.4g}" for x in end) + ")"
                if end
                else "",
                f"{e['search_diverged']} of {e['search_runs']}" if e["search_runs"] else "",
            ]
        )
    return page.table(head, rows, [e["is_rmsprop"] for e in study["entries"]])


def _task_pictures(study: Study) -> list[str]:
    entries, task, settings = study["entries"], study["task"], study["settings"]
    seeds = settings["seeds"]
    parts = [
        page.picture(
            "Loss",
            f"Median of {seeds} seeds, in a band from the least to the most. The training loss is the lower "
            "one where the network has learnt its training rows by heart.",
            plots.loss_curves(entries),
        ),
        page.picture(
            "Validation " + task["metric"],
            "At the end of each epoch; the dotted line is the target of the table.",
            plots.score_curves(entries, task["metric"], settings["target"]),
        ),
    ]
    if any(e["search"] for e in entries):
        note = (
            f"Mean of {settings['search_seeds']} seed(s) at each of {settings['budget']} learning rates, on "
            "the validation split. The ring is the one chosen; crosses at the bottom are rates at which a "
            "run diverged. A broad top is an optimizer that is easy to tune."
        )
        if settings.get("tune"):
            note = (
                f"Each of {settings['trials']} trials by its learning rate; the other settings vary too. The "
                "ring is the one chosen; crosses at the bottom diverged."
            )
        figure = plots.sensitivity(entries, "validation " + task["metric"])
        parts.append(page.picture("How much the learning rate matters", note, figure))
    rates = plots.effective_rates(entries)
    if rates is not None:
        note = (
            "The learning rate over the denominator, for each array of weights: the median element, in a "
            "band from the 10% to the 90% quantile, of the run with seed 0. It follows the gradients: as "
            "they shrink it rises, unless the schedule takes it down."
        )
        parts.append(page.picture("Effective learning rates per layer", note, rates))
    return parts + _predictions(study)


def _predictions(study: Study) -> list[str]:
    ours = [e for e in study["entries"] if e["is_rmsprop"] and e["runs"]] or study["entries"]
    examples = ours[0]["runs"][0]["examples"] if ours[0]["runs"] else None
    if not examples:
        return []
    dataset = Task.from_dict(study["task"]).dataset
    figure = plots.predictions(dataset.images, dataset.test.y, dataset.classes, examples)
    note = (
        f"{escape(ours[0]['label'])}, seed 0: the first ten images of the test split, then the first ten "
        "mistakes among the rest."
    )
    return [page.picture("Predictions", note, figure)]


def _surface_pictures(study: Study, surface: Surface) -> list[str]:
    entries = study["entries"]
    start = ", ".join(f"{x:g}" for x in study["settings"]["start"])
    note = (
        f"From ({start}), {study['settings']['steps']:,} steps; "
        "contours at equal ratios above the minimum, the star is the minimum."
    )
    parts = [page.picture("Paths", note, plots.surface_overview(surface, entries))]
    if any(e["search"] for e in entries):
        note = "The height at the end for each learning rate; the ring is the one chosen, crosses diverged."
        figure = plots.sensitivity(entries, "height at the end", log=True)
        parts.append(page.picture("How much the learning rate matters", note, figure))
    return parts


def _equations(entries: list[dict[str, Any]]) -> str:
    blocks = "".join(
        f"<details{' open' if e['is_rmsprop'] else ''}><summary>{escape(e['label'])}</summary>"
        f"<pre>{escape(e['equations'])}</pre></details>"
        for e in entries
    )
    return f'<h2>What each computes</h2><p class="note">For every parameter, at every step.</p>{blocks}'


def _protocol(study: Study) -> str:
    settings = study["settings"]
    low, high = settings["lr_range"]
    grid = f"{settings['budget']} learning rates from {low:.2g} to {high:.2g}, at equal ratios"
    if study["kind"] == "surface":
        noise = study["surface"]["noise"]
        steps = [
            f"Each optimizer chose among {grid}, by the height at the end of {settings['steps']:,} steps."
        ]
        if noise:
            steps.append(f"Each step's gradient has noise of standard deviation {noise:g} added.")
    else:
        task = study["task"]
        origin = task["provenance"]
        steps = [
            f"Data: {task['name']}, {origin.get('source', '')}",
            f"Network: {_network(task)}",
            f"Each optimizer chose among {_searched(settings, grid)}, by the mean validation "
            f"{task['metric']} of "
            f"{settings['search_seeds']} seed(s) after {task['epochs']} epochs of mini-batches of "
            f"{task['batch_size']}; the final {settings['seeds']} runs use other seeds.",
            "Seed by seed, all start from the same weights and see the same mini-batches.",
        ]
        steps += [
            f"{e['label']} was searched in {e['space']}." for e in study["entries"] if "space" in e
        ]
    steps.append(f"Learning-rate schedule: {settings['schedule']}.")
    return page.bullets("How it was measured", steps)


def _searched(settings: dict[str, Any], grid: str) -> str:
    if settings.get("tune"):
        return f"{settings['trials']} trials ({settings['tune']}) of all its settings"
    return grid


def _settings(e: dict[str, Any]) -> str:
    """The values that a search found, but for the learning rate, which has a column of its own."""
    names = [part.partition("=")[0] for part in e.get("space", "").split() if "lr=" not in part]
    values = {name: e["rule"][name] for name in names}
    shown = ", ".join(
        f"{name}={str(x).lower() if isinstance(x, bool) else f'{x:.4g}'}"
        for name, x in values.items()
    )
    return (
        f'<div style="white-space: normal; text-align: left"><small>{escape(shown)}</small></div>'
    )


def _network(task: dict[str, Any]) -> str:
    if "widths" in task:
        widths = "-".join(str(w) for w in task["widths"])
        return f"{widths}, {task['activation']}" if task["hidden"] else widths
    hidden = "-".join(str(w) for w in task["hidden"])
    return f"{task['network']} in {task['framework']}, hidden {hidden}, dropout {task['dropout']:g}"


def score(x: float | None, percent: bool) -> str:
    """A score for people: an accuracy in per cent, an R^2 as it is."""
    if x is None:
        return "no target"
    return f"{100 * x:.2f}%" if percent else f"{x:.4f}"


def _interval(found: dict[str, Any], percent: bool) -> str:
    if not found["n"]:
        return "none finished"
    text = score(found["mean"], percent)
    if found["low"] is not None:
        factor = 100 if percent else 1
        digits = 2 if percent else 4
        text += f" <small>{factor * found['low']:.{digits}f} to {factor * found['high']:.{digits}f}</small>"
    return text


def _height(found: dict[str, Any]) -> str:
    if not found["n"]:
        return "diverged"
    text = f"{found['mean']:.2g}"
    if found["low"] is not None:
        text += f" <small>{found['low']:.2g} to {found['high']:.2g}</small>"
    return text


def _lr(e: dict[str, Any]) -> str:
    if e["lr"] is None:
        return "none worked"
    return f"{e['lr']:.3g}" + (" <small>given</small>" if e["fixed"] else "")


def _reached(e: dict[str, Any], seeds: int, text: str) -> str:
    return text if e["reached"] == seeds else f"{text} <small>{e['reached']} of {seeds}</small>"
