"""Reading: any file, or a live optimizer, as a Checkpoint."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmsprop.convert import kinds
from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.dialects import DIALECTS, PRESETS
from rmsprop.rule import Rule, near


def read(
    source: Any, dialect: str | None = None, *, params: Any = None, **fields: Any
) -> Checkpoint:
    """The optimizer state, and the parameters where they are there, of a file or a live optimizer.

    Parameters
    ----------
    source
        A path: a file of `torch.save`, stable-baselines3's .zip, .safetensors, .keras, .weights.h5, the
        prefix of a TensorFlow checkpoint, .msgpack, an Orbax folder.  Or an optimizer of `torch.optim`,
        `rmsprop.torch` or `rmsprop.numpy`, the state dict of one, a compiled Keras model, or an Optax state.
    dialect
        Whose RMSprop wrote it, a key of `rmsprop.DIALECTS`. Default: what the file says.
    params
        Where the parameters and their names are, if not in the source: a path, or (for an Optax state) the
        tree.
    **fields
        Fields of `rmsprop.Rule` that the file does not say, such as momentum=0.9. They win over the file's.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is missing, damaged, not known, or of another optimizer.
    ModuleNotFoundError
        Where a package is needed to read it, with what to install.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop.numpy import RMSprop
    >>> optimizer = RMSprop(0.1)
    >>> _ = optimizer.update({"w": np.ones(2)}, {"w": np.ones(2)})
    >>> found = read(optimizer)
    >>> found.step, found.entries["w"].slots["v"].round(3)
    (1, array([0.1, 0.1]))
    """
    _check_told(dialect, fields)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        with plainly():
            found = kinds.module(kinds.kind_of(path)).read(path, fields)
    else:
        found = _of_live(source, params, fields)
    if isinstance(params, str | os.PathLike):
        found = with_params(found, read(params))
    if dialect and found.dialect not in ("", dialect):
        raise ValueError(
            f"the state is of the dialect {found.dialect}, and you say {dialect} (--from): to go on by "
            f"another rule, --as {dialect} (dialect={dialect!r} of write)"
        )
    if dialect:
        found = replace(found, dialect=dialect)
    elif not found.dialect and found.groups == [{}] and fields:
        found = replace(found, groups=[dict(fields)])
    _note_differences(found, fields)
    return replace(found, groups=[group | fields for group in found.groups])


def _note_differences(found: Checkpoint, fields: dict[str, Any]) -> None:
    for name, told in fields.items():
        said = {group[name] for group in found.groups if name in group and group[name] != told}
        if said:
            theirs = " and ".join(map(str, sorted(said)))
            found.notes.append(f"{name} is {told}, as you say; the file says {theirs}")


_LONGEST = 2000


def printable(text: str) -> str:
    """Text with words from a stranger's file, without what a terminal or a log would obey.

    Examples
    --------
    >>> print(printable("w\\x1b[2J"))
    w\\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """What is said of a file in one line, whatever names the file has in it."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST - 500]} ... {text[-500:]}"
        error.args = (printable(text),)
        raise


def _check_told(dialect: str | None, fields: dict[str, Any]) -> None:
    known = DIALECTS | PRESETS
    if dialect is not None and dialect not in known:
        raise ValueError(f"unknown dialect {dialect!r}{near(dialect, known)}")
    Rule.from_dict({"lr": 0.0} | fields)  # raises for what no rule has


def _of_live(source: Any, params: Any, fields: dict[str, Any]) -> Checkpoint:
    """By what it has, so that no framework is imported that is not there."""
    if hasattr(source, "optimizer") and hasattr(source, "trainable_variables"):
        return kinds.module("keras").of_model(source, fields)
    if hasattr(source, "param_groups"):
        return kinds.module("torch").of_state_dict(source.state_dict(), fields)
    if isinstance(source, dict) and "param_groups" in source:
        return kinds.module("torch").of_state_dict(source, fields)
    if hasattr(source, "state_dict") and hasattr(source, "rule"):
        return kinds.module("numpy").of_optimizer(source)
    if isinstance(source, tuple | dict):
        from rmsprop.convert.optax import states

        return states.of_state(source, params, told=fields)
    raise TypeError(
        f"cannot read optimizer state from {type(source).__name__}: give a path, an optimizer, "
        "a compiled Keras model or an Optax state"
    )


def with_params(state: Checkpoint, params: Checkpoint) -> Checkpoint:
    """A checkpoint with the values, and if it has none of its own the names, of another file.

    Raises ValueError where the two do not belong together.
    """
    ours, theirs = state.entries, params.entries
    if set(ours) <= set(theirs):
        pairs = {name: name for name in ours}
    elif len(ours) == len(theirs) and not (state.named and params.named):
        pairs = dict(zip(ours, theirs, strict=True))
    else:
        raise ValueError(
            f"the parameters are not those of the state: {len(theirs)} there ({', '.join([*theirs][:5])}), "
            f"{len(ours)} here ({', '.join([*ours][:5])})"
        )
    entries: dict[str, Entry] = {}
    for name, other in pairs.items():
        entry, found = ours[name], theirs[other]
        if entry.slots and entry.shape != found.shape:
            raise ValueError(
                f"{other!r} is {list(found.shape)}, and the state of the parameter at its place "
                f"{list(entry.shape)}: these are not the parameters of this state"
            )
        entries[other] = replace(entry, value=found.value, role=entry.role or found.role)
    return replace(state, entries=entries, named=params.named, layout=state.layout or params.layout)
