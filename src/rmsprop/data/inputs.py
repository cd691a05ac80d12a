"""What a trained model must know of its data, and new inputs made ready by it."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.data.dataset import Dataset, Split, require_finite
from rmsprop.data.text import encode

LARGEST_SIDE = 10_000  # pixels of a picture to predict


def description(dataset: Dataset) -> dict[str, Any]:
    """All but the rows, ready for JSON.

    Examples
    --------
    >>> from rmsprop.data import load
    >>> description(load("moons"))["features"]
    2
    """
    return {
        "name": dataset.name,
        "kind": dataset.kind,
        "classes": list(dataset.classes),
        "features": dataset.features,
        "image_shape": dataset.image_shape,
        "vocabulary": dataset.vocabulary,
        "provenance": dataset.provenance,
    }


def described(plain: dict[str, Any]) -> Dataset:
    """A data set without rows, from its description.

    Examples
    --------
    >>> from rmsprop.data import load
    >>> described(description(load("moons")))
    Dataset('moons', binary, 2 features, 1 output, rows 0/0/0)
    """
    vocabulary, shape = plain["vocabulary"], plain["image_shape"]
    dtype = np.float32 if vocabulary is None else np.int32
    empty = Split(np.zeros((0, plain["features"]), dtype), np.zeros(0, np.int64))
    return Dataset(
        plain["name"],
        *(empty, empty, empty),
        kind=plain["kind"],
        classes=tuple(plain["classes"]),
        image_shape=None if shape is None else (shape[0], shape[1]),
        provenance=plain["provenance"],
        vocabulary=None if vocabulary is None else tuple(vocabulary),
    )


def read_inputs(dataset: Dataset, given: Sequence[str]) -> np.ndarray:
    """Rows x for a model of this data set, from what a user writes.

    Parameters
    ----------
    dataset
        What the model was trained on; its rows are not used.
    given
        For texts, a text each. For images, a picture file each: made gray, of the training images' size, and
        inverted if its border is light and theirs dark. Else a row of numbers each, divided by commas.

    Returns
    -------
    (n, features)
        Scaled as the training rows were.

    Raises
    ------
    ValueError
        For what is not such an input.
    FileNotFoundError
        For a picture that is not there.

    Examples
    --------
    >>> from rmsprop.data import load
    >>> read_inputs(load("moons"), ["0.5,-0.2", "1,0"]).shape
    (2, 2)
    """
    if not given:
        raise ValueError("give at least one input to predict")
    if dataset.vocabulary is not None:
        return encode(
            given, dataset.vocabulary, dataset.provenance.get("longest", dataset.features)
        )
    if dataset.image_shape is not None:
        pictures = np.stack([read_picture(path, dataset.image_shape) for path in given])
        return _scaled_pictures(pictures, dataset.provenance["scaling"])
    rows = [_numbers(text, dataset.features) for text in given]
    return _scaled_columns(np.array(rows), dataset.provenance["scaling"])


def read_picture(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """A picture file as a gray array of this (height, width), 0 black to 255 white.

    Raises FileNotFoundError, and ValueError for a file that is not a picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():  # the size is checked here, and before a pixel is read
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if max(image.size) > LARGEST_SIDE:
                    raise ValueError(
                        f"{path} must have sides of at most {LARGEST_SIDE} pixels; it has {image.size}"
                    )
                upright = ImageOps.exif_transpose(image)
                gray = _gray(upright)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no picture {path}.") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} must have sides of at most {LARGEST_SIDE} pixels") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    height, width = shape
    return np.asarray(gray.resize((width, height), Image.Resampling.LANCZOS), np.float64)


def _gray(image: Any) -> Any:
    """Eight bits of gray: on white where it is transparent, and of 16 bits the upper ones."""
    from PIL import Image

    if image.mode.startswith("I"):  # convert would cut 16 bits off at 255
        deep = np.asarray(image, np.float64)
        return Image.fromarray((deep / 257).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("L")


def _scaled_pictures(pictures: np.ndarray, scaling: dict[str, Any]) -> np.ndarray:
    """As `dataset._scale_pixels`; but first light on dark or dark on light, as the training images are."""
    light_border = scaling["mean"] > 0.5  # what most of the training pixels are
    edges = [np.concatenate([p[0], p[-1], p[:, 0], p[:, -1]]) for p in pictures]
    for p, edge in zip(pictures, edges, strict=True):
        if (np.median(edge) > 127.5) != light_border:
            p[...] = 255 - p
    x = pictures / 255 - scaling["mean"]
    return (x / scaling["std"]).reshape(len(x), -1).astype(np.float32)


def _scaled_columns(rows: np.ndarray, scaling: dict[str, Any]) -> np.ndarray:
    with np.errstate(over="ignore"):  # told below
        if "mean" in scaling:
            rows = (rows - scaling["mean"]) / scaling["std"]
        x = rows.astype(np.float32)
    require_finite("the input as scaled float32", x)
    return x


def _numbers(text: str, features: int) -> list[float]:
    try:
        row = [float(cell) for cell in text.split(",")]
    except ValueError:
        raise ValueError(
            f"an input is {features} numbers, divided by commas; got {text!r}"
        ) from None
    if len(row) != features:
        raise ValueError(
            f"an input is {features} numbers, divided by commas; got {len(row)}: {text!r}"
        )
    require_finite("the input", np.array(row))
    return row
