"""Live optimizers of PyTorch as targets: what they move, and how they take a translated state."""

from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.torch.files import state_dict_of


def outline(optimizer: Any) -> Checkpoint:
    """The names, or the places, of an optimizer's parameters, with their shapes; no numbers.

    A parameter's value here is zeros in no memory, of float64 for float64 and else of float32.
    """
    entries: dict[str, Entry] = {}
    named = all("param_names" in group for group in optimizer.param_groups)
    for k, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            name = group["param_names"][j] if named else str(len(entries))
            zero = np.zeros((), np.float64 if str(p.dtype) == "torch.float64" else np.float32)
            entries[name] = Entry(value=np.broadcast_to(zero, tuple(p.shape)), group=k)
    return Checkpoint("torch", "", [{}], entries, layout="torch", named=named)


def load(checkpoint: Checkpoint, optimizer: Any) -> None:
    """Give an optimizer a translated state, and its parameters their values where these are known.

    Raises ValueError where the groups are others than the optimizer's; nothing has changed then.
    """
    import torch

    if len(checkpoint.groups) != len(optimizer.param_groups):
        raise ValueError(
            f"the state has {len(checkpoint.groups)} groups of parameters and the optimizer "
            f"{len(optimizer.param_groups)}: make it with the same groups"
        )
    optimizer.load_state_dict(state_dict_of(checkpoint))
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    with torch.no_grad():
        for p, entry in zip(moved, checkpoint.entries.values(), strict=True):
            if entry.value is not None and entry.slots:
                p.copy_(torch.from_numpy(np.array(entry.value)))
