"""Writing: a Checkpoint translated for another framework, as a whole or not at all."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rmsprop.convert import kinds
from rmsprop.convert.checkpoint import Checkpoint
from rmsprop.convert.losses import Loss
from rmsprop.convert.names import Names
from rmsprop.convert.reading import plainly, read
from rmsprop.convert.translate import translate
from rmsprop.convert.translation import Translation
from rmsprop.rule import Rule, near


def write(
    checkpoint: Checkpoint,
    target: Any,
    to: str | None = None,
    *,
    dialect: str | None = None,
    lr: float | Sequence[float] | None = None,
    step: int | None = None,
    names: Names = None,
    like: str | Path | None = None,
    accept: Collection[str] = (),
    dry_run: bool = False,
) -> Translation:
    """Translate a checkpoint, and write it to a file, or load it into a live optimizer.

    Parameters
    ----------
    checkpoint
        What `read` returned.
    target
        A path; or an optimizer of `torch.optim`, `rmsprop.torch` or `rmsprop.numpy`, or a compiled Keras
        model, which takes the state. For an Optax state, which is immutable, see
        `rmsprop.convert.optax.states.into_state`.
    to
        "torch", "timm", "sb3", "bitsandbytes", "keras", "tf1", "optax" or "numpy". Default: by the path's
        ending.
    dialect, lr, step, names
        As in `translate`.
    like
        The path of a checkpoint of the target's model, whose names, order, shapes and, for Keras and
        stable-baselines3, whose model is taken.
    accept
        The names of the losses that are accepted: "eps", "weight_decay", "centered", "precision",
        "missing", "step", "groups", ...
    dry_run
        Translate and check, but write nothing.

    Raises
    ------
    Unfaithful, ValueError
        Where the translation loses something that was not accepted, and as `translate`. Nothing has been
        written then.
    OSError
        Where the file cannot be written; what was there before stays.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop.numpy import RMSprop
    >>> optimizer, other = RMSprop(0.1), RMSprop(0.1)
    >>> _ = optimizer.update({"w": np.ones(2)}, {"w": np.ones(2)})
    >>> _ = write(read(optimizer), other)
    >>> other.step_count
    1
    """
    path = Path(target) if isinstance(target, str | os.PathLike) else None
    if to == "timm":  # PyTorch's files, and a rule of its own
        to, dialect = "torch", dialect or to
    kind, file = _live_kind(target, to) if path is None else kinds.target_of(path, to)
    if path is not None and like is None and file in _TEMPLATED:
        raise ValueError(f"{path} holds the model too: {_TEMPLATED[file]}")
    template = None if like is None else read(like)
    if path is None:
        template, dialect = _of_target(target, kind, dialect)
        lr = _own_rate(checkpoint, target, kind) if lr is None else lr
    with plainly():
        done = translate(
            checkpoint, kind, dialect=dialect, lr=lr, step=step, names=names, like=template
        )
        if path is None:
            _note_rounding(done, target, kind)
        if lr is None:
            _check_schedule(done, template)
        check_accepted(done, accept)
        if not dry_run:
            if path is None:
                _load(done.checkpoint, target, kind)
            else:
                kinds.module(file).write(
                    path, done.checkpoint, None if like is None else Path(like)
                )
    return done


_TEMPLATED = {
    "keras": "give --like model.keras (like=...), saved by the model that is to go on",
    "sb3": "give --like fresh.zip (like=...), saved by the model that is to go on",
}
"""Kinds of file that no state alone can make, and the remedy."""

ACCEPTED = (
    "eps", "weight_decay", "initial_scale", "step", "groups", "missing", "precision", "buffers", "chain",
    "ema", "accumulation", "gru", *Rule().to_dict(),
)  # fmt: skip
"""Names of losses."""


class Unfaithful(ValueError):
    """A translation that loses something which nobody has accepted; `translation` is what it would be."""

    def __init__(self, message: str, translation: Translation):
        super().__init__(message)
        self.translation = translation


def check_accepted(done: Translation, accept: Collection[str]) -> None:
    """Raise `Unfaithful` for losses that nobody has accepted, with the words that accept them."""
    unknown = [name for name in accept if name not in ACCEPTED]
    if unknown:
        raise ValueError(f"no loss is named {unknown[0]!r}{near(unknown[0], ACCEPTED[:12])}")
    lost = [loss for loss in done.losses if loss.name not in accept]
    if lost:
        reasons = "; ".join(f"{loss.name}: {loss.why}" for loss in lost)
        words = ",".join(loss.name for loss in lost)
        raise Unfaithful(
            f"the run would not go on as it was, so nothing is written. {reasons}. To accept it: --accept "
            f"{words} (accept={[loss.name for loss in lost]})",
            done,
        )


def _live_kind(target: Any, to: str | None) -> tuple[str, str]:
    if hasattr(target, "optimizer") and hasattr(target, "trainable_variables"):
        found = "keras"
    elif hasattr(target, "param_groups"):
        found = "torch"
    elif hasattr(target, "load_state_dict") and hasattr(target, "rule"):
        found = "numpy"
    else:
        raise TypeError(
            f"cannot load optimizer state into {type(target).__name__}: give a path, an "
            "optimizer of PyTorch or rmsprop.numpy, or a compiled Keras model"
        )
    if to not in (None, found):
        raise ValueError(f"the target is of {found}, and not of {to}")
    return found, found


def _of_target(target: Any, kind: str, dialect: str | None) -> tuple[Checkpoint | None, str | None]:
    """The names and shapes of a live target, and whose rule it computes."""
    if kind == "numpy":
        return None, dialect
    own = type(target.optimizer if kind == "keras" else target).__module__
    if kind == "keras":
        dialect = dialect or (None if own.startswith("rmsprop.") else kind)
        return kinds.module(kind).of_model(target, {}), dialect
    from rmsprop.convert.torch.live import dialect_of, outline

    if not own.startswith("rmsprop."):
        dialect = dialect or dialect_of(target)
    return outline(target), dialect


def _own_rate(checkpoint: Checkpoint, target: Any, kind: str) -> float | None:
    """The next step's learning rate where a live target keeps its own, and it is another; else None."""
    if kind == "torch":
        return None
    own = kinds.module(kind).own_rate(target)
    said = {group.get("lr") for group in checkpoint.groups}
    if own is None or len(said) != 1 or any(x and abs(x - own) <= 1e-6 * x for x in said):
        return None
    checkpoint.notes.append(f"the learning rate is the target's own, {own:g}")
    return own


