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

__all__ = [
    "KINDS",
    "NAMES",
    "Dataset",
    "Split",
    "batches",
    "cache_dir",
    "digits",
    "download_mnist",
    "from_arrays",
    "linear",
    "load",
    "load_file",
    "load_mnist",
    "moons",
    "read_idx",
    "xor",
]

_OFFLINE = {"digits": digits, "moons": moons, "xor": xor, "linear": linear}
NAMES = (*_OFFLINE, "mnist")


def load(
    name_or_path: str | Path,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    download: bool = False,
    kind: str | None = None,
) -> Dataset:
    """A data set by name, or the user's own by path; split before it is scaled.

    Parameters
    ----------
    name_or_path
        One of NAMES, or a path to an .npz, a .csv or a folder of IDX files. A name comes first; a
        folder of the same name is "./mnist".
    data_dir
        Where mnist lies, or goes; see load_mnist. Other data sets do not read it.
    seed
        Decides the split, and draws moons, xor and linear. 0 to 2**32 - 1.
    download
        Fetch mnist where it is not found.
    kind
        For the user's own: "binary", "multiclass" or "regression"; None decides by the labels, as
        from_arrays says.

    Raises
    ------
    ValueError
        For an unknown name, or content that does not fit.
    FileNotFoundError
        For a path that leads nowhere, or where mnist is not found.
    TypeError
        Where seed is not an integer.

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
        else:
            data = _OFFLINE[name](seed=seed)
        if kind not in (None, data.kind):
            raise ValueError(f"kind is for your own files; {name} is {data.kind}, got {kind!r}.")
        return data
    path = Path(name)
    if isinstance(name_or_path, str) and not (path.exists() or path.suffix or len(path.parts) > 1):
        near = difflib.get_close_matches(name.lower(), NAMES)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"No data set is named {name!r}.{hint} The names are {', '.join(NAMES)}; "
            "a path to an .npz, a .csv or a folder of IDX files works too."
        )
    return load_file(path, seed=seed, kind=kind)
