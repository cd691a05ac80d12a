"""Neural style transfer, its settings: the pixels of one picture learn the Gram matrices of another."""

import math
import numbers
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rmsprop.rule import Rule
from rmsprop.schedules import Schedule
from rmsprop.style import images
from rmsprop.style.learner import StyleLearner
from rmsprop.style.vgg import POOLINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RULE = Rule.from_dialect("torch", lr=0.01)
"""Plain RMSprop, for the schedule "cosine": the best looking of the rates tried.

Momentum 0.9 at lr 0.005 brings the default's loss lower, from 1.36 to 0.105 against 0.127, to a flatter sky.
"""
FEATURES = ("random", "vgg19")
STARTS = ("content", "noise")
SHORTEST = 16
"""Pixels of the shorter side at the coarsest size: VGG-19 halves four times."""
LONGEST = 8_000


@dataclass(frozen=True)
class StyleTask:
    """A style transfer to make: plain settings, from which pictures and features are made where needed.

    Parameters
    ----------
    content, style
        Paths of pictures; None is scikit-learn's china.jpg, and its flower.jpg.
    size
        Pixels of the result's longer side.
    scales
        How many sizes it is made at, each twice the one before, the last of them `size`. They share the
        steps equally; what a coarse one finds is enlarged, and the optimizer starts anew. None is 3, or
        fewer where the first of them would have less than 64 pixels.
    features
        "random" (`RandomFilters`, needs no weights) or "vgg19" (`VGG19`).
    weights, pooling
        Of VGG-19: a file, or None for PyTorch's download; "max" or "average".
    content_weight, style_weight, tv_weight
        Of the three terms of the loss; see `StyleLearner`.
    recolour
        Give the content the style's colours first; None does so for random features, which do not tell
        what a colour belongs to.
    start
        "content" (with a little noise) or "noise".
    epochs, steps_per_epoch
        Their product is the number of steps.
    seed
        Draws the random features.
    device
        Of PyTorch, as "cpu" or "cuda".

    Raises
    ------
    ValueError, TypeError
        For a value out of its range. Pictures and weights are checked as they are read.

    Examples
    --------
    >>> task = StyleTask(size=64, epochs=2)
    >>> task.name, task.steps, task.sizes
    ('china as flower', 100, (64,))
    """

    content: str | None = None
    style: str | None = None
    size: int = 256
    scales: int | None = None
    features: str = "random"
    weights: str | None = None
    pooling: str = "max"
    content_weight: float = 1.0
    style_weight: float = 1.0
    tv_weight: float = 0.1
    recolour: bool | None = None
    start: str = "content"
    epochs: int = 6
    steps_per_epoch: int = 50
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        least_of = {"size": SHORTEST, "epochs": 1, "steps_per_epoch": 1, "seed": 0}
        if self.scales is not None:
            least_of["scales"] = 1
        for name, least in least_of.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
                raise ValueError(f"{name} must be a whole number, {least} or more; got {value!r}")
        for name in ("content_weight", "style_weight", "tv_weight"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not (0 <= float(value) < math.inf):
                raise ValueError(f"{name} must be a finite number, 0 or more; got {value!r}")
        for name, known in (("features", FEATURES), ("start", STARTS), ("pooling", POOLINGS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        if self.weights is not None and self.features != "vgg19":
            raise ValueError("weights are VGG-19's: set features='vgg19', or leave weights at None")
        if self.size > LONGEST:
            raise ValueError(f"size must be at most {LONGEST} pixels; got {self.size}")
        if self.sizes[0] < SHORTEST:
            raise ValueError(
                f"the coarsest of {self.scales} scales of size {self.size} has {self.sizes[0]} pixels; it "
                f"must have {SHORTEST} or more: take fewer scales or a larger size"
            )

    @property
    def name(self) -> str:
        """The names of both pictures."""
        content, style = self.content or "china", self.style or "flower"
        return f"{Path(content).stem} as {Path(style).stem}"

    @property
    def batch_size(self) -> int:
        """1: a step is an update of all pixels, and an "epoch" is `steps_per_epoch` of them."""
        return 1

    @property
    def metric(self) -> str:
        """There is none beside the loss."""
        return "none"

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.epochs * self.steps_per_epoch

    @property
    def sizes(self) -> tuple[int, ...]:
        """Pixels of the longer side at each scale, the coarsest first."""
        scales = self.scales
        if scales is None:
            scales = next((k for k in (3, 2) if self.size >= 64 << (k - 1)), 1)
        return tuple(round(self.size / 2**k) for k in reversed(range(scales)))

    def pictures(self) -> tuple[Tensor, Tensor]:
        """Content and style, (1, 3, height, width), at the largest size.

        Raises FileNotFoundError and ValueError as `images.read`, and for a picture that is too narrow.
        """
        found = []
        for path, sample in ((self.content, "china"), (self.style, "flower")):
            picture = images.read(path, self.size) if path else images.sample(sample, self.size)
            height, width = picture.shape[2:]
            short = min(images.fitted(width, height, self.sizes[0]))
            if short < SHORTEST:
                raise ValueError(
                    f"{path or sample} is too long and narrow: its shorter side has {short} pixels at the "
                    f"coarsest size; it must have {SHORTEST} or more: crop it, or take fewer scales or a "
                    "larger size"
                )
            found.append(picture)
        return found[0], found[1]

    def to_dict(self) -> dict[str, Any]:
        """The settings, and the steps, ready for JSON."""
        more = {"name": self.name, "metric": self.metric, "steps": self.steps, "sizes": self.sizes}
        return asdict(self) | more

    def learner(self, rule: Rule, plan: Schedule, seed: int) -> StyleLearner:
        """What makes the steps; raises as `StyleLearner`."""
        return StyleLearner(self, rule, plan, seed)


def sheet(task: StyleTask, image: np.ndarray) -> "Figure":
    """Content, style and result side by side.

    Parameters
    ----------
    task
        What was made.
    image
        What came out, (height, width, 3) uint8, as `StyleLearner.image` returns.

    Examples
    --------
    >>> figure = sheet(StyleTask(size=48), np.zeros((32, 48, 3), np.uint8))
    >>> [ax.get_title() for ax in figure.axes]
    ['content', 'style', 'result']
    """
    from matplotlib.figure import Figure  # here: a transfer needs no plots

    pictures = [*map(images.to_array, task.pictures()), image]
    widths = [picture.shape[1] / picture.shape[0] for picture in pictures]  # so that heights match
    figure = Figure(figsize=(3 * sum(widths), 3.3), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=widths)
    for ax, title, picture in zip(axes, ("content", "style", "result"), pictures, strict=True):
        ax.imshow(picture, interpolation="lanczos")
        ax.set_title(title)
        ax.set_axis_off()
    return figure
