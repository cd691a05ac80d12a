"""Networks in PyTorch: the tutorials' convolutional and recurrent ones."""

from typing import Any

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "this network needs PyTorch: pip install 'rmsprop[torch]'", name="torch"
    ) from error

from rmsprop.networks.cnn import CNN
from rmsprop.networks.recurrent import Recurrent

__all__ = ["CNN", "Recurrent", "drawn"]


def drawn(
    seed: int, network: type[torch.nn.Module], *sizes: Any, **options: Any
) -> torch.nn.Module:
    """A network with weights drawn by this seed; PyTorch's own stream is left alone.

    Examples
    --------
    >>> a, b = (drawn(0, CNN, (8, 8), 10) for _ in range(2))
    >>> all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(*sizes, **options)
