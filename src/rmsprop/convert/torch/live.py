"""Live optimizers of PyTorch as targets: what they move, and how they take a translated state."""

from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.torch.files import state_dict_of
from rmsprop.convert.torch.loading import array


def outline(optimizer: Any) -> Checkpoint:
    """The names, or the places, of an optimizer's parameters, with their shapes; no numbers.

    A parameter of another type than float64 has its value here as float32.
    """
    entries: dict[str, Entry] = {}
    named = all("param_names" in group for group in optimizer.param_groups)
    for k, group in enumerate(optimizer.param_groups):
        for j, p in enumerate(group["params"]):
            name = group["param_names"][j] if named else str(len(entries))
            entries[name] = Entry(value=array(p.detach().cpu(), name), group=k)
    return Checkpoint("torch", "", [{}], entries, layout="torch", named=named)


def dialect_of(optimizer: Any) -> str:
    """Whose RMSprop an optimizer is: "torch", "timm" or "sb3".

    Raises ValueError where it is none.
    """
    names = {cls.__name__ for cls in type(optimizer).__mro__}
    for name, dialect in (("RMSpropTF", "timm"), ("RMSpropTFLike", "sb3"), ("RMSprop", "torch")):
        if name in names and all("alpha" in group for group in optimizer.param_groups):
            return dialect
    raise ValueError(
        f"the target is {type(optimizer).__name__}, and no RMSprop: its state would not be read"
    )


def rounded(checkpoint: Checkpoint, optimizer: Any, *, state: bool) -> list[str]:
    """The names of what parameters of two bytes, and with `state` their averages, would round."""
    import torch

    found = []
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    for p, (name, entry) in zip(moved, checkpoint.entries.items(), strict=True):
        arrays = [*(entry.slots.values() if state else ()), entry.value]
        tensors = [torch.from_numpy(np.array(a)) for a in arrays if a is not None]
        if p.element_size() == 2 and any((t.to(p.dtype).to(t.dtype) != t).any() for t in tensors):
            found.append(name)
    return found


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
            if entry.value is not None:
                p.copy_(torch.from_numpy(np.array(entry.value)))
