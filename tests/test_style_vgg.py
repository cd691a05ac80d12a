"""VGG-19 by torchvision's names: its shapes, its layers, and the files it takes and refuses.

The weights here are drawn, not trained: the published file is 548 MB.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from needs import package

torch = package("torch")

import safetensors.torch  # noqa: E402

from rmsprop.data import cache_dir  # noqa: E402
from rmsprop.style import vgg  # noqa: E402

# Of torchvision's vgg19().features: (place, channels in, channels out) of each convolution.
PUBLISHED = [
    (0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256),
    (14, 256, 256), (16, 256, 256), (19, 256, 512), (21, 512, 512), (23, 512, 512), (25, 512, 512),
    (28, 512, 512), (30, 512, 512), (32, 512, 512), (34, 512, 512),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On pictures this small threads only wait for each other, on a busy machine for seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    torch.manual_seed(0)
    found = {}
    for place, before, after in PUBLISHED:
        scale = (2 / (9 * before)) ** 0.5
        found[f"features.{place}.weight"] = torch.randn(after, before, 3, 3) * scale
        found[f"features.{place}.bias"] = torch.randn(after) * 0.1
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, state) -> Iterator[Path]:
    """One file of 80 MB, in each format, for all tests; removed at the end."""
    folder = tmp_path_factory.mktemp("vgg")
    classifier = {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}
    torch.save(state | classifier, folder / "vgg19.pth")
    safetensors.torch.save_file(state, folder / "vgg19.safetensors")
    yield folder
    for file in folder.iterdir():
        file.unlink()


def test_the_architecture_is_the_published_one() -> None:
    with torch.device("meta"):
        network = vgg.architecture()
    assert len(network) == 37
    pools = [k for k, layer in enumerate(network) if isinstance(layer, torch.nn.MaxPool2d)]
    assert pools == [4, 9, 18, 27, 36]
    convolutions = [
        (k, layer.in_channels, layer.out_channels)
        for k, layer in enumerate(network)
        if isinstance(layer, torch.nn.Conv2d)
    ]
    assert convolutions == PUBLISHED
    assert sum(p.numel() for p in network.parameters()) == 20_024_384  # as torchvision's
    names = vgg.layer_names()
    places = {name: place for place, name in names.items()}
    style = [places[name] for name in vgg.STYLE_LAYERS]
    assert style == [1, 6, 11, 20, 29]
    assert [places[name] for name in vgg.CONTENT_LAYERS] == [22]
    assert len(names) == 16
    assert all(isinstance(network[place], torch.nn.ReLU) for place in names)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_features_are_those_of_the_layers_applied_by_hand(folder: Path, state, pooling) -> None:
    network = vgg.VGG19(folder / "vgg19.safetensors", pooling)
    assert not any(p.requires_grad for p in network.parameters())
    image = torch.rand(1, 3, 32, 48)
    style, content = network(image)
    assert {n: tuple(f.shape) for n, f in style.items()} == {
        "relu1_1": (1, 64, 32, 48), "relu2_1": (1, 128, 16, 24), "relu3_1": (1, 256, 8, 12),
        "relu4_1": (1, 512, 4, 6), "relu5_1": (1, 512, 2, 3),
    }  # fmt: skip
    assert {n: tuple(f.shape) for n, f in content.items()} == {"relu4_2": (1, 512, 4, 6)}
    # The first three convolutions, written out; a mean or deviation on the wrong channel shows.
    x = image.numpy()[0].transpose(1, 2, 0)
    x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32)

    def layer(x, place):
        w, b = state[f"features.{place}.weight"], state[f"features.{place}.bias"]
        return torch.nn.functional.conv2d(x, w, b, padding=1).clamp(min=0)

    first = layer(x, 0)
    torch.testing.assert_close(style["relu1_1"], first, rtol=1e-4, atol=1e-5)
    blocks = layer(first, 2).unfold(2, 2, 2).unfold(3, 2, 2)
    pooled = blocks.amax((4, 5)) if pooling == "max" else blocks.mean((4, 5))
    torch.testing.assert_close(style["relu2_1"], layer(pooled, 5), rtol=1e-4, atol=1e-5)


def test_both_formats_hold_the_same_and_the_classifier_is_left_out(folder: Path, state) -> None:
    for name in ("vgg19.pth", "vgg19.safetensors"):
        found = vgg.read_weights(folder / name)
        assert set(found) == set(state)
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_only_what_is_needed_is_kept(folder: Path) -> None:
    network = vgg.VGG19(folder / "vgg19.pth", style_layers=("relu1_1",), content_layers=())
    assert len(network.network) == 2
    assert list(network(torch.rand(1, 3, 16, 16))[0]) == ["relu1_1"]
    with pytest.raises(ValueError, match="16 pixels or more"):
        network(torch.rand(1, 3, 15, 40))
    with pytest.raises(ValueError, match=r"relu1_1, relu1_2.*'conv_4'"):
        vgg.VGG19(folder / "vgg19.pth", style_layers=("conv_4",))
    with pytest.raises(ValueError, match="max, average"):
        vgg.VGG19(folder / "vgg19.pth", pooling="median")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.10.bias": None}, r"lacks features\.10\.bias"),
        ({"features.0.weight": "wide"}, r"features\.0\.weight must have the shape \(64, 3, 3, 3\)"),
        ({"features.1.weight": "wide"}, r"also holds 'features\.1\.weight'"),
        ({"features.0.bias": "nan"}, r"features\.0\.bias must hold finite floats"),
        (
            {"features.0.bias": "whole"},
            r"features\.0\.bias must hold finite floats; got torch\.int",
        ),
    ],
)
def test_weights_of_something_else_are_refused_by_name(
    tmp_path: Path, state, change: dict[str, str | None], message: str
) -> None:
    values = {
        "wide": torch.zeros(64, 4, 3, 3),
        "nan": torch.full((64,), float("nan")),
        "whole": torch.zeros(64, dtype=torch.int32),
    }
    changed = dict(state)
    for name, what in change.items():
        if what is None:
            del changed[name]
        else:
            changed[name] = values[what]
    file = tmp_path / "other.pth"
    torch.save(changed, file)
    with pytest.raises(ValueError, match=message):
        vgg.read_weights(file)
    file.unlink()


def test_no_names_at_all_and_other_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "names.pth")
    with pytest.raises(ValueError, match=r"lacks features\.0\.weight, .*, \.\.\."):
        vgg.read_weights(tmp_path / "names.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="tensors by name; it holds a Tensor"):
        vgg.read_weights(tmp_path / "tensor.pth")
    torch.save({"features.0.weight": Path("x")}, tmp_path / "object.pth")  # would run code
    with pytest.raises(ValueError, match="holds more than weights"):
        vgg.read_weights(tmp_path / "object.pth")


@pytest.mark.parametrize("name", ["vgg19.pth", "vgg19.safetensors"])
@pytest.mark.parametrize("kept", [0, 100, 40_000_000])
def test_truncated_files_are_refused(tmp_path: Path, folder: Path, name: str, kept: int) -> None:
    with (folder / name).open("rb") as file:
        (tmp_path / name).write_bytes(file.read(kept))
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        vgg.read_weights(tmp_path / name)
    (tmp_path / name).unlink()


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights of VGG-19.*download\.pytorch\.org"):
        vgg.read_weights(tmp_path / "none.pth")
    (tmp_path / "a.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.pth, \.pt or \.safetensors"):
        vgg.read_weights(tmp_path / "a.npz")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pth is damaged"):
        vgg.read_weights(tmp_path / "text.pth")


# The download, from a file: URL, with a small file in place of the 548 MB.


def test_the_hash_is_in_the_name_of_the_url() -> None:
    assert vgg.URL.endswith(f"-{vgg.HASH}.pth")


def test_a_download_is_checked_kept_and_not_repeated(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    begin = hashlib.sha256(content).hexdigest()[:8]
    source = tmp_path / f"small-{begin}.pth"
    source.write_bytes(content)
    cache = tmp_path / "cache"
    file = vgg.published(cache, source.as_uri())
    assert file == cache / source.name
    assert file.read_bytes() == content
    source.unlink()
    assert vgg.published(cache, source.as_uri()) == file, "it was fetched again"
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"begin with {begin}.*delete it"):
        vgg.published(cache, source.as_uri())


def test_a_wrong_download_is_not_kept(tmp_path: Path) -> None:
    source = tmp_path / "small-00000000.pth"
    source.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"must begin with 00000000.*try again"):
        vgg.published(tmp_path / "cache", source.as_uri())
    with pytest.raises(OSError, match=r"cannot fetch.*weights=.*features='random'"):
        vgg.published(tmp_path / "cache", (tmp_path / "none-00000000.pth").as_uri())
    assert not list((tmp_path / "cache").iterdir())


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))
    content = b"weights"
    begin = hashlib.sha256(content).hexdigest()[:8]
    cache_dir().mkdir(parents=True)
    (cache_dir() / f"small-{begin}.pth").write_bytes(content)
    file = vgg.published(url=f"file:///nowhere/small-{begin}.pth")
    assert tmp_path in file.parents
    assert file.read_bytes() == content
