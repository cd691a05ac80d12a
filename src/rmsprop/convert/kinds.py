"""Which kind of file this is, told by what is in it, and the module that reads it."""

import importlib
import json
import re
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

from rmsprop.rule import near

READERS = {
    "torch": "torch.files",
    "sb3": "torch.sb3",
    "bitsandbytes": "torch.bitsandbytes",
    "parameters": "torch.safetensors_files",
    "keras": "keras.files",
    "tf1": "tensorflow.tf1",
    "msgpack": "optax.msgpack_files",
    "orbax": "optax.orbax_files",
    "numpy": "numpy_files",
}
"""The module of each kind of file."""

KNOWN = (
    "a PyTorch file (.pt), stable-baselines3's .zip, .safetensors, .keras, .weights.h5, a TensorFlow "
    "checkpoint (its prefix, or .index), .msgpack, or a folder of Orbax or of `rmsprop train`"
)
_ORBAX = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "_sharding")
_ENDINGS = {
    ".pt": "torch", ".pth": "torch", ".bin": "torch", ".tar": "torch", ".ckpt": "torch",
    ".zip": "sb3", ".keras": "keras", ".h5": "keras", ".msgpack": "msgpack", ".safetensors": "numpy",
    ".index": "tf1",
}  # fmt: skip


def module(kind: str) -> Any:
    """The module that reads and writes a kind of file."""
    return importlib.import_module(f"rmsprop.convert.{READERS[kind]}")


def kind_of(path: Path) -> str:
    """The kind of an existing file or folder, a key of `READERS`.

    Raises
    ------
    FileNotFoundError, ValueError
        For what is not there, or is none of them.
    """
    if path.is_dir():
        try:
            return _of_folder(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
    if not path.exists():
        if Path(f"{path}.index").exists():
            return "tf1"
        raise FileNotFoundError(f"{path} does not exist")
    if not path.is_file():  # a pipe would wait for ever, and a device never end
        raise ValueError(f"{path} is neither a file nor a folder")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if head.startswith(b"PK"):
        return _of_archive(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "keras"
    if path.suffix == ".index" or ".data-" in path.name:
        return "tf1"
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _of_safetensors(path)
    if head.startswith(b"\x80") and path.suffix != ".msgpack":
        return "torch"  # of torch.save before 1.6
    if (
        path.suffix == ".msgpack"
        or (head and 0x80 < head[0] < 0xA0)
        or head[:1] in (b"\xde", b"\xdf")
    ):
        return "msgpack"
    raise ValueError(f"{path} is none of the files that are known: {KNOWN}")


def _of_folder(path: Path) -> str:
    if (path / "checkpoint").is_file():
        return "tf1"
    inside = [*islice(path.iterdir(), 1000)]
    found = [p.name for p in [*inside, *islice(path.glob("*/*"), 1000)]]
    if any(name in found for name in _ORBAX):
        return "orbax"
    if any(re.fullmatch(r"step-\d{10,}\.safetensors", name) for name in found):
        return "numpy"
    if ".metadata" in found:
        raise ValueError(
            f"{path} is a sharded checkpoint of PyTorch: gather it into one file first, with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        )
    if "saved_model.pb" in found:
        raise ValueError(
            f"{path} is a SavedModel: name the checkpoint of the training, its prefix or .index"
        )
    raise ValueError(f"the folder {path} is none of what is known: {KNOWN}")


def _of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist()[:100_000])
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if "model.weights.h5" in names:
        return "keras"
    if "policy.pth" in names or "policy.optimizer.pth" in names:
        return "sb3"
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    raise ValueError(f"{path} is an archive of {', '.join(sorted(names)[:5])}; known: {KNOWN}")


def _of_safetensors(path: Path) -> str:
    """Ours where the header says so; else parameters by name."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(100_000_000, path.stat().st_size):
            raise ValueError(f"{path} is damaged or not a safetensors file")
        try:
            header = json.loads(file.read(size))
            return "numpy" if "rmsprop" in header.get("__metadata__", {}) else "parameters"
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error


WRITERS = ("torch", "sb3", "bitsandbytes", "keras", "tf1", "optax", "numpy")


def target_of(path: Path, to: str | None) -> tuple[str, str]:
    """What to write at a path: the kind of checkpoint, and the kind of file.

    Raises ValueError where the name's ending is not one of that kind, or tells none.
    """
    if to is not None and to not in WRITERS:
        raise ValueError(f"nothing is written for {to!r}{near(to, (*WRITERS, 'timm'))}")
    ending = _ENDINGS.get(path.suffix)
    if to is None:
        if ending is None:
            raise ValueError(
                f"what is to be written at {path}? Say --to, one of {', '.join(WRITERS)}"
            )
        return ("optax", "msgpack") if ending == "msgpack" else (ending, ending)
    if to == "optax":
        file = "msgpack" if ending == "msgpack" else "orbax"
    else:
        file = to
    expected = {"torch": ("torch",), "bitsandbytes": ("torch",), "optax": ("msgpack", None),
                "tf1": (None, "torch", "tf1")}.get(to, (to,))  # fmt: skip
    if ending not in expected:
        endings = [e for e, kind in _ENDINGS.items() if kind in expected]
        raise ValueError(
            f"{to} is written to {', '.join(endings) or 'a name without an ending'}"
            f"{', or a folder' if to == 'optax' else ''}; got {path.name}"
        )
    return to, file
