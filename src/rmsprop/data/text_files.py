"""The user's own texts: a .tsv, a folder of them, or a folder of .txt files for each class."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rmsprop.data.dataset import Dataset, Split, describe
from rmsprop.data.files import encode_labels, is_finite
from rmsprop.data.idx import FILES, missing_files
from rmsprop.data.splits import split_rows
from rmsprop.data.text import LONGEST, WORDS, at_least_one, encode, make_vocabulary

Texts = tuple[list[str], list[str]]  # texts as written, and the label of each

TSV = {"train": "train.tsv", "validation": "validation.tsv", "test": "test.tsv"}


def load_texts(
    path: str | Path,
    *,
    seed: int = 0,
    kind: str | None = None,
    words: int = WORDS,
    longest: int = LONGEST,
) -> Dataset:
    """A Dataset from the user's texts, each with a label; nothing in them is executed.

    A .tsv (UTF-8, one row a line, cells divided by tabs and never quoted) has a header that names
    the columns label and text; others are not read. A folder holds train.tsv, test.tsv and perhaps
    validation.tsv; or a folder for each class with its texts as .txt files; or train and test, and
    perhaps validation, with such folders inside. Splits that are not given are drawn by seed.

    Parameters
    ----------
    path
        What to read.
    seed
        Decides the split, alone.
    kind
        "binary" or "multiclass"; None decides by the number of classes. Labels may be words.
    words
        Size of the vocabulary: the most frequent words of the training texts.
    longest
        Tokens kept of a text, the first ones; never more than the longest training text has.

    Raises
    ------
    FileNotFoundError
        Where nothing is there, or the folder lacks a file.
    ValueError
        Where the content does not fit; says where, and what would.
    TypeError
        Where words or longest is not an integer.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "films.tsv")
    ...     _ = file.write_text("label\\ttext\\n" + "good\\tI loved it!\\nbad\\tDull.\\n" * 5)
    ...     data = load_texts(file)
    >>> data, data.vocabulary
    (Dataset('films', binary, 4 features, 1 output, rows 6/2/2), \
('', '<unknown>', '!', 'dull', 'i', 'it', 'loved'))
    """
    path = Path(path).expanduser()
    words, longest = at_least_one("words", words), at_least_one("longest", longest)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}.")
    parts, hashes = _read(path)
    try:
        return from_texts(
            path.stem, parts["train"], parts.get("test"), parts.get("validation"), seed=seed,
            kind=kind, words=words, longest=longest, source=path.name, files=hashes,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_texts(
    name: str,
    train: Texts,
    test: Texts | None = None,
    validation: Texts | None = None,
    *,
    seed: int = 0,
    kind: str | None = None,
    words: int = WORDS,
    longest: int = LONGEST,
    source: str = "texts in memory",
    licence: str | None = None,
    files: Mapping[str, str] | None = None,
) -> Dataset:
    """A Dataset from texts and labels: split first, the vocabulary from the training texts alone.

    All splits are as long as the longest training text, or as `longest` where that is less.

    Parameters
    ----------
    name
        For titles.
    train
        (texts, labels), both lists of strings. Labels that are all integers sort as numbers.
    test
        Rows kept as the test split; None takes a fifth of train, and a fifth for validation.
    validation
        Rows kept for validation; None beside test takes a sixth of train.
    seed, kind, words, longest
        As in load_texts.
    source, licence, files
        For provenance; files maps a name to its SHA-256.

    Raises
    ------
    ValueError
        For one class, too few rows of a class to split, a class without training rows, labels that
        are fractions, training texts without a word, or words or longest below 1.

    Examples
    --------
    >>> data = from_texts("films", (["good", "bad"] * 5, ["1", "0"] * 5))
    >>> data.classes, data.vocabulary, data.test.x.tolist(), data.test.y.tolist()
    (('0', '1'), ('', '<unknown>', 'bad', 'good'), [[3], [2]], [1, 0])
    """
    if kind not in (None, "binary", "multiclass"):
        raise ValueError(f"kind of texts must be binary, multiclass or None, got {kind!r}.")
    given = [part for part in (train, test, validation) if part is not None]
    _, classes, labels = encode_labels(
        _label_arrays([part[1] for part in given]), kind or "multiclass"
    )
    kind = kind or ("binary" if len(classes) == 2 else "multiclass")
    y = iter(labels)
    rows = [
        p if p is None else (np.array(p[0], object), next(y)) for p in (train, test, validation)
    ]
    assert rows[0] is not None
    parts, how = split_rows(kind, classes, rows[0], rows[1], rows[2], seed=seed)
    vocabulary = make_vocabulary(parts["train"][0], words)
    x = {"train": encode(parts["train"][0], vocabulary, longest)}
    length = x["train"].shape[1]
    for part in ("validation", "test"):
        short = encode(parts[part][0], vocabulary, length)
        x[part] = np.pad(short, [(0, 0), (0, length - short.shape[1])])
    splits = {part: Split(x[part], np.ascontiguousarray(parts[part][1], np.int64)) for part in x}
    provenance = describe(
        splits, how, seed=seed, source=source, licence=licence, files=files,
        scaling={"method": "none"},
    )  # fmt: skip
    provenance["vocabulary"] = len(vocabulary)
    provenance["longest"] = length
    provenance["unknown_share_test"] = float(np.mean(x["test"][x["test"] > 0] == 1))
    return Dataset(
        name, splits["train"], splits["validation"], splits["test"], kind, classes, None,
        provenance, vocabulary=vocabulary, texts=tuple(parts["test"][0]),
    )  # fmt: skip


def is_texts(path: str | Path) -> bool:
    """Whether load_texts is the one to read this path; a folder with an IDX file is not its.

    Examples
    --------
    >>> is_texts("own.tsv"), is_texts("own.csv")
    (True, False)
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return path.suffix.lower() == ".tsv"
    if len(missing_files(path)) < len(FILES):
        return False
    tables = any((path / name).is_file() for name in TSV.values())
    return tables or _has_classes(path) or any(_has_classes(path / part) for part in TSV)