def _check_schedule(done: Translation, template: Checkpoint | None) -> None:
    """Raise ValueError for a buffer in the unit of a rate that the target's schedule need not have."""
    scheduled = template is not None and template.dialect and "lr" not in template.groups[0]
    if scheduled and any(row.part == "b" and row.exact == "rounded" for row in done.rows):
        raise ValueError(
            "the target's learning rate is a schedule: give that of its next step, into whose unit the "
            "momentum buffer is brought, --lr 0.001"
        )


def _note_rounding(done: Translation, target: Any, kind: str) -> None:
    """Name the loss where a live target of two bytes would round."""
    if kind == "torch":
        from rmsprop.convert.torch.live import rounded

        own = type(target).__module__.startswith("rmsprop.")
        names = rounded(done.checkpoint, target, state=not own)
    else:
        names = kinds.module(kind).rounded(done.checkpoint, target) if kind == "keras" else []
    if names:
        why = f"{', '.join(names[:5])} would be rounded to the target's two bytes"
        done.losses.append(Loss("precision", why))


def _load(checkpoint: Checkpoint, target: Any, kind: str) -> None:
    if kind == "keras":
        kinds.module(kind).into_model(checkpoint, target)
    elif kind == "torch":
        from rmsprop.convert.torch.live import load

        load(checkpoint, target)
    else:
        _check_rule(checkpoint.rule(), target.rule)
        target.load_state_dict(kinds.module(kind).state_of(checkpoint))


def _check_rule(wanted: Rule, own: Rule) -> None:
    """Raise ValueError where a live target that keeps its own rule computes another; lr is its own."""
    ours, theirs = own.to_dict(), wanted.to_dict()
    differ = [f"{k} {ours[k]}, not {theirs[k]}" for k in ours if ours[k] != theirs[k] and k != "lr"]
    if differ:
        raise ValueError(
            f"the target computes another rule ({', '.join(differ)}): make it with that of the checkpoint, "
            f"{wanted!r}"
        )
