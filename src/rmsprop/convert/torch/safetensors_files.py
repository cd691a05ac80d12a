"""Parameters alone, in .safetensors files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from rmsprop.convert.checkpoint import Array, Checkpoint, Entry

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
LAYOUTS = {"pt": "torch", "tf": "keras", "flax": "keras"}
"""What a file's metadata call its framework, and how that keeps weights."""


def read(path: Path, told: dict[str, Any]) -> Checkpoint:
    """The parameters of a .safetensors file; the format keeps no order, so they come in their names'.

    Parameters
    ----------
    path
        The file.
    told
        Fields of `Rule`, kept for the one group.

    Raises
    ------
    FileNotFoundError, ValueError
        Where it is missing, damaged, or holds what cannot be translated.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "model.safetensors"
    ...     _ = path.write_bytes(safetensors.numpy.save({"w": np.ones(2, np.float32)}))
    ...     read(path, {}).entries["w"].value
    array([1., 1.], dtype=float32)
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.deserialize(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file: {str(error)[:200]}"
        ) from error
    made = Checkpoint(
        "numpy",
        groups=[dict(told)],
        layout=LAYOUTS.get(metadata.get("format", ""), ""),
        ordered=False,
    )
    made.kind = "torch" if made.layout == "torch" else "numpy"
    for name, found in sorted(tensors):
        if name.rsplit(".", 1)[-1] in BUFFERS or re.match(r"[IU]\d|BOOL", found["dtype"]):
            made.left[name] = "a buffer, no parameter"
        else:
            made.entries[name] = Entry(value=_array(found, f"{path}: {name}"))
    if not made.entries:
        raise ValueError(f"{path} holds no parameters: give the file of a model or an optimizer")
    return made


def _array(found: dict[str, Any], name: str) -> Array:
    """Stored numbers, those of 16 bits widened to float32."""
    kind, data = found["dtype"], bytes(found["data"])
    if kind == "BF16":
        values: Array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind in FLOATS:
        values = np.frombuffer(data, np.dtype(FLOATS[kind]).newbyteorder("<")).astype(
            np.float64 if kind == "F64" else np.float32
        )
    elif kind.startswith("C"):
        raise ValueError(
            f"{name} is complex: torch averages real and imaginary parts apart, Optax |g|^2: this cannot be "
            "translated"
        )
    else:
        raise ValueError(f"{name} is of {kind}: parameters are F64, F32, F16 or BF16")
    return values.reshape(found["shape"])
