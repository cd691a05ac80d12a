"""The user's own data: an .npz, a .csv, arrays in memory, or a folder in MNIST's layout."""

import contextlib
import csv
import hashlib
import io
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from zipfile import BadZipFile, is_zipfile

import numpy as np

from rmsprop.data.dataset import KINDS, Dataset, build, require_finite
from rmsprop.data.idx import read_folder
from rmsprop.data.splits import Rows

LABEL_NAMES = ("label", "target", "class", "y")  # of a csv column; the first one present
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
MAX_CLASSES = 100
UNREADABLE = (ValueError, OSError, EOFError, MemoryError, RuntimeError, zlib.error, BadZipFile)
NEEDED = "x and y; or x_train, y_train, x_test, y_test, and perhaps x_val, y_val"
KEYS = ("x", "y", "x_train", "y_train", "x_val", "y_val", "x_test", "y_test")


def load_file(path: str | Path, *, seed: int = 0, kind: str | None = None) -> Dataset:
    """A Dataset from the user's file or folder; nothing in it is executed.

    An .npz holds the arrays that from_arrays takes. A .csv (UTF-8, commas) holds numbers, and the
    labels in its last column or in the one named label, target, class or y. Its first line is a
    header if it has text over a number of the second line. A folder holds four IDX files, named as
    MNIST's.

    Parameters
    ----------
    path
        What to read.
    seed
        Decides the split, where it is not given.
    kind
        "binary", "multiclass" or "regression"; None decides by the labels, as from_arrays.

    Raises
    ------
    FileNotFoundError
        Where nothing is there, or the folder lacks a file.
    ValueError
        Where the content does not fit; says where, and what would.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "pets.csv")
    ...     _ = file.write_text("weight,label\\n" + "4.1,cat\\n9.5,dog\\n" * 5)
    ...     load_file(file).classes
    ('cat', 'dog')
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}.")
    suffix = path.suffix.lower()
    if path.is_dir():
        arrays, hashes = read_folder(path)
    elif suffix == ".npz":
        arrays, hashes = _read_npz(path), {path.name: _sha256(path)}
    elif suffix == ".csv":
        arrays, hashes = _read_csv(path), {path.name: _sha256(path)}
    else:
        raise ValueError(
            f"{path} must be an .npz, a .csv, a .tsv of texts or a folder, got {suffix or 'no suffix'}."
        )
    try:
        return from_arrays(path.stem, arrays, seed=seed, kind=kind, source=path.name, files=hashes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_arrays(
    name: str,
    arrays: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    kind: str | None = None,
    source: str = "arrays in memory",
    files: Mapping[str, str] | None = None,
) -> Dataset:
    """A Dataset from named arrays: either x and y, or splits that are kept as they are.

    Text labels are classes, in sorted order. So are integers (also as floats) of at most 100
    distinct values with at least 2 rows each, in increasing order, gaps allowed. All else is a
    regression; its targets stay as they are.

    Parameters
    ----------
    name
        For titles.
    arrays
        x and y; or x_train, y_train, x_test, y_test and, else taken from the training rows, x_val,
        y_val. x is (n, features), or (n, height, width) for images; y is (n,) or (n, 1).
    seed
        Decides the split, where it is not given.
    kind
        "binary", "multiclass" or "regression"; None decides by the labels.
    source, files
        For provenance; files maps a name to its SHA-256.

    Raises
    ------
    ValueError
        Where names, shapes, types or values do not fit, or there are too few rows.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(40.0).reshape(20, 2)
    >>> from_arrays("mine", {"x": x, "y": np.array(["no", "yes"] * 10)})
    Dataset('mine', binary, 2 features, 1 output, rows 12/4/4)
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, or None, got {kind!r}.")
    parts = {suffix: _rows(arrays, suffix) for suffix in _suffixes(arrays)}
    shapes = {f"x{suffix}": x.shape[1:] for suffix, (x, _) in parts.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"All splits need the same features, got rows of shape {shapes}.")
    kind, classes, labels = encode_labels([y for _, y in parts.values()], kind)
    rows = {suffix: (x, y) for (suffix, (x, _)), y in zip(parts.items(), labels, strict=True)}
    return build(
        name,
        kind,
        classes,
        rows["_train" if "_train" in rows else ""],
        rows.get("_test"),
        rows.get("_val"),
        seed=seed,
        source=source,
        files=files,
    )


