"""MNIST from the user's folders, or downloaded once; checked by SHA-256 either way."""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from rmsprop.data.dataset import Dataset, build
from rmsprop.data.idx import FILES, missing_files, read_folder, read_idx_and_hash

BASE_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
# Of the uncompressed files, so that any gzip of them passes.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def load_mnist(
    *, data_dir: str | Path | None = None, seed: int = 0, download: bool = False
) -> Dataset:
    """Handwritten digits, 28x28: 50,000 training, 10,000 validation and 10,000 test images.

    The official test images are the test split; seed takes the validation images, stratified, out
    of the official training images. Source: Y. LeCun, C. Cortes and C. J. C. Burges, CC BY-SA 3.0.

    Parameters
    ----------
    data_dir
        Where to look first, there and in its folder mnist; then come $RMSPROP_DATA, the same way,
        and the user's cache.
    seed
        Decides the validation images.
    download
        Fetch what is not found, 11 MB, into data_dir/mnist or else the cache.

    Raises
    ------
    FileNotFoundError
        Where it is not found, and download is False; says which files to put where.
    ValueError
        Where a file is damaged or is not MNIST's.
    ModuleNotFoundError
        Where download needs pooch, which is not installed.
    OSError
        Where the download failed.

    Examples
    --------
    >>> list(SHA256)[2:]
    ['t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte']
    """
    places = folders("mnist", data_dir)
    folder = next((folder for folder in places if not missing_files(folder)), None)
    if folder is None and not download:
        raise FileNotFoundError(_not_found(places))
    if folder is None:
        folder = download_mnist(Path(data_dir).expanduser() / "mnist" if data_dir else None)
    arrays, hashes = read_folder(folder)
    for name, found in hashes.items():
        _check(folder / name, name, found)
    return build(
        "mnist",
        "multiclass",
        tuple("0123456789"),
        (arrays["x_train"], arrays["y_train"].astype(np.int64)),
        (arrays["x_test"], arrays["y_test"].astype(np.int64)),
        seed=seed,
        source="MNIST, Y. LeCun, C. Cortes and C. J. C. Burges",
        licence="CC BY-SA 3.0",
        files=hashes,
    )


def download_mnist(folder: str | Path | None = None, *, base_url: str | None = None) -> Path:
    """Fetch the files of MNIST that a folder lacks, each checked before it takes its name.

    Parameters
    ----------
    folder
        Where they go; None means the folder mnist in the user's cache.
    base_url
        Where they come from, as NAME.gz; None means BASE_URL.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModuleNotFoundError
        Where pooch is not installed.
    OSError
        For no connection, no such file there, or no room here.
    ValueError
        Where what came is not MNIST's; it is not kept.

    Examples
    --------
    >>> BASE_URL
    'https://ossci-datasets.s3.amazonaws.com/mnist/'
    """
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Downloading MNIST needs pooch: pip install 'rmsprop[download]'. "
            "Or fetch the four files yourself and name their folder with data_dir."
        ) from error
    folder = cache_dir() / "mnist" if folder is None else Path(folder)
    fetch = pooch.HTTPDownloader(chunk_size=1 << 20)
    for name in missing_files(folder):
        url = f"{(base_url or BASE_URL).rstrip('/')}/{name}.gz"
        pooch.get_logger().info("Downloading %s to %s", url, folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                file = Path(temporary, f"{name}.gz")
                fetch(url, str(file), None)
                _check(url, name, read_idx_and_hash(file)[1])
                os.replace(file, folder / file.name)
        except OSError as error:
            raise OSError(f"Cannot download {url} to {folder}: {error}") from error
    return folder


def cache_dir() -> Path:
    """The folder for downloads that may be deleted at any time, by the platform's own custom.

    Examples
    --------
    >>> cache_dir().name
    'rmsprop'
    """
    home = Path.home()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
    return Path(base) / "rmsprop"


def folders(name: str, data_dir: str | Path | None) -> list[Path]:
    """Where a data set may lie, in order: in data_dir, in $RMSPROP_DATA, in the cache, or in a folder there.

    Examples
    --------
    >>> folders("mnist", "here")[:2]
    [PosixPath('here'), PosixPath('here/mnist')]
    """
    named = [data_dir, os.environ.get("RMSPROP_DATA"), cache_dir()]
    bases = [Path(base).expanduser() for base in named if base]
    return [folder for base in bases for folder in (base, base / name)]


def _check(place: str | Path, name: str, found: str) -> None:
    if found != SHA256[name]:
        raise ValueError(
            f"{place} is not MNIST's {name}: the SHA-256 of its uncompressed content must be "
            f"{SHA256[name]}, got {found}. Delete it and fetch it again; to use files of your own, "
            "load their folder by its path."
        )


def _not_found(places: list[Path]) -> str:
    lines = [
        "MNIST needs these four files, each plain or as .gz, together in one folder:",
        *(f"  {name}" for name in FILES.values()),
        "Looked in:",
    ]
    for folder in places:
        missing = missing_files(folder)
        state = "none there" if len(missing) == len(FILES) else f"lacks {', '.join(missing)}"
        lines.append(f"  {folder} ({state})")
    return "\n".join(
        [
            *lines,
            "Put them there, name their folder with data_dir (--data-dir), or download 11 MB: "
            "load('mnist', download=True) (--download).",
        ]
    )
