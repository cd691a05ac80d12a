"""The IDX format of MNIST: arrays behind a short big-endian header, gzipped or not."""

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path

import numpy as np

# Third byte of a file -> element type, big-endian (the format's own description on MNIST's page).
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_BYTES = 2**32  # of one file, uncompressed: MNIST's largest is 47 MB
DEFLATE_RATIO = 1032  # no gzip file holds more than this many bytes a stored byte

# What a folder holds, in MNIST's names: the array's name here -> the file's name.
FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def read_idx(path: str | Path, *, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """The array in one IDX file, in the machine's byte order.

    Parameters
    ----------
    path
        The file; gzip is told by its content, not by its name.
    max_bytes
        Refuse a file whose header asks for more.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        For a file that is not IDX, damaged, cut short, followed by other bytes, or too large.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "labels")
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes([7, 2, 1]))
    ...     read_idx(file)
    array([7, 2, 1], dtype=uint8)
    """
    return read_idx_and_hash(path, max_bytes=max_bytes)[0]


def read_idx_and_hash(path: str | Path, *, max_bytes: int = MAX_BYTES) -> tuple[np.ndarray, str]:
    """The array in one IDX file and the SHA-256 of the uncompressed file; else as read_idx.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "labels")
    ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1]) + bytes([7]))
    ...     array, sha256 = read_idx_and_hash(file)
    >>> array.tolist(), len(sha256)
    ([7], 64)
    """
    path = Path(path)
    with path.open("rb") as stored:
        gzipped = stored.read(2) == b"\x1f\x8b"
        stored.seek(0)
        length = os.fstat(stored.fileno()).st_size
        file = gzip.GzipFile(fileobj=stored) if gzipped else stored
        try:
            start = file.read(4)
            header = start + file.read(4 * start[3] if len(start) == 4 else 0)
            dtype, shape = _header(path, header)
            size = math.prod(shape) * dtype.itemsize
            # Before any memory is taken: a header may ask for 2**32 rows of 2**32.
            claim = math.prod(max(d, 1) for d in shape) * dtype.itemsize
            possible = length * DEFLATE_RATIO if gzipped else length
            if claim > max_bytes or size > possible:
                raise ValueError(
                    f"{path}: the header's shape {shape} of {dtype.name} means {size} bytes, more "
                    f"than {'the limit' if claim > max_bytes else 'the file can hold'} "
                    f"({min(max_bytes, possible)}). The file is damaged, or not IDX."
                )
            # One byte more finds trailing bytes, and makes gzip check its CRC.
            body = file.read(size + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip ({error}). Fetch the file again.") from error
    if len(body) != size:
        state = "is cut short" if len(body) < size else "goes on after its end"
        raise ValueError(
            f"{path} {state}: shape {shape} of {dtype.name} needs exactly {size} bytes after the "
            "header. Fetch the file again."
        )
    digest = hashlib.sha256(header)
    digest.update(body)
    array = np.frombuffer(body, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("=")), digest.hexdigest()


def missing_files(folder: Path) -> list[str]:
    """Which of the four files a folder lacks, both plain and as .gz.

    Examples
    --------
    >>> missing_files(Path("no such folder"))[:2]
    ['train-images-idx3-ubyte', 'train-labels-idx1-ubyte']
    """
    return [name for name in FILES.values() if _stored(folder, name) is None]


def read_folder(folder: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The four arrays of a folder in MNIST's layout, and the SHA-256 of each uncompressed file.

    Parameters
    ----------
    folder
        Holds the four files named in FILES, each plain or with .gz; plain wins.

    Raises
    ------
    FileNotFoundError
        Where a file is missing.
    ValueError
        As `read_idx`.

    Examples
    --------
    >>> read_folder("no such folder")
    Traceback (most recent call last):
    FileNotFoundError: no such folder lacks train-images-idx3-ubyte, train-labels-idx1-ubyte, \
t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (each plain or as .gz).
    """
    folder = Path(folder)
    arrays, hashes = {}, {}
    if missing := missing_files(folder):
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)} (each plain or as .gz).")
    for key, name in FILES.items():
        arrays[key], hashes[name] = read_idx_and_hash(_stored(folder, name) or folder / name)
    return arrays, hashes


def _stored(folder: Path, name: str) -> Path | None:
    """The file as it lies in the folder, or None."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _header(path: Path, header: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    """Element type and shape; header holds the four fixed bytes and four bytes a dimension."""
    if len(header) < 4 or header[:2] != b"\0\0":
        raise ValueError(
            f"{path} is not IDX: it starts with {header[:4].hex(' ') or 'nothing'}, and must start "
            "with 00 00, an element type and the number of dimensions."
        )
    code, ndim = header[2], header[3]
    if code not in DTYPES or not 1 <= ndim <= 64:
        known = ", ".join(f"{c:#04x}" for c in DTYPES)
        raise ValueError(
            f"{path} is not IDX: element type {code:#04x} must be one of {known}, and {ndim} "
            "dimensions must be 1 to 64."
        )
    if len(header) < 4 + 4 * ndim:
        raise ValueError(f"{path} is cut short inside its header. Fetch the file again.")
    shape = np.frombuffer(header, ">u4", offset=4).tolist()
    return np.dtype(DTYPES[code]), tuple(shape)
