"""Picture files in and out: pixels are float tensors (1, 3, height, width) in [0, 1], in RGB."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from rmsprop import files

MOST_PIXELS = 64_000_000
"""Of a file: 8,000 x 8,000, which takes 192 MB to read. A small file can claim to be far larger."""
ENDINGS = (".png", ".jpg", ".jpeg")
SAMPLES = ("china", "flower")
UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, OverflowError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
"""What Pillow raises on files that are damaged, or made to do harm."""


def read(path: str | Path, size: int | None = None) -> Tensor:
    """The picture in a file, of any mode, the right way up, on white where it is transparent.

    Grey values of 16 bits are divided by 65,535 and floats brought to [0, 1] by their range. Of an animation
    it is the first frame; colour profiles are not applied.

    Parameters
    ----------
    path
        Any format that Pillow reads.
    size
        Pixels of the longer side, to which it is shrunk or enlarged; None leaves it as it is.

    Returns
    -------
    Tensor
        (1, 3, height, width), float32 in [0, 1].

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        For a file that is no picture, is damaged, or has more than `MOST_PIXELS`; a size below 1.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "red.png")
    ...     Image.new("P", (30, 20), 1).save(file)
    ...     tuple(read(file, size=15).shape)
    (1, 3, 10, 15)
    """
    path = Path(path).expanduser()
    if not path.is_file():
        kind = "a folder, not a picture" if path.is_dir() else "not there"
        raise FileNotFoundError(f"{path} is {kind}: name a PNG, JPEG or other picture file")
    try:
        # A warning would be printed where an error is wanted: from 89 million pixels on Pillow warns.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                pixels = image.width * image.height
                small = pixels > MOST_PIXELS or _rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        small, pixels = True, 0
    except UNREADABLE as error:
        raise ValueError(f"{path} is damaged or not a picture that can be read: {error}") from error
    if isinstance(small, bool):
        many = f"{pixels:,}" if pixels else "far more"
        raise ValueError(
            f"{path} must have at most {MOST_PIXELS:,} pixels; it has {many}: shrink it first"
        )
    if size is not None:
        # On 8 bits, before there are floats: a third of the memory. LANCZOS averages as it shrinks.
        width, height = fitted(small.width, small.height, size)
        small = small.resize((width, height), Image.Resampling.LANCZOS)
    return from_array(np.asarray(small))


def sample(name: str, size: int | None = None) -> Tensor:
    """A sample picture of scikit-learn: "china" (a temple) or "flower" (a dahlia), 640 x 427.

    Raises ValueError for another name.

    Examples
    --------
    >>> tuple(sample("china", size=64).shape)
    (1, 3, 43, 64)
    """
    if name not in SAMPLES:
        raise ValueError(f"sample must be one of {', '.join(SAMPLES)}; got {name!r}")
    from sklearn.datasets import load_sample_image  # here, for it takes a second

    picture = Image.fromarray(np.asarray(load_sample_image(f"{name}.jpg")))
    if size is not None:
        size_of = fitted(picture.width, picture.height, size)
        picture = picture.resize(size_of, Image.Resampling.LANCZOS)
    return from_array(np.asarray(picture))


def save(path: str | Path, image: Tensor | np.ndarray) -> None:
    """Write pixels as .png or .jpg (quality 95), as a whole or not at all.

    Parameters
    ----------
    path
        Where to; its ending decides the format.
    image
        What `from_array` makes, or (height, width, 3) uint8.

    Raises
    ------
    ValueError
        For another ending, shape or dtype. OSError where the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder, "a.png"), sample("flower", size=32))
    ...     tuple(read(Path(folder, "a.png")).shape)
    (1, 3, 21, 32)
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"a picture ends in {', '.join(ENDINGS)}; got {path.name!r}")
    pixels = to_array(image) if isinstance(image, Tensor) else image
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"pixels must be (height, width, 3) uint8; got {pixels.shape} {pixels.dtype}"
        )
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    with files.replacing(path) as temporary:
        # Without subsampling: colours are what a style is made of.
        options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, kind, **options)


def from_array(pixels: np.ndarray) -> Tensor:
    """(height, width, 3) uint8 as a float tensor (1, 3, height, width) in [0, 1].

    Examples
    --------
    >>> from_array(np.full((1, 2, 3), 255, np.uint8)).flatten()
    tensor([1., 1., 1., 1., 1., 1.])
    """
    return torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None].contiguous() / 255


def to_array(image: Tensor) -> np.ndarray:
    """A float tensor (1, 3, height, width), clipped to [0, 1], as (height, width, 3) uint8.

    Examples
    --------
    >>> to_array(torch.tensor([-1, 0.5, 2]).reshape(1, 3, 1, 1)).tolist()
    [[[0, 128, 255]]]
    """
    scaled = (image.detach().cpu()[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return scaled.permute(1, 2, 0).contiguous().numpy()


def fitted(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) with the longer side brought to `size`, each at least 1.

    Raises ValueError for a size below 1.

    Examples
    --------
    >>> fitted(640, 427, 256), fitted(1, 5000, 256)
    ((256, 171), (1, 256))
    """
    if size < 1:
        raise ValueError(f"size must be 1 pixel or more; got {size}")
    longer = max(width, height)
    return max(1, round(width * size / longer)), max(1, round(height * size / longer))


def resized(image: Tensor, width: int, height: int) -> Tensor:
    """A float tensor (1, 3, ., .) at another size, bicubic, averaged where it shrinks, kept in [0, 1].

    Examples
    --------
    >>> tuple(resized(torch.zeros(1, 3, 8, 8), width=4, height=2).shape)
    (1, 3, 2, 4)
    """
    if image.shape[2:] == (height, width):
        return image.clone()
    shape = (height, width)
    return interpolate(image, shape, mode="bicubic", align_corners=False, antialias=True).clamp(
        0, 1
    )


def _rgb(image: Image.Image) -> Image.Image:
    """The picture upright, in RGB, and loaded."""
    image.load()  # all of it: the EXIF of some formats stands behind the pixels
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # whole numbers beyond 255, and floats
        return _scaled(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite numbers")
    if image.mode[0] == "I":
        values = values / 65535
    else:
        values = (values - values.min()) / (np.ptp(values) or 1)
    grey = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
