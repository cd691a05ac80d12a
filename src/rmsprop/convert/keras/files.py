"""Keras 3's `.keras` and `.weights.h5` files, read and written without Keras, and live models with it."""

from pathlib import Path
from typing import Any

from rmsprop.convert.checkpoint import Array, Checkpoint, Entry
from rmsprop.convert.keras import flatten as keras_flatten
from rmsprop.convert.keras import hdf5
from rmsprop.convert.keras import layers as keras_layers
from rmsprop.convert.keras import state as keras_state
from rmsprop.convert.keras.archive import Parts, load, ordered, pack, said
from rmsprop.convert.keras.compose import composed, floats, loose, unique
from rmsprop.convert.keras.layers import Node, Variable
from rmsprop.convert.keras.live import into_model, of_model, own_rate, rounded
from rmsprop.convert.keras.state import Setting, State
from rmsprop.convert.keras.writing import fill
from rmsprop.files import replacing

__all__ = ["into_model", "of_model", "own_rate", "read", "rounded", "write"]


def read(path: Path, told: dict[str, Any]) -> Checkpoint:
    """The parameters of a Keras file, and the state of its RMSprop.

    Names are those of Keras's layers from the outermost model inwards, "lstm/lstm_cell/kernel": what
    `variable.path` is in a functional model that was built and not loaded.

    Parameters
    ----------
    path
        A `.keras` or `.weights.h5` file.
    told
        Fields of the rule. A `.weights.h5` file says nothing of its rule: where it keeps two averages of
        each parameter, momentum or centered must be told.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is missing, damaged, hostile, of Keras 2, or that can be read in two ways.
    ModuleNotFoundError
        Without h5py.

    Examples
    --------
    >>> read(Path("model.keras"), {}).entries["dense/kernel"].slots["v"].shape  # doctest: +SKIP
    (784, 128)
    """
    path = Path(path)
    parts = load(path)
    try:
        return keras_flatten.marked(_checkpoint(parts, told), parts.config)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {said(error)}") from error


def write(path: Path, checkpoint: Checkpoint, like: Path | None) -> None:
    """Write a template again with the checkpoint's parameters and optimizer state.

    The optimizer becomes keras.optimizers.RMSprop where that computes the checkpoint's rule, and
    rmsprop.keras.RuleOptimizer otherwise; of the template's it keeps the schedule of the learning rate, the
    accumulation of gradients, which begins anew, and the loss scale.

    Parameters
    ----------
    path
        A name that ends in `.keras` or `.weights.h5`.
    checkpoint
        With the template's names and shapes, and all fields of the rule.
    like
        A file that Keras saved of the model that is to go on: a `.keras` file, or for a `.weights.h5` one
        of either.

    Raises
    ------
    FileNotFoundError, ValueError
        Where the template is missing or damaged, or does not fit. What was at `path` stays.
    """
    path, whole = Path(path), Path(path).name.endswith(".keras")
    if not whole and not path.name.endswith(".weights.h5"):
        raise ValueError(f"{path}: Keras reads files that end in .keras or .weights.h5")
    if like is None:
        raise ValueError(
            f"{path}: a {'.keras' if whole else '.weights.h5'} file holds the model too: give --like "
            "model.keras (like=...), saved by the model that is to go on"
        )
    parts = load(Path(like))
    try:
        fill(parts, checkpoint, whole)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, after {like}: {said(error)}") from error
    content = hdf5.write(parts.tree)
    with replacing(path) as temporary:
        if whole:
            pack(temporary, parts, content)
        else:
            temporary.write_bytes(content)


