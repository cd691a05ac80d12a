"""The optimizer's step inside the backward pass: each gradient is applied when it is ready, and freed."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from rmsprop.torch.optimizer import RMSprop


def step_in_backward(model: torch.nn.Module | ParamsT, **options: Any) -> "InBackward":
    """Make `loss.backward()` update the parameters too, so that gradients never exist all at once.

    Peak memory drops by the size of the gradients. (On the CPU, Linux's malloc may keep what is freed:
    MALLOC_MMAP_THRESHOLD_=1000000 in the environment makes it give large tensors back.)

    What needs all gradients together is not possible: accumulating over several backward passes, clipping
    by the joint norm, GradScaler. A parameter moves once for each backward pass that reaches it, so with
    reentrant checkpointing (`use_reentrant=True`) one that several segments share moves once in each. The
    parameters know the optimizer until `remove_hooks()`; copies of either know nothing of the other.

    Parameters
    ----------
    model
        A module, whose parameters that require a gradient are taken; or what `RMSprop` takes.
    **options
        As for `RMSprop`.

    Returns
    -------
    InBackward
        An `RMSprop`. Its `step()` finds no gradient and changes nothing; call it all the same for learning
        rate schedulers, and for step hooks. `remove_hooks()` gives the parameters back.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = step_in_backward(model, lr=0.1)
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> model.weight.grad is None, int(optimizer.state[model.weight]["step"])
    (True, 1)
    """
    if isinstance(model, torch.nn.Module):
        model = [p for p in model.parameters() if p.requires_grad]
    return InBackward(model, **options)


class InBackward(RMSprop):
    """What `step_in_backward` returns.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = step_in_backward([weight], lr=0.1)
    >>> optimizer.remove_hooks()
    """

    def __init__(self, params: ParamsT, **options: Any):
        self._hooks: list[Any] = []
        super().__init__(params, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, whose parameters then move in backward too."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        before = sum([len(known["params"]) for known in self.param_groups[:-1]])
        # Now, and not between the gradients, whose freed memory could then not be used again as a whole.
        with torch.no_grad():
            self._start(group, group["params"])
        for place, p in enumerate(group["params"], before):
            if p.requires_grad:
                hook = self._hook(len(self.param_groups) - 1, place)
                self._hooks.append(p.register_post_accumulate_grad_hook(hook))

    def _hook(self, index: int, place: int) -> Any:
        def hook(p: Tensor) -> None:
            key = "in backward", place
            plan = self._plans.get(key)
            if plan is not None and plan.entries[0] is not self.state.get(p):
                del self._plans[key]
            with torch.no_grad():
                self._update(key, self.param_groups[index], [p], place)
            p.grad = None

        return hook

    def _most_plans(self) -> int:
        return super()._most_plans() + len(self._hooks)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._hooks = getattr(self, "_hooks", [])
        super().__setstate__(state)

    def remove_hooks(self) -> None:
        """Leave the parameters' gradients alone from now on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
