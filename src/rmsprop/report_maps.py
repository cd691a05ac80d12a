"""A response map as files: the picture, its arrays for NumPy, and what it was made with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import files, plots
from rmsprop.plots_maps import outcome_text, response_map, share
from rmsprop.plots_scales import short
from rmsprop.report_words import finite
from rmsprop.space import Range
from rmsprop.verdict import Unit

Study = dict[str, Any]

FEW = 9  # cells as good as the best, itself among them: no more than those around it


def write(
    study: Study, folder: str | Path, *, command: str, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write the map into a folder: map.png, map.svg, map.npz and run.json.

    Parameters
    ----------
    study
        From `maps.surface_map` or `maps.task_map`.
    folder
        Made if it is not there; files of these names are replaced.
    command
        What to run to get this again; kept in run.json.
    formats
        Of the picture: png, svg, pdf; default png and svg.

    Returns
    -------
    list of Path
        What was written. map.npz has x, y (the values of the axes) and for the k-th competitor "k/loss",
        "k/steps", "k/diverged" and of a task "k/score", each (y.count, x.count); run.json all else.

    Raises
    ------
    ValueError
        For another format, before anything is written.
    OSError
        Where the folder cannot be written; what was there before is kept.

    Examples
    --------
    >>> import tempfile
    >>> from rmsprop.entries import entries
    >>> from rmsprop.maps import surface_map
    >>> from rmsprop.surfaces import SURFACES
    >>> lr, decay = Range("lr", 1e-3, 1, count=8), Range("decay", 0.9, 0.999, count=6)
    >>> study = surface_map(SURFACES["booth"], entries(["rmsprop"], []), lr, decay, steps=50)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = write(study, folder, command="python map.py", formats=["png"])
    ...     with np.load(Path(folder) / "map.npz", allow_pickle=False) as kept:
    ...         [path.name for path in paths], kept["0/loss"].shape
    (['map.png', 'map.npz', 'run.json'], (6, 8))
    """
    folder = Path(folder)
    paths = [folder / f"map.{ending}" for ending in formats]
    for path in paths:
        plots.check_ending(path)
    figure = response_map(study)
    for path in paths:
        plots.save(figure, path)
    arrays = {"x": Range(**study["x"]).values(), "y": Range(**study["y"]).values()}
    for k, one in enumerate(study["maps"]):
        arrays |= {f"{k}/{name}": x for name, x in one.items() if isinstance(x, np.ndarray)}
    with files.replacing(folder / "map.npz") as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    maps = [
        {name: x for name, x in one.items() if not isinstance(x, np.ndarray)}
        for one in study["maps"]
    ]
    record = finite({"command": command} | study | {"maps": maps, "arrays": "map.npz"})
    text = json.dumps(record, indent=1, allow_nan=False)
    files.write_text(folder / "run.json", text)
    return [*paths, folder / "map.npz", folder / "run.json"]


def sentence(study: Study) -> str:
    """What the map says: of each competitor the best cell, how much is as good, and the default's distance.

    Examples
    --------
    >>> from rmsprop.entries import entries
    >>> from rmsprop.maps import surface_map
    >>> from rmsprop.surfaces import SURFACES
    >>> lr, decay = Range("lr", 1e-3, 0.1, count=3), Range("decay", 0.9, 0.999, count=3)
    >>> study = surface_map(SURFACES["booth"], entries(["rmsprop"], []), lr, decay, steps=20)
    >>> print(sentence(study).partition(";")[0])
    On booth, RMSprop comes within 0.0079 of the minimum at lr 0.1 and decay 0.999, at the edge of the map
    """
    where = study["task"]["name"] if "task" in study else study["surface"]["name"]
    told = [_of_one(study, one) for one in study["maps"]]
    return f"On {where}, {told[0]}" + "".join(f" {text}" for text in told[1:])


def _of_one(study: Study, one: dict[str, Any]) -> str:
    best, x, y = one["best"], study["x"]["name"], study["y"]["name"]
    if best is None:
        lost = bool((np.asarray(one["diverged"]) > 0).all())
        return f"{one['label']} {'diverges in every' if lost else _goal(study) + ' in no'} cell."
    edge = ", at the edge of the map" if best["at_edge"] else ""
    lonely = " Few cells around it are as good: --starts 16 tells a good setting from a lucky run."
    alone = one["tunability"] * np.asarray(one["diverged"]).size < FEW
    once = "surface" in study and len(study["settings"]["starts"]) == 1
    return (
        f"{one['label']} {_comes(study, best['outcome'])} at {x} {short(best['x'])} and {y} "
        f"{short(best['y'])}{edge}; {share(one['tunability'])} of the map is within 5% of the best's gain."
        f"{lonely if alone and once else ''}{_of_default(study, one)}"
    )


def _comes(study: Study, outcome: float) -> str:
    text, kind = outcome_text(study, outcome), study["settings"]["outcome"]
    if "task" in study and kind != "steps":
        return f"comes to {text} validation {'loss' if kind == 'loss' else study['task']['metric']}"
    if kind != "steps":
        return f"comes within {text} of the minimum" if text != "0" else "reaches the minimum"
    return f"{_goal(study)} after {text} steps"


def _goal(study: Study) -> str:
    """What steps are counted to."""
    if "task" in study:
        target = Unit(study["task"]["kind"]).score(study["settings"]["target"])
        return f"reaches {target} validation {study['task']['metric']}"
    bounded = study["surface"]["minimum"] is not None
    return "reaches the target" if bounded else "leaves the domain"


def _of_default(study: Study, one: dict[str, Any]) -> str:
    """Where PyTorch's defaults stand, all of them, if they are a point on the map."""
    mark = next((m for m in one["dialects"] if m["label"] == "PyTorch"), None)
    if mark is None or None in (mark["x"], mark["y"]):
        return ""
    at = f"{study['x']['name']} {short(mark['x'])}, {study['y']['name']} {short(mark['y'])}"
    if mark["outcome"] is None:
        return f" With PyTorch's defaults ({at}) it never does."
    return f" With PyTorch's defaults ({at}) it {_comes(study, mark['outcome'])}."