def _checkpoint(parts: Parts, told: dict[str, Any]) -> Checkpoint:
    serialized = keras_state.unwrapped(parts.compiled().get("optimizer"))
    group, arrays = parts.state()
    if not any(path.rpartition("/")[2] == "vars" for path in parts.tree.names):
        raise ValueError(
            "it holds no variables as Keras 3 stores them: load a .h5 file of Keras 2 with Keras, "
            "and save it as .keras"
        )
    node = parts.model()
    setting = keras_state.setting_of(serialized)
    if parts.config is None and arrays:
        setting, order = _told_apart(parts, node, arrays, told)
        notes = [
            "the file does not say which optimizer wrote it; taken for keras.optimizers.RMSprop"
        ]
    elif setting is None or not arrays:
        return _parameters(parts, node, serialized)
    else:
        state = keras_state.divided(setting, arrays)
        order, notes = ordered(parts, node, setting, state), []
    state = keras_state.divided(setting, arrays)
    count = len(next(iter(state.lists.values()), order or []))
    if order is None:
        notes.append(
            "which parameter is which is not known, so that they are left out: none, or more than one, order "
            "of the layers' variables has the shapes of the optimizer's"
            + ("" if parts.config else "; a .keras file tells the order")
        )
    names = unique(order or [Variable("", str(k)) for k in range(count)])
    values = [parts.tree.arrays[v.path] for v in order] if order else [None] * count
    result = composed(setting, state, told, names, values, notes)
    result.named = order is not None
    taken = {v.path for v in order or []}
    result.left |= {
        path: _what(path, group)
        for path in parts.tree.arrays
        if path not in taken and path.rpartition("/")[0] != group
    }
    return result


def _parameters(parts: Parts, node: Node, serialized: Any) -> Checkpoint:
    """A file without the state of an RMSprop: its parameters."""
    order = keras_layers.certain(node)
    found = unique(keras_layers.everything(keras_layers.thawed(node)) if order is None else order)
    entries = {
        v.name: Entry({}, floats(parts.tree.arrays[v.path], v.name), 0, v.role) for v in found
    }
    kind = keras_state.own_class(serialized)
    if keras_state.setting_of(serialized) is not None:
        note = "the optimizer has made no step"
    elif kind:
        note = f"the optimizer is {kind}, not RMSprop: only the parameters are read"
    else:
        note = "the file holds parameters only"
    taken = {v.path for v in found}
    left = {p: _what(p, "") for p in parts.tree.arrays if p not in taken}
    return Checkpoint("keras", "", [{}], entries, None, "keras", True, left, [note])


def _told_apart(
    parts: Parts, node: Node, arrays: list[Array], told: dict[str, Any]
) -> tuple[Setting, list[Variable] | None]:
    """What a bare list of variables is, by the shapes of the layers' variables."""
    settings = keras_state.guessed(arrays, told.get("momentum"), told.get("centered"))
    scalar = any(parts.tree.arrays[v.path].shape == () for v in keras_layers.everything(node))
    if arrays[1:] and arrays[1].shape == () and not scalar:  # no parameter's: the learning rate
        settings = [s for s in settings if not s.schedule]
    settings = [s for s in settings if _plausible(keras_state.divided(s, arrays))]
    orders = [ordered(parts, node, s, keras_state.divided(s, arrays)) for s in settings]
    fitting = [(s, o) for s, o in zip(settings, orders, strict=True) if o is not None]
    fitting = fitting or [(s, None) for s in settings]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise ValueError(
            "the optimizer's variables are not those of an RMSprop, or not of one with the momentum and "
            "centered that were told; a .keras file says what they are"
        )
    raise ValueError(
        "the optimizer's variables can be read in more than one way, with and without momentum or centered: "
        "say which, --from keras:momentum=0.9 or --from keras:centered=true, or give the .keras file"
    )


def _plausible(state: State) -> bool:
    """Whether the first list can be of averaged squares: not below 0, and not all 0 beside others."""
    lists = list(state.lists.values())
    if any((loose(a) < 0).any() for a in state.lists.get("v", [])):
        return False
    moved = [any(loose(a).any() for a in part) for part in lists]
    return not moved or moved[0] or not any(moved)


def _what(path: str, group: str) -> str:
    if path.startswith("optimizer/"):
        return "state of another optimizer" if not group else "state of the loss scale"
    return "state of a random generator" if "seed_generator" in path else "not trained"
