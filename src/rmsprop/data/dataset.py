"""The Dataset record, and the one road to it: split by seed, then scale by the training rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmsprop.data.splits import Rows, split_rows

KINDS = ("binary", "multiclass", "regression")
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to train on or to be judged by.

    Parameters
    ----------
    x
        Inputs, (n, features) float32, C-contiguous; of texts tokens, (n, longest) int32, padded with 0.
    y
        Labels, (n,) int64; or targets of a regression, (n, 1) float32.

    Examples
    --------
    >>> import numpy as np
    >>> Split(np.zeros((3, 2), np.float32), np.array([0, 1, 1]))
    Split(3 rows, 2 features)
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Split({len(self)} rows, {self.x.shape[1]} features)"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one data set, and where they come from.

    Parameters
    ----------
    name
        A short name for titles.
    train, validation, test
        The splits.
    kind
        "binary", "multiclass" or "regression".
    classes
        Names as text, label i is classes[i]; empty for a regression.
    image_shape
        (height, width) where the rows are images, else None.
    provenance
        JSON-able: source, licence, files with SHA-256, rows, split, seed, scaling.
    images
        The test rows before scaling, (n, height, width), to draw; None without images.
    vocabulary
        Of texts: the word of each token; 0 is padding, 1 any unknown word. Else None.
    texts
        The test rows as written, to show; None without texts.

    Examples
    --------
    >>> from rmsprop.data import load
    >>> load("digits")
    Dataset('digits', multiclass, 64 features, 10 outputs, rows 1079/359/359)
    """

    name: str
    train: Split
    validation: Split
    test: Split
    kind: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int] | None
    provenance: dict[str, Any]
    images: np.ndarray | None = None
    vocabulary: tuple[str, ...] | None = None
    texts: tuple[str, ...] | None = None

    @property
    def features(self) -> int:
        """Number of input columns.

        Examples
        --------
        >>> from rmsprop.data import load
        >>> load("xor").features
        3
        """
        return self.train.x.shape[1]

    @property
    def outputs(self) -> int:
        """Number of outputs a model needs: one a class, but 1 for binary and regression.

        Examples
        --------
        >>> from rmsprop.data import load
        >>> load("digits").outputs, load("moons").outputs
        (10, 1)
        """
        return len(self.classes) if self.kind == "multiclass" else 1

    def __repr__(self) -> str:
        plural = "" if self.outputs == 1 else "s"
        rows = "/".join(str(len(part)) for part in (self.train, self.validation, self.test))
        return (
            f"Dataset({self.name!r}, {self.kind}, {self.features} features, "
            f"{self.outputs} output{plural}, rows {rows})"
        )


