"""Our own files: the state that `rmsprop.numpy` saves, with or without the parameters beside it.

One safetensors file: the arrays "square_avg/NAME", "grad_avg/NAME", "momentum_buffer/NAME" and
"params/NAME", and a header of JSON with the rule, the step, the order of the names and a SHA-256.
`Optimizer.load` of `rmsprop.numpy` reads it; `rmsprop train` writes "params/NAME" alone.
"""

from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import files
from rmsprop.convert.checkpoint import Array, Checkpoint, Entry
from rmsprop.rule import Rule
from rmsprop.state import FILE_KIND, SLOTS

_KINDS = (FILE_KIND, "rmsprop model", "rmsprop checkpoint")
_LETTERS = {name: slot for slot, name in SLOTS.items()}
_DTYPES = ("float32", "float64")


def read(path: Path, told: dict[str, Any]) -> Checkpoint:
    """What `Optimizer.save` of `rmsprop.numpy`, `rmsprop train` or `write` wrote.

    Of a folder of `rmsprop train` the newest checkpoint is read.

    Raises FileNotFoundError, and ValueError for a file that is damaged or not one of ours.
    """
    path = _newest(path) if path.is_dir() else path
    arrays, header = files.load_arrays(path, *_KINDS)
    try:
        return of_arrays(arrays, header)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _newest(folder: Path) -> Path:
    return max(
        [p for where in ("", "checkpoints") for p in (folder / where).glob("step-*.safetensors")],
        key=lambda p: p.name,
    )


def of_arrays(arrays: dict[str, Array], header: dict[str, Any]) -> Checkpoint:
    """The checkpoint of a file's arrays and its header."""
    if header["kind"] == "rmsprop checkpoint":
        arrays, header = _of_training(arrays, header)
    entries: dict[str, Entry] = {name: Entry() for name in _names(header)}
    left = {}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        if part != "params" and part not in _LETTERS:
            left[key] = "of the training, not of the optimizer"
            continue
        entry = entries.setdefault(name, Entry())
        array = np.asarray(array, _dtype(key, array))
        if part == "params":
            entry.value = array
        else:
            entry.slots[_LETTERS[part]] = array
    _check_shapes(entries)
    for name, role in _roles(header).items():
        if name in entries:
            entries[name].role = role
    rule = header.get("rule")
    groups = [{} if rule is None else Rule.from_dict(rule).to_dict()]
    return Checkpoint(
        "numpy",
        "",
        groups,
        entries,
        _step(header),
        _layout(header),
        bool(header.get("named", True)),
        left,
        ordered=bool(header.get("ordered", "names" in header)),
    )


def of_optimizer(optimizer: Any) -> Checkpoint:
    """The checkpoint of a live optimizer of `rmsprop.numpy`."""
    state = optimizer.state_dict()
    arrays = {f"{name}/{path}": a for name in _LETTERS for path, a in state.pop(name, {}).items()}
    return of_arrays(arrays, {"kind": FILE_KIND, "ordered": True} | state)


def own_rate(optimizer: Any) -> float:
    """The learning rate of a live optimizer of `rmsprop.numpy`."""
    return float(optimizer.rule.lr)


def state_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `load_state_dict` of an optimizer of `rmsprop.numpy` takes."""
    rule = checkpoint.rule()
    slots = {
        SLOTS[slot]: {name: entry.slots[slot] for name, entry in checkpoint.entries.items()}
        for slot in rule.slots
    }
    return {"rule": rule.to_dict(), "step": checkpoint.step or 0, "skipped": 0} | slots


def write(path: Path, checkpoint: Checkpoint, like: Path | None) -> None:
    """Write a checkpoint to a file that `rmsprop.numpy` and `read` take, as a whole or not at all."""
    header = state_of(checkpoint)
    arrays = {
        f"{part}/{name}": a for part in SLOTS.values() for name, a in header.pop(part, {}).items()
    }
    for name, entry in checkpoint.entries.items():
        if entry.value is not None:
            arrays[f"params/{name}"] = entry.value
    order = {
        "names": list(checkpoint.entries),
        "layout": checkpoint.layout,
        "named": checkpoint.named,
        "ordered": checkpoint.ordered,
        "roles": {name: e.role for name, e in checkpoint.entries.items() if e.role},
    }
    files.save_arrays(path, arrays, {"kind": FILE_KIND} | header | order)


def _of_training(
    arrays: dict[str, Array], header: dict[str, Any]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """A checkpoint of `rmsprop train` in the words of an optimizer's file."""
    learner = header["learner"]
    optimizer = learner.get("optimizer")
    if optimizer is None:
        raise ValueError(
            "it is of a PyTorch training: save its state, torch.save(optimizer.state_dict(), path)"
        )
    found = {key.removeprefix("now/").removeprefix("state/"): a for key, a in arrays.items()}
    return found, {"kind": FILE_KIND, "rule": optimizer["rule"], "step": optimizer["step"]}


def _names(header: dict[str, Any]) -> list[str]:
    names = header.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("the order of its parameters is no list of names")
    return names


def _step(header: dict[str, Any]) -> int | None:
    step = header.get("step")
    if step is not None and (type(step) is not int or not 0 <= step < 2**63):
        raise ValueError(f"its step is {str(step)[:40]!r}, and no number of updates")
    return step


def _layout(header: dict[str, Any]) -> str:
    layout = header.get("layout", "")
    if layout not in ("", "torch", "keras"):
        raise ValueError(f"its layout is {str(layout)[:40]!r}, and not torch, keras or none")
    return layout


def _roles(header: dict[str, Any]) -> dict[str, str]:
    roles = header.get("roles", {})
    if not isinstance(roles, dict) or not all(isinstance(x, str) for x in roles.values()):
        raise ValueError("its header's roles are not words by name")
    return roles


def _dtype(key: str, array: Array) -> np.dtype:
    if array.dtype.name == "float16":
        return np.dtype(np.float32)
    if array.dtype.name not in _DTYPES:
        raise ValueError(f"{key} is {array.dtype}, and not float16, float32 or float64")
    return array.dtype


def _check_shapes(entries: dict[str, Entry]) -> None:
    for name, entry in entries.items():
        shapes = {a.shape for a in [*entry.slots.values(), entry.value] if a is not None}
        if len(shapes) != 1:
            raise ValueError(f"the arrays of {name!r} have the shapes {sorted(shapes)}")
