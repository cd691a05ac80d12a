"""The tutorials' convolutional network."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

SMALLEST = 4  # pixels a side: each of the two poolings halves it


class CNN(nn.Module):
    """Two convolutions of 3x3, each pooled by 2x2, and a dense network on what is left.

    ::

        (1, h, w) -> conv 32 -> relu -> max pool -> conv 64 -> relu -> max pool -> dense hidden -> outputs

    Parameters
    ----------
    image_shape
        (height, width), at least 4 each.
    outputs
        Scores for each image.
    hidden
        Widths of the dense hidden layers.
    dropout
        The probability that an input of the output layer is left out, in training.

    Raises
    ------
    ValueError
        For smaller images.

    Examples
    --------
    >>> import torch
    >>> CNN((28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int],
        outputs: int,
        *,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.0,
    ):
        super().__init__()
        height, width = image_shape
        if min(image_shape) < SMALLEST:
            raise ValueError(
                f"a cnn needs images of {SMALLEST}x{SMALLEST} or more, as it halves them twice; got "
                f"{height}x{width}: use an mlp"
            )
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        sizes = [64 * (height // 4) * (width // 4), *hidden]
        dense = [
            layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())
        ]
        self.dense = nn.Sequential(*dense, nn.Dropout(dropout), nn.Linear(sizes[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (rows, outputs) of images (rows, 1, height, width)."""
        return self.dense(self.convolutions(x).flatten(1))