def batches(n: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Index arrays of one shuffled pass over n rows; the last may be short.

    Parameters
    ----------
    n
        Number of rows; 0 gives no batch.
    batch_size
        Rows a batch, at least 1.
    rng
        Draws the order; the same state gives the same batches.

    Raises
    ------
    ValueError
        For batch_size below 1, or n below 0.

    Examples
    --------
    >>> import numpy as np
    >>> [len(rows) for rows in batches(10, 4, np.random.default_rng(0))]
    [4, 4, 2]
    """
    if batch_size < 1 or n < 0:
        raise ValueError(
            f"batches needs batch_size >= 1 and n >= 0, got batch_size={batch_size}, n={n}."
        )
    order = rng.permutation(n)
    return (order[start : start + batch_size] for start in range(0, n, batch_size))


def build(
    name: str,
    kind: str,
    classes: tuple[str, ...],
    train: Rows,
    test: Rows | None = None,
    validation: Rows | None = None,
    *,
    seed: int,
    source: str,
    licence: str | None = None,
    files: Mapping[str, str] | None = None,
    scale: bool = True,
) -> Dataset:
    """A Dataset from rows as read: split first, then scaled by what the training rows say.

    Parameters
    ----------
    name, kind, classes
        As in Dataset.
    train
        (x, y), x (n, features) or (n, height, width) of any real dtype and finite, y (n,) int64
        labels into classes, or real targets.
    test
        Rows kept as the test split; None takes a fifth of train, and a fifth for validation.
    validation
        Rows kept for validation; None beside test takes a sixth of train.
    seed
        Decides the split, alone.
    source, licence, files
        For provenance; files maps a name to its SHA-256.
    scale
        False leaves x as it is.

    Raises
    ------
    ValueError
        For too few rows of a class to split, a class without training rows, or values that overflow
        float32.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.arange(20.0).reshape(10, 2), np.array([0, 1] * 5)
    >>> build("ten", "binary", ("no", "yes"), (x, y), seed=0, source="example").test
    Split(2 rows, 2 features)
    """
    parts, how = split_rows(kind, classes, train, test, validation, seed=seed)
    first = parts["train"][0]
    raw = {part: x for part, (x, _) in parts.items()}
    xs, scaling = _scale_pixels(raw) if first.ndim == 3 else _scale_columns(raw, scale)
    splits = {}
    for part, (_, y) in parts.items():
        require_finite(f"{part} x as scaled float32", xs[part])
        splits[part] = Split(np.ascontiguousarray(xs[part]), _column(part, y, kind))
    provenance = describe(
        splits, how, seed=seed, source=source, licence=licence, files=files, scaling=scaling
    )
    shape = (int(first.shape[1]), int(first.shape[2])) if first.ndim == 3 else None
    images = parts["test"][0] if shape else None
    return Dataset(
        name, **splits, kind=kind, classes=classes, image_shape=shape, provenance=provenance,
        images=images,
    )  # fmt: skip


def require_finite(name: str, values: np.ndarray) -> None:
    """Raise a ValueError that names the first NaN or infinity of values, if there is one.

    Examples
    --------
    >>> import numpy as np
    >>> require_finite("x", np.array([[1.0, 2.0], [3.0, np.nan]]))
    Traceback (most recent call last):
    ValueError: Values must be finite, but x[1, 1] is nan. Mend or drop this row.
    """
    finite = np.isfinite(values)
    if not finite.all():
        at = np.unravel_index(int(finite.argmin()), values.shape)
        index = ", ".join(str(i) for i in at)
        raise ValueError(
            f"Values must be finite, but {name}[{index}] is {values[at]}. Mend or drop this row."
        )


def describe(
    splits: Mapping[str, Split],
    how: str,
    *,
    seed: int,
    source: str,
    licence: str | None,
    files: Mapping[str, str] | None,
    scaling: dict[str, Any],
) -> dict[str, Any]:
    """The provenance of a Dataset: JSON-able, in the same words for numbers and for texts.

    Examples
    --------
    >>> import numpy as np
    >>> splits = {part: Split(np.zeros((2, 1)), np.zeros(2)) for part in PARTS}
    >>> describe(
    ...     splits, "all three as given", seed=0, source="example", licence=None, files=None,
    ...     scaling={"method": "none"},
    ... )["rows"]
    {'train': 2, 'validation': 2, 'test': 2}
    """
    return {
        "source": source,
        "licence": licence,
        "files": dict(files or {}),
        "rows": {part: len(splits[part]) for part in PARTS},
        "split": how,
        "seed": seed,
        "scaling": scaling,
    }


@np.errstate(all="ignore")  # an overflow is reported, with its place, by require_finite
def _scale_pixels(raw: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Images by three scalars. A scale a pixel would blow up rare pixels near a constant border."""
    train = raw["train"]
    top = max(abs(float(train.min())), abs(float(train.max()))) or 1.0
    mean = float(train.mean(dtype=np.float64)) / top
    # A thousand images at a time: train.std(dtype=float64) holds MNIST as 300 MB of float64.
    squares = [
        float(np.square(train[i : i + 1000] / top - mean).sum()) for i in range(0, len(train), 1000)
    ]
    std = (sum(squares) / train.size) ** 0.5 or 1.0
    scaled = {}
    for part, images in raw.items():
        x = images.reshape(len(images), -1).astype(np.float32)
        x /= np.float32(top)
        x -= np.float32(mean)
        x /= np.float32(std)
        scaled[part] = x
    method = "pixel / maximum, minus mean, divided by std: scalars over all training pixels"
    return scaled, {"method": method, "maximum": top, "mean": mean, "std": std}


@np.errstate(all="ignore")  # an overflow is reported, with its place, by require_finite
def _scale_columns(
    raw: dict[str, np.ndarray], scale: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns to mean 0 and standard deviation 1 over the training rows; constant ones to 0."""
    from sklearn.preprocessing import StandardScaler

    scaling: dict[str, Any] = {"method": "none"}
    wide = {part: x.astype(np.float64) for part, x in raw.items()}
    if scale:
        scaler = StandardScaler().fit(wide["train"])
        mean, std = np.asarray(scaler.mean_), np.asarray(scaler.scale_)
        require_finite("column mean and standard deviation", np.stack([mean, std], axis=1))
        wide = {part: np.asarray(scaler.transform(x)) for part, x in wide.items()}
        method = "minus mean, divided by std, of each column over the training rows"
        scaling = {"method": method, "mean": mean.tolist(), "std": std.tolist()}
    return {part: x.astype(np.float32) for part, x in wide.items()}, scaling


@np.errstate(all="ignore")  # an overflow is reported, with its place, by require_finite
def _column(part: str, y: np.ndarray, kind: str) -> np.ndarray:
    """Labels (n,) int64, or targets (n, 1) float32."""
    if kind != "regression":
        return np.ascontiguousarray(y, np.int64)
    targets = y.astype(np.float32).reshape(-1, 1)
    require_finite(f"{part} y as float32", targets)
    return targets
