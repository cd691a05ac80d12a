"""Picture files: what is read is what was written, the right way up, on white; and what is refused."""

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from needs import package

torch = package("torch")

from PIL import Image  # noqa: E402

from rmsprop.style import images  # noqa: E402

COLOUR = (200, 100, 50)


def written(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path, size: int | None = None) -> np.ndarray:
    return images.to_array(images.read(path, size))


def test_png_is_read_and_written_exactly(tmp_path: Path) -> None:
    expected = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    for given in (expected, images.from_array(expected)):
        images.save(tmp_path / "a.PNG", given)
        tensor = images.read(tmp_path / "a.PNG")
        assert tensor.shape == (1, 3, 9, 7)
        assert tensor.dtype == torch.float32
        assert np.array_equal(images.to_array(tensor), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["a.PNG"], "a temporary file is left"


def test_jpeg_is_read_and_written_nearly(tmp_path: Path) -> None:
    expected = images.to_array(images.sample("flower", 64))
    images.save(tmp_path / "a.jpg", expected)
    found = pixels(tmp_path / "a.jpg").astype(int)
    assert np.abs(found - expected).mean() < 3  # 2.1 here; another picture: 60
    assert np.abs(found - expected).max() < 30
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "JPEG"


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", COLOUR, COLOUR),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (*COLOUR, 255), COLOUR),
        ("RGBA", (*COLOUR, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 102), (153, 153, 153)),
        ("I;16", 257 * 90, (90, 90, 90)),
    ],
)
def test_modes(tmp_path: Path, mode: str, colour, expected: tuple[int, ...]) -> None:
    file = written(tmp_path / "a.png", Image.new(mode, (4, 3), colour))
    found = pixels(file)
    assert found.shape == (3, 4, 3)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_palette_with_a_transparent_colour_is_white_there(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    file = written(tmp_path / "a.png", image, transparency=1)
    assert pixels(file).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_and_floats(tmp_path: Path) -> None:
    cmyk = written(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95)
    red = pixels(cmyk)[4, 4].astype(int)
    assert red[0] > 240
    assert red[1:].max() < 15
    values = np.array([[-1.0, 0.0, 3.0]], np.float32)
    floats = written(tmp_path / "a.tiff", Image.fromarray(values))
    assert pixels(floats)[0, :, 0].tolist() == [0, 64, 255]
    bad = written(tmp_path / "b.tiff", Image.fromarray(values * np.nan))
    with pytest.raises(ValueError, match="not finite"):
        images.read(bad)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """However the camera was held: the red corner ends up top left."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    file = written(tmp_path / "a.png", stored, exif=exif)
    assert np.array_equal(pixels(file), upright)


def test_size_is_of_the_longer_side_and_shrinking_averages(tmp_path: Path) -> None:
    # Stripes of one pixel: nearest neighbours would give black or white, an average gives grey.
    stripes = np.zeros((40, 80, 3), np.uint8)
    stripes[:, ::2] = 255
    file = tmp_path / "a.png"
    images.save(file, stripes)
    small = pixels(file, size=20)
    assert small.shape == (10, 20, 3)
    assert np.abs(small[:, 2:-2].astype(int) - 128).max() <= 4
    assert pixels(file, size=160).shape == (80, 160, 3)
    tensor = images.resized(images.read(file), width=20, height=10)
    assert (tensor[..., 2:-2] - 0.5).abs().max() < 0.02
    assert tensor.min() >= 0
    assert tensor.max() <= 1


@pytest.mark.parametrize(("shape", "size", "expected"), [
    ((1, 1), 5, (5, 5)), ((1, 1), None, (1, 1)), ((1, 900), 30, (1, 30)), ((900, 2), 30, (30, 1)),
])  # fmt: skip
def test_tiny_and_elongated(tmp_path: Path, shape, size, expected) -> None:
    file = tmp_path / "a.png"
    images.save(file, np.full((*shape, 3), 9, np.uint8))
    found = pixels(file, size)
    assert found.shape == (*expected, 3)
    assert (found == 9).all()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header_only(path: Path, width: int, height: int) -> Path:
    """A PNG of a few bytes that claims to be that large."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("side", [8_001, 10_000, 60_000])
def test_a_huge_picture_is_refused_before_it_is_read(tmp_path: Path, side: int) -> None:
    """Below Pillow's own limits, between its warning and its error, and above both."""
    file = header_only(tmp_path / "a.png", side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="at most 64,000,000 pixels"):
            images.read(file)


def test_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    images.save(whole, images.sample("china", 64))
    png = tmp_path / "whole.png"
    images.save(png, images.sample("china", 64))
    damaged = {
        "text.png": b"not a picture\n" * 20,
        "empty.jpg": b"",
        "short.jpg": whole.read_bytes()[: whole.stat().st_size // 2],
        "short.png": png.read_bytes()[: png.stat().st_size // 2],
        "bits.png": png.read_bytes()[:60] + bytes(40) + png.read_bytes()[100:],
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged or not a picture"):
            images.read(tmp_path / name)
    header_only(tmp_path / "hollow.png", 10, 10)
    with pytest.raises(ValueError, match=r"hollow\.png is damaged"):
        images.read(tmp_path / "hollow.png")


def test_what_is_not_there_and_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not there"):
        images.read(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match="a folder"):
        images.read(tmp_path)
    black = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match=r"ends in \.png"):
        images.save(tmp_path / "a.gif", black)
    for wrong in (black[0], black.astype(float), black[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            images.save(tmp_path / "a.png", wrong)
    with pytest.raises(ValueError, match="1 pixel or more"):
        images.sample("china", size=0)
    with pytest.raises(ValueError, match="china, flower"):
        images.sample("cat")
    assert not list(tmp_path.iterdir())