def _suffixes(arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Which x and y there are, by what follows the letter."""
    keys = {key for key in KEYS if key in arrays}
    for suffixes in (("",), ("_train", "_test"), ("_train", "_test", "_val")):
        if keys == {letter + suffix for letter in "xy" for suffix in suffixes}:
            return suffixes
    raise ValueError(f"The arrays must be {NEEDED}; got {', '.join(arrays) or 'none'}.")


def _rows(arrays: Mapping[str, np.ndarray], suffix: str) -> Rows:
    """One checked x, and its y as a flat array of integers, floats or text."""
    x_name, y_name = f"x{suffix}", f"y{suffix}"
    x, y = np.asarray(arrays[x_name]), np.asarray(arrays[y_name])
    if x.ndim not in (2, 3) or x.size == 0:
        raise ValueError(
            f"{x_name} must be (n, features) or (n, height, width), none of them 0, got {x.shape}. "
            "One feature is x.reshape(-1, 1)."
        )
    if y.shape not in ((len(x),), (len(x), 1)):
        raise ValueError(
            f"{y_name} must hold one label for each of the {len(x)} rows of {x_name}: shape "
            f"({len(x)},) or ({len(x)}, 1), got {y.shape}."
        )
    for name, array, allowed in ((x_name, x, "biuf"), (y_name, y, "biufUS")):
        if array.dtype.kind not in allowed:
            also = " or text" if "U" in allowed else ""
            raise ValueError(f"{name} must hold real numbers{also}, got dtype {array.dtype}.")
    require_finite(x_name, x)
    y = y.reshape(-1)
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8")
    if y.dtype.kind != "U":
        require_finite(y_name, y)
    return x, y


def encode_labels(
    labels: list[np.ndarray], kind: str | None
) -> tuple[str, tuple[str, ...], list[np.ndarray]]:
    """The kind, the classes, and the labels of each part as int64 indices or as targets.

    Examples
    --------
    >>> encode_labels([np.array(["no", "yes", "no", "yes"])], None)
    ('binary', ('no', 'yes'), [array([0, 1, 0, 1])])
    """
    text = labels[0].dtype.kind == "U"
    if any((part.dtype.kind == "U") != text for part in labels):
        raise ValueError("Labels must be text in all splits, or numbers in all.")
    together = np.concatenate(labels)
    values, index, counts = np.unique(together, return_inverse=True, return_counts=True)
    whole = text or bool(np.all(values == np.trunc(values)))
    if len(values) < 2:
        raise ValueError(f"Labels must differ, but all {len(together)} are {values[0]}.")
    if kind is None:
        few = len(values) <= MAX_CLASSES and bool(np.all(counts >= 2))
        kind = "regression" if not text and not (whole and few) else "multiclass"
        kind = "binary" if kind == "multiclass" and len(values) == 2 else kind
    if kind == "regression":
        if text:
            raise ValueError(
                f"A regression needs numbers as labels, got text such as {str(values[0])!r}."
            )
        return kind, (), labels
    if not whole:
        raise ValueError(f"Classes must be integers or text, got labels such as {values[0]}.")
    if kind == "binary" and len(values) != 2:
        raise ValueError(f"A binary data set has 2 classes, got {len(values)}. Use 'multiclass'.")
    classes = tuple(str(value) if text else str(int(value)) for value in values)
    ends = np.cumsum([len(part) for part in labels])[:-1]
    return kind, classes, np.split(index.astype(np.int64), ends)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays we know by name; pickled objects are refused."""
    if not is_zipfile(path):
        raise ValueError(f"{path} is not an .npz: save it with numpy.savez(path, x=..., y=...).")
    key = "its index"
    arrays = {}
    try:
        # Opened here: given a path, np.load leaves a damaged archive open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = list(archive)
            for key in KEYS:
                if key in archive:
                    arrays[key] = archive[key]
    except UNREADABLE as error:
        raise ValueError(
            f"{path}: cannot read {key} ({error}). Objects are refused; save labels as numbers, or "
            "as text with numpy.array(labels, dtype=str)."
        ) from error
    if not arrays:
        raise ValueError(f"{path} must hold {NEEDED}; it holds {', '.join(found) or 'nothing'}.")
    return arrays


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    """x (n, features) float64, and y (n,) float64 or text."""
    lines = _csv_lines(path)
    first, width = lines[0][1], len(lines[0][1])
    header = len(lines) > 1 and any(
        not _is_number(above) and above.strip().lower() not in MISSING and _is_number(below)
        for above, below in zip(first, lines[1][1], strict=True)
    )
    names = [cell.strip() if header else "" for cell in first]
    lower = [name.lower() for name in names]
    label = next((lower.index(name) for name in LABEL_NAMES if name in lower), width - 1)
    features = [column for column in range(width) if column != label]
    rows = lines[header:]

    def refuse(line: int, row: list[str], column: int) -> NoReturn:
        cell, name = row[column].strip(), f" {names[column]!r}" if names[column] else ""
        what = "is missing" if cell.lower() in MISSING else f"is {cell!r}"
        raise ValueError(
            f"{path}, line {line}, column {column + 1}{name} {what}; it must be a finite number, "
            "or text if it is a label. Fill it in, drop the row, or turn text into numbers."
        )

    x = np.full((len(rows), len(features)), np.nan)  # a row that does not parse stays so
    for i, (_, row) in enumerate(rows):
        with contextlib.suppress(ValueError):
            x[i] = [float(row[column]) for column in features]
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        line, row = rows[int(finite.argmin())]
        refuse(line, row, next(column for column in features if not is_finite(row[column])))
    labels = [row[label].strip() for _, row in rows]
    numbers = [_is_number(text) for text in labels]
    for (line, row), text, number in zip(rows, labels, numbers, strict=True):
        # "none" may name a class, but among numbers it says that one is missing
        missing = text.lower() in (MISSING if any(numbers) else {""})
        if missing or (number and not is_finite(text)):
            refuse(line, row, label)
    return {"x": x, "y": np.array(labels, np.float64 if all(numbers) else str)}


def _csv_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Number and cells of each line that is not blank, all of one length."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be UTF-8, but byte {error.start} is not. Save it again as UTF-8."
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} must be text, but holds a NUL character. Save it again as UTF-8.")
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not a csv file ({error}).") from error
    if not lines:
        raise ValueError(f"{path} is empty: it must hold rows of numbers and a label.")
    width = len(lines[0][1])
    if width < 2:
        raise ValueError(f"{path} must have a feature and a label, divided by commas, in each row.")
    for line, row in lines:
        if len(row) != width:
            raise ValueError(
                f"{path}, line {line}: {len(row)} cells, but the first row has {width}."
            )
    return lines


def _is_number(cell: str) -> bool:
    """Also for "nan" and "inf"."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def is_finite(cell: str) -> bool:
    """Whether the text is a number, but not "nan" or "inf".

    Examples
    --------
    >>> is_finite("1e3"), is_finite("nan"), is_finite("one")
    (True, False, False)
    """
    return _is_number(cell) and math.isfinite(float(cell))
