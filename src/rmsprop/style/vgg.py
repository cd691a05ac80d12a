"""The convolutions of VGG-19, with weights from a file: torchvision's names, without torchvision.

The weights are those of Simonyan and Zisserman, trained on ImageNet; they come from the user's own file, or
once from PyTorch's download, checked by SHA-256.
"""

import hashlib
import http.client
import pickle
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from rmsprop import files
from rmsprop.data import cache_dir

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
HASH = "dcbb9e9d"
"""How the SHA-256 of that file begins; PyTorch puts it in the name."""
CHANNELS = (
    64,
    64,
    0,
    128,
    128,
    0,
    256,
    256,
    256,
    256,
    0,
    512,
    512,
    512,
    512,
    0,
    512,
    512,
    512,
    512,
    0,
)
"""Of the 3x3 convolutions in order, each followed by a ReLU; 0 is a pooling of 2x2."""
STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
CONTENT_LAYERS = ("relu4_2",)
POOLINGS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
# Of ImageNet in [0, 1], red, green, blue: what the published weights expect to be taken off.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNREADABLE = (
    RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError, IndexError,
    AttributeError, TypeError, UnicodeDecodeError, zipfile.BadZipFile, safetensors.SafetensorError,
)  # fmt: skip
"""What PyTorch and safetensors raise on damaged files."""


