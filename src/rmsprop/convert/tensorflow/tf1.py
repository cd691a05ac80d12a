"""TensorFlow 1's RMSProp: the slots in checkpoints of `tf.compat.v1.train.RMSPropOptimizer`.

A `Saver` names what it keeps of a parameter w after the optimizer ("RMSProp", or its `name`), in the order
in which the slots were made; `tf.train.Checkpoint` names it after the slot:

    v    w/RMSProp       w/.OPTIMIZER_SLOT/optimizer/rms
    m    w/RMSProp_1     w/.OPTIMIZER_SLOT/optimizer/mg           centered only
    b    w/RMSProp_1     w/.OPTIMIZER_SLOT/optimizer/momentum     w/RMSProp_2 where there is m

b is there whether or not there was momentum, and holds the last update where there was none.  Within a
variable scope "a" the slots of "a/w" are named "a/a/w/RMSProp".

Source: tensorflow/python/training/rmsprop.py, slot_creator.py.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import Checkpoint, Entry
from rmsprop.convert.tensorflow.bundle import read_bundle, read_index
from rmsprop.convert.tensorflow.bundle_writing import write_bundle
from rmsprop.convert.tensorflow.slots import NAME, Scheme, find_scheme

Array = np.ndarray[Any, Any]

ROLES = (
    "kernel", "bias", "embeddings", "gamma", "beta", "recurrent_kernel", "depthwise_kernel",
    "pointwise_kernel",
)  # fmt: skip
_FILE = re.compile(r"(?s)(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")
_LATEST = re.compile(r'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\]|\\.)*)"', re.M)

MOMENTUM = (
    "a TensorFlow 1 checkpoint keeps a momentum slot whether or not there was momentum: say which, "
    "--from tf1:momentum=0.9 or tf1:momentum=0"
)


def read(path: str | Path, told: dict[str, Any]) -> Checkpoint:
    """Parameters and slots of a checkpoint that TensorFlow 1's RMSPropOptimizer trained.

    Parameters
    ----------
    path
        The checkpoint's prefix, one of its files, or a folder whose file `checkpoint` names the latest.
    told
        Fields of `Rule`; "momentum" must be among them where there are slots, as the file does not say it.

    Raises
    ------
    FileNotFoundError, ValueError
        Where files are missing, damaged or of another kind, or what is told contradicts them.

    Examples
    --------
    >>> import tempfile
    >>> ones = np.ones(2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arrays = {"w": ones, "w/RMSProp": ones, "w/RMSProp_1": 0 * ones}
    ...     write_bundle(f"{folder}/model.ckpt-7", arrays | {"global_step": np.array(7)})
    ...     found = read(f"{folder}/model.ckpt-7", {"momentum": 0.9})
    >>> found.step, found.groups, sorted(found.entries["w"].slots)
    (7, [{'momentum': 0.9, 'centered': False}], ['b', 'v'])
    """
    prefix = find_prefix(path)
    scheme = find_scheme(prefix)
    arrays, _ = read_bundle(prefix)
    found = Checkpoint(
        "tf1", "tf1", [dict(told)], left=dict(scheme.left), layout="keras", ordered=False
    )
    if scheme.step:
        found.step = int(arrays[scheme.step])
        if found.step < 0:
            raise ValueError(f"{prefix}: {scheme.step} is {found.step}, but steps count from 0")
    if scheme.slots:
        found.groups[0] |= _told(prefix, scheme, told)
    letters = "vmb" if scheme.centered else "vb"
    kept = letters if found.groups[0].get("momentum") else letters[:-1]
    for name in scheme.slots or scheme.values:
        names = dict(zip(letters, scheme.slots.get(name, []), strict=False))
        slots = {letter: arrays[names[letter]] for letter in kept if letter in names}
        value = arrays[scheme.values[name]] if name in scheme.values else None
        found.entries[name] = Entry(slots, value, role=_role(name))
    _note(found, scheme)
    return found


def write(path: str | Path, checkpoint: Checkpoint, like: str | Path | None = None) -> None:
    """Write parameters and slots for TensorFlow 1's `Saver.restore`.

    The names are those of an optimizer that is called "RMSProp" and stands in no variable scope, and of a
    counter "global_step"; with `like`, those of that checkpoint.

    Parameters
    ----------
    path
        The new checkpoint's prefix, as "runs/model.ckpt-100".
    checkpoint
        In TensorFlow 1's dialect, names and layout. Without momentum the momentum slots are zeros:
        TensorFlow overwrites them before it uses them.
    like
        A checkpoint that TensorFlow's Saver wrote for the same model: its names are taken, and all of
        its tensors that the checkpoint has not, such as a BatchNorm's averages.

    Raises
    ------
    ValueError
        For a checkpoint that does not fit `like`, or that TensorFlow cannot hold.
    OSError
        Where the files cannot be written; what was there before is kept.

    Examples
    --------
    >>> import tempfile
    >>> w = Entry({"v": np.ones(2), "b": np.zeros(2)}, np.ones(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/model", Checkpoint("tf1", entries={"w": w}, step=7))
    ...     list(read_bundle(f"{folder}/model")[0])
    ['global_step', 'w', 'w/RMSProp', 'w/RMSProp_1']
    """
    if Path(path).is_dir():
        raise ValueError(
            f"{path} is a folder: name a checkpoint in it, {Path(path) / 'model.ckpt'}"
        )
    prefix = _stripped(Path(path))
    for name, entry in checkpoint.entries.items():
        _check(name, entry)
    write_bundle(prefix, _named(checkpoint) if like is None else _filled(checkpoint, like))


def find_prefix(path: str | Path) -> Path:
    """The prefix that is meant by a prefix, a file of a checkpoint, or a folder of checkpoints.

    Raises FileNotFoundError, and ValueError for a folder whose file `checkpoint` names none.

    Examples
    --------
    >>> str(find_prefix("runs/model.ckpt-7.data-00000-of-00001"))
    'runs/model.ckpt-7'
    """
    path = Path(path)
    if path.is_dir():
        path = path / "checkpoint"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: name a checkpoint in the folder by the prefix of its files, as "
                f"{path.parent / 'model.ckpt-100'}"
            )
    if path.name != "checkpoint" or not path.is_file():
        return _stripped(path)
    with path.open("rb") as file:
        text = file.read(1 << 20).decode("utf-8", "replace")
    latest = _LATEST.search(text)
    # The folder may have moved since: of an absolute path too only the last part counts.
    name = re.split(r"[/\\]", latest[1])[-1] if latest else ""
    if name in ("", ".", "..") or not name.isprintable():
        raise ValueError(f"{path} names no model_checkpoint_path: name a checkpoint by its prefix")
    return path.parent / name


def _stripped(path: Path) -> Path:
    found = _FILE.fullmatch(path.name)
    return path.with_name(found[1]) if found else path


def _told(prefix: Path, scheme: Scheme, told: dict[str, Any]) -> dict[str, Any]:
    if "momentum" not in told:
        raise ValueError(MOMENTUM)
    if told.get("centered", scheme.centered) != scheme.centered:
        count = 3 if scheme.centered else 2
        raise ValueError(
            f"{prefix} has {count} slots for each parameter, so its optimizer had centered="
            f"{scheme.centered}: do not say centered={told['centered']}"
        )
    return {"momentum": told["momentum"], "centered": scheme.centered}


_SLIM = {"weights": "kernel", "biases": "bias"}
"""What TF-Slim calls them."""


def _role(name: str) -> str:
    """Its part in a layer, but for cells of TensorFlow 1, whose kernels have an order of their own."""
    stem, _, last = name.rpartition("/")
    last = _SLIM.get(last, last)
    return last if last in ROLES and not stem.endswith("_cell") else ""


def _note(found: Checkpoint, scheme: Scheme) -> None:
    if scheme.slots and not found.groups[0]["momentum"]:
        found.notes.append(
            "momentum is 0: the momentum slots hold the last update, and are left out"
        )
    if not scheme.slots:
        found.notes.append("there are no slots of RMSProp: parameters only")
    arrays = [a for e in found.entries.values() for a in e.slots.values()]
    if any(a.dtype == np.float64 for a in arrays):
        found.notes.append(
            "TensorFlow 1 rounds lr, decay, momentum and eps to float32, also for float64 parameters: "
            "for the same numbers give them so, as float(numpy.float32(0.9))"
        )


# Writing.


def _check(name: str, entry: Entry) -> None:
    arrays = [*entry.slots.values(), *([] if entry.value is None else [entry.value])]
    if any(a.shape != entry.shape or a.dtype != arrays[0].dtype for a in arrays):
        shown = ", ".join(f"{a.dtype}{a.shape}" for a in arrays)
        raise ValueError(
            f"TensorFlow 1 keeps {name} and its slots in one shape and type; they are {shown}: "
            "cast them first"
        )
    if arrays and arrays[0].dtype not in (np.float32, np.float64):
        raise ValueError(f"{name} is {arrays[0].dtype}: only float32 and float64 are written")


def _parts(entry: Entry) -> list[Array]:
    """The slots in TensorFlow's order."""
    v = entry.slots["v"]
    b = entry.slots.get("b", np.zeros_like(v))
    return [v, entry.slots["m"], b] if "m" in entry.slots else [v, b]


def _named(checkpoint: Checkpoint) -> dict[str, Array]:
    found: dict[str, Array] = {}

    def add(name: str, a: Array) -> None:
        if name in found:
            raise ValueError(f"two tensors would be named {name!r}: rename a parameter, --map")
        found[name] = a

    for name, entry in checkpoint.entries.items():
        if entry.value is not None:
            add(name, entry.value)
        if "v" in entry.slots:
            for k, a in enumerate(_parts(entry)):
                add(f"{name}/{NAME}" + (f"_{k}" if k else ""), a)
    if checkpoint.step is not None:
        add("global_step", np.array(checkpoint.step, np.int64))
    return found


def _filled(checkpoint: Checkpoint, like: str | Path) -> dict[str, Array]:
    """All of the template, with the checkpoint's numbers in their places."""
    prefix = find_prefix(like)
    scheme = find_scheme(prefix)
    arrays, skipped = read_bundle(prefix)
    if scheme.objects:
        raise ValueError(
            f"{prefix} was written by tf.train.Checkpoint, which is not written here: give one of "
            "tf.compat.v1.train.Saver"
        )
    narrow = [
        name for name, item in read_index(prefix)[0].items()
        if item.type_name in ("float16", "bfloat16")
    ]  # fmt: skip
    if skipped or narrow:
        raise ValueError(
            f"{prefix} holds {[*skipped, *narrow][0]!r}, which cannot be copied: only tensors of float32, "
            "float64, int32 and int64 can; make a checkpoint of those, Saver(var_list=[...])"
        )
    for name, entry in checkpoint.entries.items():
        _fill(arrays, scheme, name, entry, prefix)
    lacking = [name for name in scheme.slots if name not in checkpoint.entries]
    if lacking:
        raise ValueError(
            f"{prefix} has {lacking[0]!r}, but there is no such parameter: name it, --map"
        )
    if checkpoint.step is not None:
        name = scheme.step or "global_step"
        kept = arrays.get(name)
        arrays[name] = np.array(checkpoint.step, np.int64 if kept is None else kept.dtype)
    return arrays


def _fill(arrays: dict[str, Array], scheme: Scheme, name: str, entry: Entry, prefix: Path) -> None:
    parts = _parts(entry) if "v" in entry.slots else []
    names = scheme.slots.get(name, [])
    if name not in arrays or (parts and len(parts) != len(names)):
        raise ValueError(
            f"{prefix} has no {name!r} with {len(parts)} slots; it has "
            f"{', '.join(f'{key} with {len(known)}' for key, known in [*scheme.slots.items()][:8])}"
        )
    new = dict(zip(names, parts, strict=True)) if parts else {}
    if entry.value is not None:
        new[name] = entry.value
    for key, a in new.items():
        if (a.shape, a.dtype) != (arrays[key].shape, arrays[key].dtype):
            kept = arrays[key]
            raise ValueError(f"{key} is {a.dtype}{a.shape}, in {prefix} {kept.dtype}{kept.shape}")
        arrays[key] = a
