"""The optimizer's step inside the backward pass: each gradient is applied when it is ready, and freed."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rmsprop.torch.optimizer import RMSprop


def step_in_backward(model: torch.nn.Module | Iterable[Tensor], **options: Any) -> "InBackward":
    """Make `loss.backward()` update the parameters too, so that gradients never exist all at once.

    Peak memory drops by the size of the gradients. (On the CPU, Linux's malloc may keep what is freed:
    MALLOC_MMAP_THRESHOLD_=1000000 in the environment makes it give large tensors back.) What needs
    all gradients together is not possible: accumulating over several backward passes, clipping by the
    joint norm, GradScaler.

    Parameters
    ----------
    model
        A module, or its parameters; those that require no gradient are left out.
    **options
        As for `RMSprop`.

    Returns
    -------
    InBackward
        An `RMSprop`. Its `step()` finds no gradient and changes nothing; learning rate schedulers and
        `state_dict` work as ever. `remove_hooks()` gives the parameters back.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = step_in_backward(model, lr=0.1)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> model.weight.grad is None, int(optimizer.state[model.weight]["step"])
    (True, 1)
    """
    params = model.parameters() if isinstance(model, torch.nn.Module) else model
    return InBackward([p for p in params if p.requires_grad], **options)


class InBackward(RMSprop):
    """What `step_in_backward` returns.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = step_in_backward([weight], lr=0.1)
    >>> optimizer.remove_hooks()
    """

    def __init__(self, params: list[Tensor], **options: Any):
        super().__init__(params, **options)
        # Now, and not between the gradients, whose freed memory could then not be used again as a whole.
        self._start(self.param_groups[0], params)
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._hook(p, k)) for k, p in enumerate(params)
        ]

    def _hook(self, p: Tensor, place: int) -> Any:
        def hook(_: Tensor) -> None:
            with torch.no_grad():
                self._update(place, self.param_groups[0], [p], place)
            p.grad = None

        return hook

    def remove_hooks(self) -> None:
        """Leave the parameters' gradients alone from now on."""
        for hook in self._hooks:
            hook.remove()
