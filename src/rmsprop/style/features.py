"""What two pictures are compared by: features that need no trained weights, Gram matrices, and colours."""

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu

WIDTH, FILTERS, LEVELS = 7, 64, 3
THRESHOLD = 1.0
EVENNESS = 0.003
"""What whitening adds to each variance, as a part of the largest: with 0.1, colours become garish."""
PATCHES = 10_000
SMALLEST = 8
"""Pixels of the shorter side of the coarsest level: a filter's width, and one more."""
HALVINGS = 1
"""Of the content: what is finer, the strokes, is left to the style."""
GREY = (0.299, 0.587, 0.114)  # Rec. 601 luma


class RandomFilters(nn.Module):
    """One layer of random filters with a threshold, at several scales of a pyramid; no trained weights.

    ::

        x_0 = x,  x_(l+1) = x_l blurred by (1, 3, 3, 1)/8 and halved
        f_li = max(w_li * (x_l - mean_l) - threshold, 0)

    The idea, that the Gram matrices of one wide layer of random filters on several scales know a texture, is
    that of Ustyuzhaninov et al., who use filters of eight widths, 3 to 55 pixels. Here all are 7 wide, on 3
    levels of a pyramid, where they reach over 7, 14 and 28 pixels for little more than the first costs. And
    in place of random numbers they are patches of the style picture, at places drawn by the seed, whitened
    and scaled so that their response to the style has the standard deviation 1, with a threshold on it: the
    encoding that Coates and Ng found nearly as good with random patches as with a trained dictionary.

    Chosen by looking: without the threshold strokes become speckles.

    Content is the brightness at half the size.

    Parameters
    ----------
    style
        The picture (1, 3, height, width) that patches and whitening come from.
    levels
        Of the pyramid, from full size down; `levels_of` says how many fit.
    seed
        Draws the places.
    filters
        On each level.

    Raises
    ------
    ValueError
        Where the picture is too small for so many levels, or there are none.

    Examples
    --------
    >>> from rmsprop.style.images import sample
    >>> style, content = RandomFilters(sample("flower", 64), levels=2)(torch.zeros(1, 3, 40, 60))
    >>> {name: tuple(f.shape) for name, f in (style | content).items()}
    {'level1': (1, 64, 40, 60), 'level2': (1, 64, 20, 30), 'grey': (1, 1, 20, 30)}

    References
    ----------
    Ustyuzhaninov, Brendel, Gatys and Bethge, arXiv:1606.00021; Coates and Ng, ICML 2011 (The importance of
    encoding versus training with sparse coding and vector quantization).
    """

    blur: Tensor
    grey: Tensor

    def __init__(self, style: Tensor, levels: int = LEVELS, seed: int = 0, filters: int = FILTERS):
        super().__init__()
        short = min(style.shape[2:])
        if not 1 <= levels <= levels_of(short):
            raise ValueError(
                f"levels must be 1 to {levels_of(short)} for a shorter side of {short} pixels; got {levels}"
            )
        kernel = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        square = torch.outer(kernel, kernel).expand(3, 1, 4, 4).contiguous()
        self.register_buffer("blur", square)
        self.register_buffer("grey", torch.tensor(GREY).reshape(1, 3, 1, 1))
        rng = np.random.default_rng(seed)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for x in self._pyramid(style.detach().cpu(), levels):
            weight, bias = drawn(x[0].numpy(), filters, rng)
            self.weights.append(nn.Parameter(weight, requires_grad=False))
            self.biases.append(nn.Parameter(bias, requires_grad=False))

    def forward(self, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The features for style and for content, by name, of pixels (1, 3, height, width) in [0, 1]."""
        style, edge = {}, WIDTH // 2
        levels = self._pyramid(image, len(self.weights))
        for k, (x, w, b) in enumerate(zip(levels, self.weights, self.biases, strict=True)):
            around = pad(x, (edge,) * 4, mode="reflect")  # zeros would be an edge of their own
            style[f"level{k + 1}"] = relu(conv2d(around, w, b))
        # Overlapping windows: averages over separate blocks leave their grid in the picture.
        small = self._pyramid(image, HALVINGS + 1)[-1]
        return style, {"grey": (small * self.grey).sum(1, keepdim=True)}

    def _pyramid(self, image: Tensor, levels: int) -> list[Tensor]:
        found = [image]
        for _ in range(levels - 1):
            around = pad(found[-1], (1, 2, 1, 2), mode="replicate")
            found.append(conv2d(around, self.blur, stride=2, groups=3))
        return found


def levels_of(short: int) -> int:
    """How many levels a picture has whose shorter side is `short`; the last has `SMALLEST` pixels or more.

    Examples
    --------
    >>> [levels_of(short) for short in (7, 8, 15, 43, 1000)]
    [0, 1, 2, 3, 3]
    """
    levels = 0
    while levels < LEVELS and short >= SMALLEST:
        levels, short = levels + 1, -(-short // 2)
    return levels


def drawn(picture: np.ndarray, filters: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Weights (filters, 3, 7, 7) and biases (filters,): whitened patches, and their threshold.

    ::

        z = T (p - mean),  T = (C + 0.003*max(eigenvalues of C))^(-1/2)      p: a patch, C: their covariance
        w_i = T z_i/(|z_i| s_i),  b_i = -w_i mean - 1                      s_i: deviation of z z_i/|z_i|

    Parameters
    ----------
    picture
        (3, height, width), 7 pixels or more each way.
    filters
        How many.
    rng
        Draws the places.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> weight, bias = drawn(rng.random((3, 20, 20)), 5, rng)
    >>> tuple(weight.shape), tuple(bias.shape)
    ((5, 3, 7, 7), (5,))
    """
    windows = sliding_window_view(picture, (WIDTH, WIDTH), axis=(1, 2))
    high, wide = windows.shape[1:3]
    places = rng.integers(0, high * wide, max(min(PATCHES, high * wide), filters))
    patches = windows[:, places // wide, places % wide].astype(np.float64)
    patches = patches.transpose(1, 0, 2, 3).reshape(len(places), -1)
    mean = patches.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    # The last term is for a picture of one colour, whose patches all become zero.
    floor = EVENNESS * values.max() + 1e-9
    whiten = (vectors / np.sqrt(np.maximum(values, 0) + floor)) @ vectors.T
    white = (patches - mean) @ whiten
    chosen = white[:filters] / np.maximum(np.linalg.norm(white[:filters], axis=1), 1e-9)[:, None]
    chosen /= np.maximum((white @ chosen.T).std(axis=0), 1e-3)[:, None]
    weight = chosen @ whiten
    bias = -weight @ mean - THRESHOLD
    weight = weight.reshape(filters, 3, WIDTH, WIDTH)
    return torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32)


def gram(features: Tensor) -> Tensor:
    """The Gram matrix of feature maps: how strongly any two occur at the same place, wherever that is.

    ::

        G_ij = sum over places of f_i f_j / (c*h*w)

    Parameters
    ----------
    features
        (1, c, h, w).

    Returns
    -------
    Tensor
        (c, c).

    Examples
    --------
    >>> gram(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))
    tensor([[1.2500, 2.7500],
            [2.7500, 6.2500]])

    References
    ----------
    Gatys, Ecker and Bethge, arXiv:1508.06576; they divide the loss by 4 c^2 (h*w)^2 in place of G by c*h*w.
    """
    _, c, h, w = features.shape
    rows = features.reshape(c, h * w)
    return rows @ rows.T / (c * h * w)


def total_variation(image: Tensor) -> Tensor:
    """The anisotropic total variation of a picture (1, c, h, w), a pixel: how unlike neighbours are.

    ::

        (sum |x[i+1, j] - x[i, j]| + sum |x[i, j+1] - x[i, j]|)/(c*h*w)

    Examples
    --------
    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 3.0]]]]))
    tensor(1.5000)
    """
    down = (image[:, :, 1:] - image[:, :, :-1]).abs().sum()
    across = (image[..., 1:] - image[..., :-1]).abs().sum()
    return (down + across) / image.numel()


def recoloured(content: Tensor, style: Tensor) -> Tensor:
    """The content with the mean and the covariance of the style's colours, and otherwise as it is.

    ::

        y = T (x - mean_c) + mean_s,   T = C^(-1/2) (C^(1/2) S C^(1/2))^(1/2) C^(-1/2)

    the linear map that takes one normal distribution to another with the least movement. What leaves [0, 1]
    is clipped.

    Parameters
    ----------
    content, style
        (1, 3, height, width) in [0, 1], of any two sizes.

    Examples
    --------
    >>> style = torch.tensor([0.2, 0.5, 0.9]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    >>> recoloured(torch.rand(1, 3, 5, 5), style)[0, :, 0, 0]
    tensor([0.2000, 0.5000, 0.9000])

    References
    ----------
    Pitie and Kokaram, The linear Monge-Kantorovitch linear colour mapping, CVMP 2007.
    """
    c, s = (x[0].reshape(3, -1).double().cpu().numpy() for x in (content, style))
    of_c, of_s = np.cov(c, bias=True), np.cov(s, bias=True)
    half, inverse = _power(of_c, 0.5), _power(of_c, -0.5)
    move = inverse @ _power(half @ of_s @ half, 0.5) @ inverse
    y = move @ (c - c.mean(axis=1, keepdims=True)) + s.mean(axis=1, keepdims=True)
    y = torch.tensor(y, dtype=torch.float32).reshape(content.shape)
    return y.clamp(0, 1).to(content.device)


def _power(matrix: np.ndarray, power: float) -> np.ndarray:
    """Of a covariance; directions without variance, as in a grey picture, stay without."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-6 * max(values.max(), 1e-6)
    powers = np.where(kept, np.where(kept, values, 1) ** power, 0)
    return (vectors * powers) @ vectors.T
