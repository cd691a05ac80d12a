"""Real and drawn data sets, and the user's own, each as one Dataset: load("digits")."""

import difflib
import operator
import os
from pathlib import Path

from rmsprop.data.dataset import KINDS, Dataset, Split, batches
from rmsprop.data.files import from_arrays, load_file
from rmsprop.data.generators import digits, linear, moons, xor
from rmsprop.data.idx import read_idx
from rmsprop.data.mnist import cache_dir, download_mnist, load_mnist
from rmsprop.data.reviews import load_reviews
from rmsprop.data.text import LONGEST, WORDS, encode, make_vocabulary, tokens
from rmsprop.data.text_files import from_texts, is_texts, load_texts

__all__ = [
    "KINDS",
    "NAMES",
    "Dataset",
    "Split",
    "batches",
    "cache_dir",
    "digits",
    "download_mnist",
    "encode",
    "from_arrays",
    "from_texts",
    "is_texts",
    "linear",
    "load",
    "load_file",
    "load_mnist",
    "load_reviews",
    "load_texts",
    "make_vocabulary",
    "moons",
    "read_idx",
    "tokens",
    "xor",
]

_DRAWN = {"moons": moons, "xor": xor, "linear": linear}
NAMES = ("digits", *_DRAWN, "mnist", "reviews")


def load(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
    kind: str | None = None,
    words: int = WORDS,
    longest: int = LONGEST,
) -> Dataset:
    """A data set by name, or the user's own by path; split before it is scaled.

    Parameters
    ----------
    name_or_path
        One of NAMES, or a path: to an .npz, a .csv or a folder of IDX files, see load_file; or to
        texts, a .tsv or a folder, see load_texts. A name comes first; a folder of the same name is
        "./mnist".
    data_dir
        Where mnist or reviews lies, or mnist goes; see load_mnist and load_reviews. Other data sets
        do not read it.
    seed
        Decides the split, 0 to 2**32 - 1. The rows of moons, xor and linear are the same for all.
    download
        Fetch mnist where it is not found; reviews cannot be fetched.
    kind
        For the user's own: "binary", "multiclass" or "regression"; None decides by the labels, as
        from_arrays says.
    words, longest
        Of texts: size of the vocabulary, and tokens kept of a text. Others do not read them.

    Raises
    ------
    ValueError
        For an unknown name, or content that does not fit.
    FileNotFoundError
        For a path that leads nowhere, or where mnist or reviews is not found.
    TypeError
        Where seed, words or longest is not an integer.

    Examples
    --------
    >>> data = load("digits", seed=1)
    >>> data.train.x.shape, data.train.y.dtype, data.outputs
    ((1079, 64), dtype('int64'), 10)
    """
    seed = operator.index(seed)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be 0 to 2**32 - 1, got {seed}.")
    name = os.fspath(name_or_path)
    if isinstance(name_or_path, str) and name in NAMES:
        if name == "mnist":
            data = load_mnist(data_dir=data_dir, seed=seed, download=download)
        elif name == "reviews":
            data = load_reviews(data_dir=data_dir, seed=seed, words=words, longest=longest)
        else:
            data = digits(seed=seed) if name == "digits" else _DRAWN[name](split=seed)
        if kind not in (None, data.kind):
            raise ValueError(f"kind is for your own files; {name} is {data.kind}, got {kind!r}.")
        return data
    path = Path(name)
    if isinstance(name_or_path, str) and not (path.exists() or path.suffix or len(path.parts) > 1):
        near = difflib.get_close_matches(name.lower(), NAMES)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"No data set is named {name!r}.{hint} The names are {', '.join(NAMES)}; "
            "a path to an .npz, a .csv, a .tsv of texts or a folder works too."
        )
    if is_texts(path):
        return load_texts(path, seed=seed, kind=kind, words=words, longest=longest)
    return load_file(path, seed=seed, kind=kind)
