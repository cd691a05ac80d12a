"""Networks in PyTorch: the tutorials' convolutional and recurrent ones."""

from typing import TYPE_CHECKING

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "this network needs PyTorch: pip install 'rmsprop[torch]'", name="torch"
    ) from error

from rmsprop.data import Dataset
from rmsprop.networks.cnn import CNN
from rmsprop.networks.recurrent import Recurrent

if TYPE_CHECKING:
    from rmsprop.tasks import Task

__all__ = ["CNN", "Recurrent", "build"]


def build(task: "Task", dataset: Dataset, seed: int) -> torch.nn.Module:
    """The network that a task names, with weights drawn by this seed; PyTorch's own stream is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if task.network == "cnn":
            assert dataset.image_shape is not None
            return CNN(
                dataset.image_shape, dataset.outputs, hidden=task.hidden, dropout=task.dropout
            )
        return Recurrent(
            task.embedding if dataset.image_shape is None else dataset.image_shape[1],
            task.hidden[0],
            dataset.outputs,
            cell=task.network,
            words=None if dataset.vocabulary is None else len(dataset.vocabulary),
            pool=task.pool,
            dropout=task.dropout,
        )
