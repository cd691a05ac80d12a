"""What makes the steps of a style transfer: the pixels, their loss, and the rule that moves them."""

import functools
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rmsprop.learners import part_of
from rmsprop.rule import Rule
from rmsprop.schedules import Schedule
from rmsprop.style import images
from rmsprop.style.features import RandomFilters, gram, levels_of, recoloured, total_variation
from rmsprop.style.vgg import VGG19
from rmsprop.torch import RuleOptimizer, from_rule

if TYPE_CHECKING:
    from rmsprop.style.transfer import StyleTask

START_NOISE = 0.08
"""Deviation of what is added to the content at the start: in a plain sky all gradients would be alike."""
KIND = "style"
TINY = 1e-8
"""Added to what terms are relative to: a plain picture has neither variance nor features."""


class StyleLearner:
    """The pixels of a picture, moved by a rule towards one picture's content and another's style.

    ::

        L = content_weight*C + style_weight*S + tv_weight*V
        C = mean over content features l of  mean (F_l(x) - F_l(content))^2/var F_l(content)
        S = mean over style features l of  |G(F_l(x)) - G(F_l(style))|^2/|G(F_l(style))|^2
        x <- clip(x - the rule's step, 0, 1)

    G are Gram matrices (`features.gram`), |.| their Frobenius norm and V the total variation a pixel. C and S
    are relative to their targets, so that weights mean the same for any features and pictures; Gatys et al.
    take plain squares. Targets are computed once at each size, and nothing writes to them.

    Parameters
    ----------
    task
        What to make.
    rule
        The update, as `rmsprop.torch.from_rule` makes it; its `lr` gives way to the plan's.
    plan
        The learning rate at each step, counted from 0 over all sizes.
    seed
        Draws the noise at the start.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        For pictures and weights that cannot be read.

    Examples
    --------
    >>> from rmsprop.style import RULE, StyleTask
    >>> task = StyleTask(size=48, epochs=1, steps_per_epoch=4)
    >>> learner = task.learner(RULE, plan=lambda step: 0.01, seed=0)
    >>> before = learner.step()
    >>> learner.image().shape, learner.image().dtype, learner.step_count
    ((32, 48, 3), dtype('uint8'), 1)
    """

    def __init__(self, task: "StyleTask", rule: Rule, plan: Schedule, seed: int = 0):
        self.task, self.rule, self.plan = task, rule, plan
        self.rows = task.steps_per_epoch
        self._steps, self._scale = 0, 0
        self._device = _device(task.device)
        pictures = task.pictures()
        self._hashes = [hashlib.sha256(p.numpy().tobytes()).hexdigest() for p in pictures]
        self._content, self._style = (p.to(self._device) for p in pictures)
        self._vgg = None
        if task.features == "vgg19":
            self._vgg = VGG19(task.weights, task.pooling).to(self._device)
        recolour = task.recolour if task.recolour is not None else self._vgg is None
        if recolour:
            self._content = recoloured(self._content, self._style)
        self._aim()
        self._begin(self._first(seed))

    @property
    def step_count(self) -> int:
        """Updates made so far."""
        return self._steps

    def step(self, rows: np.ndarray | None = None) -> float:
        """One update of all pixels; the loss before it. `rows` are not used: a picture has none."""
        self._change_size()
        self._optimizer.param_groups[0]["lr"] = self.plan(self._steps)
        self._optimizer.zero_grad()
        loss = self._total(self._terms())
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            self.pixels.clamp_(0, 1)
        self._steps += 1
        return loss.item()

    def measure(self, part: str = "train") -> tuple[float, None]:
        """The loss now, and no score; all parts are the same."""
        with torch.no_grad():
            return self._total(self._terms()).item(), None

    def losses(self) -> dict[str, float]:
        """The three terms of the loss now, without their weights: content, style, tv."""
        with torch.no_grad():
            return {name: term.item() for name, term in self._terms().items()}

    def image(self) -> np.ndarray:
        """The picture now, (height, width, 3) uint8."""
        return images.to_array(self.pixels)

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies of the pixels, and of the optimizer's state, by name."""
        state = {f"state/{k}": v for k, v in self._optimizer.state[self.pixels].items()}
        tensors = {"params/image": self.pixels, **state}
        return {name: value.detach().cpu().numpy().copy() for name, value in tensors.items()}

    def header(self) -> dict[str, Any]:
        """What going on needs beside `arrays`: the steps made, the size, what was read."""
        return {
            "kind": KIND,
            "steps": self._steps,
            "scale": self._scale,
            "pictures": self._hashes,
            "features": self.task.features,
        }

    def load(self, arrays: dict[str, np.ndarray], header: dict[str, Any]) -> None:
        """Go on, bit for bit, from what `arrays` and `header` returned, in a learner of the same task.

        Raises ValueError where they do not fit this task; nothing has changed then.
        """
        scale, steps = self._checked(header)
        shape = (1, 3, *self._shape(self._content, scale))
        pixels = arrays.get("params/image")
        if pixels is None or pixels.shape != shape or pixels.dtype != np.float32:
            found = "none" if pixels is None else f"{pixels.shape} {pixels.dtype}"
            raise ValueError(f"params/image must be {shape} float32; got {found}")
        entry = part_of(arrays, "state/")
        expected = self._state_shapes(shape) if steps else {}
        found = {name: value.shape for name, value in entry.items()}
        if found != expected:
            raise ValueError(f"this rule keeps {expected}; got {found}: take the run's own rule")
        if self._scale != scale:
            self._scale = scale
            self._aim()
        self._steps = steps
        self._begin(torch.tensor(pixels, device=self._device))
        if entry:
            state = self._optimizer.state_dict()
            state["state"] = {0: {name: torch.tensor(value) for name, value in entry.items()}}
            self._optimizer.load_state_dict(state)

    def _checked(self, header: dict[str, Any]) -> tuple[int, int]:
        if header.get("kind") != KIND:
            raise ValueError(
                f"this is no state of a style transfer; it says {header.get('kind')!r}"
            )
        for name, mine in (("pictures", self._hashes), ("features", self.task.features)):
            if header.get(name) != mine:
                raise ValueError(f"it was made of other {name}: give those that the run began with")
        scale, steps = header.get("scale"), header.get("steps")
        if not (isinstance(scale, int) and 0 <= scale < len(self.task.sizes)):
            raise ValueError(f"scale must be 0 to {len(self.task.sizes) - 1}; got {scale!r}")
        if not (isinstance(steps, int) and steps >= 0):
            raise ValueError(f"steps must be a whole number, 0 or more; got {steps!r}")
        return scale, steps

    def _state_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """What the rule keeps for pixels of this shape: found by one step of a stand-in."""
        stand_in = torch.zeros(shape).requires_grad_()
        stand_in.grad = torch.zeros(shape)
        optimizer = from_rule([stand_in], self.rule)
        optimizer.step()
        return {name: tuple(value.shape) for name, value in optimizer.state[stand_in].items()}

    def _shape(self, picture: Tensor, scale: int) -> tuple[int, int]:
        """(height, width) of a picture at this scale."""
        height, width = picture.shape[2:]
        width, height = images.fitted(width, height, self.task.sizes[scale])
        return height, width

    def _at(self, picture: Tensor, like: Tensor, scale: int) -> Tensor:
        """The picture at the size that `like` has at this scale."""
        height, width = self._shape(like, scale)
        return images.resized(picture, width, height)

    def _first(self, seed: int) -> Tensor:
        content = self._at(self._content, self._content, 0)
        rng = np.random.default_rng(seed)  # the same numbers with any version of PyTorch
        if self.task.start == "noise":
            return torch.tensor(rng.random(content.shape, dtype=np.float32), device=self._device)
        noise = rng.standard_normal(content.shape, dtype=np.float32) * np.float32(START_NOISE)
        return (content + torch.tensor(noise, device=self._device)).clamp(0, 1)

    def _begin(self, pixels: Tensor) -> None:
        """These pixels from now on, and an optimizer that knows nothing yet."""
        self.pixels = pixels.detach().contiguous().requires_grad_()
        self._optimizer: RuleOptimizer = from_rule([self.pixels], self.rule)

    def _change_size(self) -> None:
        """Go over to the next size where it is time; before a step, so that an end is not enlarged."""
        scale = min(self._steps * len(self.task.sizes) // self.task.steps, len(self.task.sizes) - 1)
        if scale != self._scale:
            self._scale = scale
            self._aim()
            self._begin(self._at(self.pixels.detach(), self._content, scale))

    @torch.no_grad()
    def _aim(self) -> None:
        """The targets at this size: content features, and Gram matrices of the style."""
        content = self._at(self._content, self._content, self._scale)
        style = self._at(self._style, self._style, self._scale)
        if self._vgg is not None:
            self._network: torch.nn.Module = self._vgg
        else:
            levels = min(levels_of(min(x.shape[2:])) for x in (content, style))
            self._network = RandomFilters(style, levels, self.task.seed).to(self._device)
        self.content_targets = self._network(content)[1]
        self.style_targets = {name: gram(f) for name, f in self._network(style)[0].items()}

    def _terms(self) -> dict[str, Tensor]:
        style, content = self._network(self.pixels)
        return {
            "content": _mean_of([
                (content[name] - f).square().mean() / (f.var(correction=0) + TINY)
                for name, f in self.content_targets.items()
            ]),
            "style": _mean_of([
                (gram(style[name]) - g).square().sum() / (g.square().sum() + TINY)
                for name, g in self.style_targets.items()
            ]),
            "tv": total_variation(self.pixels),
        }  # fmt: skip

    def _total(self, terms: dict[str, Tensor]) -> Tensor:
        task = self.task
        style = task.style_weight * terms["style"]
        return task.content_weight * terms["content"] + style + task.tv_weight * terms["tv"]


def _device(name: str) -> torch.device:
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be one that PyTorch has here, as 'cpu'; got {name!r}: {error}"
        ) from error


def _mean_of(terms: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms) / len(terms)