def read_tsv(path: str | Path) -> tuple[Texts, str]:
    """Texts and labels of a .tsv, and the SHA-256 of the file.

    Parameters
    ----------
    path
        The file, as load_texts describes it. Lines end with LF or CR LF; blank ones are not read.

    Raises
    ------
    ValueError
        For a file that cannot be read, is not UTF-8, holds a NUL, is empty, lacks a column or a
        label, or has a row with more or fewer cells than the header.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "films.tsv")
    ...     _ = file.write_text('text\\tstars\\tlabel\\nA "must\\t5\\tgood\\n')
    ...     read_tsv(file)[0]
    (['A "must'], ['good'])
    """
    path = Path(path)
    content, sha256 = _read_text(path)
    # Not splitlines: it also divides at characters that a text may hold, such as U+2028.
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    numbered = [(i, line.split("\t")) for i, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"{path} is empty: it must hold a header and a row for each text.")
    (line, first), *rows = numbered
    header = [cell.strip().lower() for cell in first]
    if header.count("label") != 1 or header.count("text") != 1:
        found = ", ".join(map(repr, first))
        raise ValueError(
            f"{path}, line {line}: the header must name the columns label and text, once each and "
            f"divided by tabs, got {found if len(found) <= 100 else found[:100] + '...'}."
        )
    if not rows:
        raise ValueError(f"{path} holds a header and no row. Add a row for each text.")
    label, text = header.index("label"), header.index("text")
    for line, row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} cells, but the header has {len(header)}. Write "
                "a tab or a line break inside a text as a space; quotes do not hide them."
            )
        if not row[label].strip():
            raise ValueError(f"{path}, line {line}: the label is missing. Fill it in, or drop it.")
    return ([row[text] for _, row in rows], [row[label].strip() for _, row in rows]), sha256


def _label_arrays(labels: list[list[str]]) -> list[np.ndarray]:
    """As numbers if all of them are: so that 10 comes after 9, as for arrays."""
    numbers = all(is_finite(label) for part in labels for label in part)
    return [np.array([float(y) for y in part] if numbers else part) for part in labels]