def architecture(pooling: str = "max") -> nn.Sequential:
    """VGG-19's `features`, 37 layers, as torchvision numbers them; its weights are not yet meaningful.

    Parameters
    ----------
    pooling
        "max", as published, or "average", which Gatys et al. found to look slightly better.

    Raises
    ------
    ValueError
        For another pooling.

    Examples
    --------
    >>> network = architecture()
    >>> len(network), tuple(network[0].weight.shape), tuple(network[34].weight.shape)
    (37, (64, 3, 3, 3), (512, 512, 3, 3))
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; got {pooling!r}")
    layers: list[nn.Module] = []
    before = 3
    for channels in CHANNELS:
        if channels:
            # Left as memory comes: drawing 20 million numbers that are then replaced takes a second.
            convolution = nn.utils.skip_init(nn.Conv2d, before, channels, 3, padding=1)
            layers += [convolution, nn.ReLU(inplace=False)]
            before = channels
        else:
            layers.append(POOLINGS[pooling](2, 2))
    return nn.Sequential(*layers)


def layer_names() -> dict[int, str]:
    """The name of the paper, as "relu4_2", of each ReLU by its place in `features`.

    Examples
    --------
    >>> names = layer_names()
    >>> names[1], names[22], names[29]
    ('relu1_1', 'relu4_2', 'relu5_1')
    """
    names, place, block, number = {}, 0, 1, 1
    for channels in CHANNELS:
        if channels:
            names[place + 1] = f"relu{block}_{number}"
            place, number = place + 2, number + 1
        else:
            place, block, number = place + 1, block + 1, 1
    return names


class VGG19(nn.Module):
    """Features of a picture for style and content: VGG-19's ReLUs, after Gatys et al.

    Parameters
    ----------
    weights
        A .pth or .safetensors with torchvision's names ("features.0.weight", ...); the classifier's are left
        out. None is `published()`.
    pooling
        As in `architecture`.
    style_layers, content_layers
        Names from `layer_names`.

    Raises
    ------
    ValueError, FileNotFoundError, OSError
        As `read_weights` and `published`; for a name that is no layer.

    References
    ----------
    Simonyan and Zisserman, arXiv:1409.1556 (configuration E); Gatys, Ecker and Bethge, arXiv:1508.06576.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        weights: str | Path | None = None,
        pooling: str = "max",
        style_layers: tuple[str, ...] = STYLE_LAYERS,
        content_layers: tuple[str, ...] = CONTENT_LAYERS,
    ):
        super().__init__()
        known = layer_names()
        for name in (*style_layers, *content_layers):
            if name not in known.values():
                raise ValueError(f"a layer is one of {', '.join(known.values())}; got {name!r}")
        network = architecture(pooling)
        state = read_weights(published() if weights is None else weights)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(state[f"features.{name}"])
        self.style_layers, self.content_layers = style_layers, content_layers
        self.wanted = {k: n for k, n in known.items() if n in {*style_layers, *content_layers}}
        needed = list(network)[: max(self.wanted) + 1]  # nothing beyond is looked at
        self.network = nn.Sequential(*needed)
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The feature maps for style and for content, by name, of pixels (1, 3, height, width) in [0, 1].

        Raises ValueError below 16 x 16 pixels: four poolings would leave none.
        """
        if min(image.shape[2:]) < 16:
            raise ValueError(
                f"VGG-19 needs 16 pixels or more each way; got {tuple(image.shape[2:])}"
            )
        x, found = (image - self.mean) / self.std, {}
        for place, layer in enumerate(self.network):
            x = layer(x)
            if place in self.wanted:
                found[self.wanted[place]] = x
        return (
            {name: found[name] for name in self.style_layers},
            {name: found[name] for name in self.content_layers},
        )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of VGG-19's convolutions by torchvision's names, checked; nothing in the file is executed.

    Parameters
    ----------
    path
        A .pth (or .pt) of a state dict, or a .safetensors. Names beside "features." are left out.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        For another ending, a damaged file, a name that is missing or unknown, a shape or dtype that does not
        fit, or values that are not finite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights of VGG-19 at {path}: fetch {URL}")
    suffix = path.suffix.lower()
    if suffix not in (".pth", ".pt", ".safetensors"):
        raise ValueError(f"weights are a .pth, .pt or .safetensors; got {path.name!r}")
    try:
        if suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} is damaged, or holds more than weights, and was not read: {said}"
        ) from error
    return _checked(path, state)


def published(folder: str | Path | None = None, url: str = URL) -> Path:
    """The file of PyTorch's weights for VGG-19 (548 MB), fetched where it is not yet in the cache.

    Parameters
    ----------
    folder
        Where it is kept; None is the user's cache, `rmsprop.data.cache_dir()`.
    url
        Where it comes from; its name ends in the first digits of its SHA-256, as in PyTorch's downloads.

    Raises
    ------
    OSError
        Where the download failed.
    ValueError
        Where what came, or what lies in the cache, has another SHA-256. What came is not kept then.
    """
    file = (cache_dir() if folder is None else Path(folder)) / url.rpartition("/")[2]
    expected = file.stem.rpartition("-")[2]
    if file.is_file():
        _check_hash(file, expected)
        return file
    try:
        with files.replacing(file) as temporary:
            with urllib.request.urlopen(url, timeout=60) as source, temporary.open("wb") as sink:
                while block := source.read(1 << 20):
                    sink.write(block)
            _check_hash(temporary, expected, url)
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"cannot fetch the weights of VGG-19 from {url} to {file}: {error}. Fetch them by other "
            "means and name the file with weights=..., or use features='random', which needs none"
        ) from error
    return file


def _check_hash(file: Path, expected: str, source: str | None = None) -> None:
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if not found.startswith(expected):
        raise ValueError(
            f"{source or file} is not PyTorch's VGG-19: its SHA-256 must begin with {expected}; it is "
            f"{found}: {'try again later' if source else 'delete it and it is fetched again'}"
        )


def _checked(path: Path, state: object) -> dict[str, Tensor]:
    """The tensors of `features`, each with the shape that the architecture has."""
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} must hold tensors by name; it holds a {type(state).__name__}")
    with torch.device("meta"):
        shapes = {f"features.{k}": p.shape for k, p in architecture().named_parameters()}
    missing = [name for name in shapes if name not in state]
    if missing:
        few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(f"{path} is not VGG-19 with torchvision's names: it lacks {few}")
    unknown = [n for n in state if str(n).startswith("features.") and n not in shapes]
    if unknown:
        raise ValueError(f"{path} is not VGG-19: it also holds {unknown[0]!r}")
    for name, shape in shapes.items():
        value = state[name]
        if not isinstance(value, Tensor) or value.shape != shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{path}: {name} must have the shape {tuple(shape)}; got {found}")
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} must hold finite floats; got {value.dtype}")
    return {name: state[name].to(torch.float32) for name in shapes}
