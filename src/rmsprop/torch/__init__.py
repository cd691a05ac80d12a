"""RMSprop for PyTorch: `torch.optim.RMSprop` by changing one import, faster and smaller.

    from rmsprop.torch import RMSprop

`RMSprop` has PyTorch's names and state; `from_rule` makes an optimizer of any `rmsprop.Rule`;
`step_in_backward` updates each parameter as soon as its gradient is there.
"""

try:
    import torch as _torch  # noqa: F401  (before Numba: both bring an OpenMP, and PyTorch's must come first)
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "rmsprop.torch needs PyTorch: pip install 'rmsprop[torch]'", name="torch"
    ) from error

from rmsprop.torch.backward import step_in_backward
from rmsprop.torch.optimizer import RMSprop, RuleOptimizer, from_rule

__all__ = ["RMSprop", "RuleOptimizer", "from_rule", "step_in_backward"]