def _read(path: Path) -> tuple[dict[str, Texts], dict[str, str]]:
    """Texts of each split given, a lone one as "train"; and the SHA-256 of each file."""
    if not path.is_dir():
        texts, sha256 = read_tsv(path)
        return {"train": texts}, {path.name: sha256}
    if any((path / name).is_file() for name in TSV.values()):
        return read_tables(path)
    if not any(_has_classes(path / part) for part in TSV):
        texts, hashes = _read_classes(path, "")
        return {"train": texts}, hashes
    if missing := [part for part in ("train", "test") if not (path / part).is_dir()]:
        raise FileNotFoundError(
            f"{path} lacks the folder {' and '.join(missing)}: train and test must both be there, "
            "each with a folder for each class; or put the classes' folders right into it."
        )
    parts, hashes = {}, {}
    for part in (part for part in TSV if (path / part).is_dir()):
        parts[part], found = _read_classes(path / part, f"{part}/")
        hashes |= found
    _require_same_classes(path, {part: set(labels) for part, (_, labels) in parts.items()})
    return parts, hashes


def read_tables(folder: Path) -> tuple[dict[str, Texts], dict[str, str]]:
    """Texts of train.tsv, test.tsv and perhaps validation.tsv, and the SHA-256 of each.

    Raises
    ------
    FileNotFoundError
        Where train.tsv or test.tsv is missing.
    ValueError
        As read_tsv.

    Examples
    --------
    >>> read_tables(Path("no such folder"))
    Traceback (most recent call last):
    FileNotFoundError: no such folder lacks train.tsv and test.tsv.
    """
    missing = [TSV[part] for part in ("train", "test") if not (folder / TSV[part]).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {' and '.join(missing)}.")
    parts, hashes = {}, {}
    for part, name in TSV.items():
        if (folder / name).is_file():
            parts[part], hashes[name] = read_tsv(folder / name)
    return parts, hashes


def _read_classes(folder: Path, prefix: str) -> tuple[Texts, dict[str, str]]:
    """Texts of folder/CLASS/*.txt, and one SHA-256 a class: that of `sha256sum *.txt` in it."""
    texts, labels, hashes = [], [], {}
    for group in _folders(folder):
        files = _txt(group)
        if not files:
            raise ValueError(
                f"{group}: the folder of a class must hold its texts as .txt files, but has none. "
                "Add some, or take the folder away."
            )
        digest = hashlib.sha256()
        for file in files:
            text, sha256 = _read_text(file)
            digest.update(os.fsencode(f"{sha256}  {file.name}\n"))
            texts.append(text)
            labels.append(group.name)
        hashes[f"{prefix}{group.name}/*.txt"] = digest.hexdigest()
    return (texts, labels), hashes


def _require_same_classes(path: Path, classes: dict[str, set[str]]) -> None:
    every = set().union(*classes.values())
    for part, found in classes.items():
        if found != every:
            raise ValueError(
                f"{path / part} lacks the folder of {', '.join(sorted(every - found))}: each split "
                "must have the same classes. Add it, or take this class out of the others."
            )


def _read_text(path: Path) -> tuple[str, str]:
    """The text of a UTF-8 file without its byte order mark, and the SHA-256 of the file."""
    if not path.is_file():  # a pipe would be waited for, a link to itself cannot be followed
        raise ValueError(f"{path} cannot be read: it is not a plain file, or leads nowhere.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}).") from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: must be UTF-8, but byte {error.start} of the file is not. "
            "Save it again as UTF-8."
        ) from error
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise ValueError(
            f"{path}, line {line}: must be text, but holds a NUL character. Save it as UTF-8."
        )
    return text.removeprefix("\ufeff"), hashlib.sha256(content).hexdigest()


def _folders(folder: Path) -> list[Path]:
    """Folders right inside; nothing deeper is looked at, so that no link can lead in circles."""
    return [path for path in _inside(folder) if path.is_dir()] if folder.is_dir() else []


def _txt(folder: Path) -> list[Path]:
    return [path for path in _inside(folder) if path.suffix.lower() == ".txt"]


def _inside(folder: Path) -> list[Path]:
    """What a folder holds, hidden things left out, by name: the order decides the split."""
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error}).") from error
    return sorted(found, key=lambda path: path.name)


def _has_classes(folder: Path) -> bool:
    """Whether a folder inside holds a .txt."""
    return any(_txt(inside) for inside in _folders(folder))
