"""A trained model as it lies in its folder: to evaluate it, and to predict with it."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import files
from rmsprop.checkpoint import MODEL
from rmsprop.data import Dataset
from rmsprop.data.inputs import described, read_inputs
from rmsprop.learners import Arrays, check_same_arrays, part_of
from rmsprop.models.outputs import probabilities
from rmsprop.settings import Settings, make_task, read
from rmsprop.tasks import Task, split_name

MOST = 5  # classes told of a prediction


@dataclass(frozen=True)
class Saved:
    """A model that `rmsprop train` left in a folder.

    Attributes
    ----------
    folder
        Where it lies.
    settings
        What it was trained with.
    dataset
        The data that it knows; without rows where only a prediction is wanted.
    model
        A NumPy model or a torch.nn.Module, with the trained parameters.
    """

    folder: Path
    settings: Settings
    dataset: Dataset
    model: Any

    def scores(self, x: np.ndarray) -> np.ndarray:
        """The outputs (rows, outputs) for inputs; ValueError for a model that diverged."""
        if hasattr(self.model, "scores"):
            z = self.model.scores(x)
        else:
            from rmsprop.learners.modules import scores

            z = scores(self.model, self.dataset, x)
        if not np.isfinite(z).all():
            raise ValueError(
                f"the model of {self.folder} gives inf or nan: its training diverged. Train again with a "
                "lower learning rate"
            )
        return z

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """The probability of each class (rows, classes); ValueError for a regression."""
        if self.dataset.kind == "regression":
            raise ValueError(f"{self.dataset.name} has values, not probabilities")
        return probabilities(self.scores(x).astype(np.float64))

    def predict(self, given: list[str]) -> list[dict[str, Any]]:
        """For each input, as `data.inputs.read_inputs` takes them, what the model says.

        Returns
        -------
        list of dict
            `input`; `label`, `probability` and the likeliest `classes` with theirs; or the `value` of a
            regression.
        """
        x = read_inputs(self.dataset, given)
        if self.dataset.kind == "regression":
            values = self.scores(x)[:, 0]
            return [{"input": g, "value": float(v)} for g, v in zip(given, values, strict=True)]
        return [
            {"input": g} | _answer(self.dataset.classes, p)
            for g, p in zip(given, self.probabilities(x), strict=True)
        ]


def load(
    folder: str | Path, *, data: bool = True, data_dir: str | None = None, task: str | None = None
) -> Saved:
    """The model in a folder that `rmsprop train` made.

    Parameters
    ----------
    folder
        Holds run.toml and model.safetensors.
    data
        Load the data too, for evaluation. Not needed for predictions.
    data_dir
        Where they lie now, if they have moved.
    task
        Of a run of the user's own code, that code again: it is run, and a folder may come from anywhere.

    Raises
    ------
    FileNotFoundError
        Where there is no such model.
    ValueError
        For a damaged one, or one of data that have changed since.
    """
    folder = Path(folder)
    for name in ("run.toml", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}: give a folder that rmsprop train has made, as runs/train-digits; "
                "a run that was stopped is finished with --resume"
            )
    found = read(folder / "run.toml")
    if data_dir is not None:
        found["data_dir"] = data_dir
    if "task" not in found:
        raise ValueError(
            f"{folder / 'run.toml'} names no task, and is not what rmsprop train wrote"
        )
    settings = Settings(**found)
    if task is not None and not settings.is_own:
        raise ValueError(
            f"a task is named for runs of your own code alone; {folder} is of {settings.task}"
        )
    if task is not None:
        settings = replace(settings, task=task)
    elif settings.is_own:
        raise ValueError(
            f"{folder} is of code, {settings.task}, which has to run: if you trust it, name it with "
            f"--task {settings.task} (task=...)"
        )
    if settings.is_style:
        raise ValueError("a style transfer has a picture and no model: look at picture.png there")
    arrays, header = files.load_arrays(folder / "model.safetensors", MODEL)
    if settings.is_own:
        own = _own(settings)
        dataset, model = own.dataset, own.build(settings.seed)
    else:
        made = _made(settings)
        dataset = made.dataset if data else described(header["data"])
        model = made.model_for(dataset, settings.seed)
    if data and _hashes(dataset.provenance) != _hashes(header["data"]["provenance"]):
        raise ValueError(
            f"the data of {folder} have changed since it was trained: what it learnt from may now be in the "
            "test split. Train again, or put the old data back"
        )
    _restore(model, part_of(arrays, "params/"))
    return Saved(folder, settings, dataset, model)


def _own(settings: Settings) -> Any:
    """The task of the user's code, if it has a model to put parameters into."""
    task = make_task(settings)
    if not hasattr(task, "dataset") or not hasattr(task, "build"):
        raise ValueError(
            f"{settings.task} has a learner of its own, and no dataset and build: there is nothing to "
            "evaluate or to predict with"
        )
    return task


def _made(settings: Settings) -> Task:
    """The task of settings that are written out, without a look at its data, which may be gone."""
    known = {f.name: getattr(settings, f.name, None) for f in fields(Task)}
    given = {name: value for name, value in known.items() if value is not None}
    return Task(split_name(settings.task)[0], **given)


def _answer(names: tuple[str, ...], p: np.ndarray) -> dict[str, Any]:
    order = np.argsort(-p, kind="stable")
    likeliest = {names[k]: float(p[k]) for k in order[:MOST]}
    return {"label": names[order[0]], "probability": float(p[order[0]]), "classes": likeliest}


def _hashes(provenance: dict[str, Any]) -> Any:
    return provenance.get("files"), provenance.get("rows"), provenance.get("seed")


def _restore(model: Any, params: Arrays) -> None:
    if hasattr(model, "params"):
        check_same_arrays(params, model.params)
        for name, p in model.params.items():
            p[...] = params[name]
        return
    from rmsprop.learners.modules import restore

    restore(model, params)
