"""In plain words and numbers: what a file holds, and how to go on with what was written."""

from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.convert import kinds
from rmsprop.convert.checkpoint import SLOTS, Checkpoint, Entry
from rmsprop.convert.losses import OWN, readers
from rmsprop.convert.reading import read
from rmsprop.rule import Rule

OF = {
    "torch": "PyTorch",
    "sb3": "stable-baselines3",
    "bitsandbytes": "bitsandbytes, 8 bits",
    "keras": "Keras",
    "tf1": "TensorFlow 1",
    "optax": "Optax",
    "numpy": "rmsprop.numpy",
    "parameters": "parameters alone",
}


def inspect(path: str | Path, dialect: str | None = None, **fields: Any) -> dict[str, Any]:
    """What is in a file, ready for JSON; no pickle in it can run code.

    Parameters
    ----------
    path, dialect, **fields
        As in `rmsprop.convert.read`.

    Returns
    -------
    dict
        The kind of file, the dialect, the rule as far as it is known, the step, each parameter with its
        shape, dtype and slots, what else the file holds, and notes.

    Raises
    ------
    FileNotFoundError, ValueError, ModuleNotFoundError
        As `read`.
    """
    unsaid = kinds.kind_of(Path(path)) == "tf1" and "momentum" not in fields
    found = read(path, dialect, **fields, **({"momentum": 1.0} if unsaid else {}))
    if unsaid:  # to look, it need not be said
        found.groups = [{k: x for k, x in g.items() if k != "momentum"} for g in found.groups]
        found.notes.append("whether there was momentum is not said: without, b is the last update")
    elif "b" in found.slots() and any("momentum" not in group for group in found.groups):
        found.notes.append("there is a momentum buffer, b; how much momentum is not said")
    return described(found) | {"file": str(path)}


def described(found: Checkpoint) -> dict[str, Any]:
    """A checkpoint in words and numbers."""
    try:
        rules = [found.rule(k).to_dict() for k in range(len(found.groups))]
    except ValueError:
        rules = []
    return {
        "kind": found.kind,
        "of": OF.get(found.kind, found.kind),
        "dialect": found.dialect or None,
        "step": found.step,
        "groups": found.groups,
        "rules": rules,
        "assumed": [found.assumed(k) for k in range(len(found.groups))],
        "parameters": [_parameter(name, entry) for name, entry in found.entries.items()],
        "left": found.left,
        "notes": found.notes,
    }


def _parameter(name: str, entry: Entry) -> dict[str, Any]:
    slots = {slot: entry.slots[slot] for slot in SLOTS if slot in entry.slots}
    arrays = ({} if entry.value is None else {"value": entry.value}) | slots
    v = entry.slots.get("v")
    with np.errstate(invalid="ignore", over="ignore"):
        mean = None if v is None or not v.size else float(np.sqrt(np.mean(v, dtype=np.float64)))
    return {
        "name": name,
        "shape": list(entry.shape),
        "group": entry.group,
        "holds": {part: a.dtype.name for part, a in arrays.items()},
        "root_mean_v": mean if mean is None or np.isfinite(mean) else None,
        "not_finite": int(sum(np.count_nonzero(~np.isfinite(a)) for a in arrays.values())),
    }


def going_on(checkpoint: Checkpoint) -> str:
    """Who can go on with a translated checkpoint."""
    rule = checkpoint.rule()
    own = readers(rule, checkpoint.kind)
    ours = {
        "torch": f"rmsprop.torch.from_rule(params, {rule!r})",
        "keras": "keras.saving.load_model, after `import rmsprop.keras`",
        "optax": f"rmsprop.jax.from_rule({rule!r})",
        "numpy": f"rmsprop.numpy.Optimizer({rule!r})",
    }
    if checkpoint.kind == "bitsandbytes":
        return "bitsandbytes.optim.RMSprop8bit"
    if checkpoint.kind in ours and not (own and checkpoint.kind == "optax"):
        own = [*own, ours[checkpoint.kind]]
    text = ", or ".join(own)
    if checkpoint.kind == "torch" and OWN["torch"] not in own:
        text += f". Not with {OWN['torch']}, which takes the file without a word and computes another rule"
    return text


def rule_line(rule: dict[str, Any]) -> str:
    """A rule in a line."""
    return repr(Rule.from_dict(rule))
