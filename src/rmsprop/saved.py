"""A trained model as it lies in its folder: to evaluate it, and to predict with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import files
from rmsprop.checkpoint import MODEL
from rmsprop.data import Dataset
from rmsprop.data.inputs import class_names, described, read_inputs
from rmsprop.learners import Arrays, check_same_arrays, part_of
from rmsprop.settings import Settings, make_task, read

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
        """The outputs (rows, outputs) for inputs."""
        if hasattr(self.model, "scores"):
            return self.model.scores(x)
        from rmsprop.learners.modules import scores

        return scores(self.model, self.dataset, x)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """The probability of each class (rows, classes); ValueError for a regression."""
        return probabilities(self.dataset.kind, self.scores(x))

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
        names = class_names(self.dataset)
        return [
            {"input": g} | _answer(names, p)
            for g, p in zip(given, self.probabilities(x), strict=True)
        ]


def load(folder: str | Path, *, data: bool = True, data_dir: str | None = None) -> Saved:
    """The model in a folder that `rmsprop train` made.

    Parameters
    ----------
    folder
        Holds run.toml and model.safetensors.
    data
        Load the data too, for evaluation. Not needed for predictions.
    data_dir
        Where they lie now, if they have moved.

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
                f"{folder} holds no {name}: give a folder that rmsprop train has made and finished, as "
                "runs/train-digits"
            )
    found = read(folder / "run.toml")
    if data_dir is not None:
        found["data_dir"] = data_dir
    settings = Settings(**found)
    if settings.is_style:
        raise ValueError("a style transfer has a picture and no model: look at picture.png there")
    arrays, header = files.load_arrays(folder / "model.safetensors", MODEL)
    task = make_task(settings)
    if settings.is_own:
        dataset, model = task.dataset, task.build(settings.seed)
    else:
        dataset = task.dataset if data else described(header["data"])
        model = task.model_for(dataset, settings.seed)
    if data and _hashes(dataset.provenance) != _hashes(header["data"]["provenance"]):
        raise ValueError(
            f"the data of {folder} have changed since it was trained: what it learnt from may now be in the "
            "test split. Train again, or give the old data with --data-dir"
        )
    _restore(model, part_of(arrays, "params/"))
    return Saved(folder, settings, dataset, model)


def probabilities(kind: str, z: np.ndarray) -> np.ndarray:
    """The probability of each class (rows, classes) from scores: softmax, or the logistic of one.

    Raises ValueError for a regression.

    Examples
    --------
    >>> probabilities("binary", np.array([[0.0]])).tolist()
    [[0.5, 0.5]]
    """
    if kind == "regression":
        raise ValueError("a regression has values, not probabilities")
    z = z.astype(np.float64)
    if kind == "binary":
        z = np.hstack([np.zeros_like(z), z])  # the softmax of (0, z) is (1 - p, p)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


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
