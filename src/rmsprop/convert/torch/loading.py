"""Files of `torch.save` that come from strangers: opened without unpickling, bounded, and searched."""

import errno
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from rmsprop.convert.checkpoint import Array

DEEPEST, DEEPEST_TUPLE, MOST_ITEMS = 16, 100, 1_000_000
LARGEST_PICKLE, MOST_OPERATIONS = 1 << 26, 10_000_000
"""Bytes of the structure around the tensors: some 100,000 parameters. Objects take 50 times as much."""

PARAMETERS = (
    "model_state_dict",
    "model",
    "state_dict",
    "module",
    "net",
    "network",
    "params",
    "weights",
)
"""Under which keys training checkpoints keep a model's parameters; the first that is there counts."""

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""What batch normalisation keeps beside its parameters."""


class Found(NamedTuple):
    """What a file holds: an optimizer's state dict, a model's, and by name what else."""

    optimizer: dict[str, Any] | None
    parameters: dict[str, Any]
    left: dict[str, str]


def torch_module() -> ModuleType:
    """PyTorch; raises ModuleNotFoundError with what to install."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ModuleNotFoundError(
            "PyTorch's files need PyTorch: pip install 'rmsprop[torch]'", name="torch"
        ) from error
    return torch


def load(path: Path, name: str = "") -> Any:
    """What `torch.save` wrote: numbers, strings, tensors, and lists and dicts of these, and nothing else.

    Parameters
    ----------
    path
        The file.
    name
        What to call it in errors, where it is a copy.

    Raises
    ------
    FileNotFoundError, ValueError
        Where it is missing, damaged, not a file of `torch.save`, or holds other objects.
    """
    torch, name = torch_module(), name or str(path)
    if path.is_dir():
        raise ValueError(
            f"{name} is a folder, as distributed training saves its shards: gather the state first "
            "(torch.distributed.checkpoint.state_dict.get_state_dict with full_state_dict=True) and "
            "torch.save it to one file"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{name} is missing")
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    _check_zip(path, name) if zipped else _check_pickles(path, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # By mmap storages are slices of the file, so none can reach beyond it whatever it claims, in any
            # version of PyTorch (2.13 compares the sizes, older ones may not); and it is 4 times as fast.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # nothing of ours runs here, and damage has any name
        raise _refusal(name, error) from None


def save(content: Any, file: Any) -> None:
    """As `torch.save`; OSError where the disk is full, of which PyTorch makes a RuntimeError."""
    try:
        torch_module().save(content, file)
    except RuntimeError as error:
        said = str(error).split("\n")[0][:200]
        raise OSError(errno.EIO, f"PyTorch could not write all of it, {said}") from error


def _check_zip(path: Path, name: str) -> None:
    """Raise ValueError where an archive is damaged in any bit, or claims more than there is."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, path.stat().st_size)
            damaged = archive.testzip()
            if damaged:
                raise ValueError(
                    f"the checksum of {damaged[:80]} is another; files saved with "
                    "torch.serialization.set_crc32_options(False) have none"
                )
            for member in members:
                if member.filename.endswith("data.pkl"):
                    check_depth(archive.read(member))
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise ValueError(f"{name} is damaged: {str(error)[:200]}; save it again") from None


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename[:80]} is compressed, as torch.save never does")
        if member.filename.endswith("data.pkl") and member.file_size > LARGEST_PICKLE:
            raise ValueError(
                f"a structure of {member.file_size:,} bytes stands around its tensors; at most "
                f"{LARGEST_PICKLE:,} are read"
            )
    if sum(member.file_size for member in members) > size:
        raise ValueError("its members claim more than the file has")


def _check_pickles(path: Path, name: str) -> None:
    """The five pickles that a file of before PyTorch 1.6 starts with; the numbers come behind."""
    with path.open("rb") as file:
        start = file.read(LARGEST_PICKLE)
    try:
        for _ in range(5):
            start = start[check_depth(start) :]
    except ValueError as error:
        raise ValueError(
            f"{name} is damaged or not a file of torch.save: {error}; save it again"
        ) from None


def check_depth(pickled: bytes) -> int:
    """Where a pickle ends; raises ValueError where it is damaged, or its tuples are too deep.

    Python hashes and frees a tuple within tuples by calling itself, without a limit: a million of them in a
    key of a dict crash the process, also in `torch.load`. Nothing is unpickled here: only depths are counted.
    """
    stack: list[int] = []
    memo: dict[Any, int] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in the file's own words
            for count, (code, argument, place) in enumerate(pickletools.genops(pickled)):
                word = code.name
                if count > MOST_OPERATIONS:
                    raise ValueError(f"it has over {MOST_OPERATIONS:,} operations")
                if word == "MARK":
                    stack.append(-1)
                elif word in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                    memo[len(memo) if argument is None else argument] = stack[-1]
                elif word in ("GET", "BINGET", "LONG_BINGET"):
                    stack.append(memo.get(argument, 0))
                elif word == "STOP":
                    return (place or 0) + 1
                else:
                    _count_depth(stack, code)
                    if stack and stack[-1] > DEEPEST_TUPLE:
                        raise ValueError(f"its tuples are nested more than {DEEPEST_TUPLE} deep")
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"no pickle can be read from it ({str(error)[:120]})") from None
    raise ValueError("its pickle ends early")


def _count_depth(stack: list[int], code: Any) -> None:
    """What one operation takes from the stack and puts on it, as depths; -1 is a mark."""
    before, after = code.stack_before, code.stack_after
    depth, singles = 0, len(before)
    if pickletools.markobject in before:
        while (top := stack.pop()) >= 0:
            depth = max(depth, top)
        singles = before.index(pickletools.markobject)
    for _ in range(singles):
        depth = max(depth, stack.pop())
    builds = code.name.startswith("TUPLE") or code.name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX")
    stack += [depth + builds] * len(after)


def _refusal(name: str, error: Exception) -> ValueError:
    """What PyTorch said, as what is wrong with the file."""
    text = str(error)
    known = re.search(r"(?:GLOBAL|global|Global:?) ([\w.]+\.[\w.]+)", text)
    if known and known[1].startswith("torch.distributed"):
        return ValueError(
            f"{name} holds one process's shards ({known[1]}): gather the state first "
            "(torch.distributed.checkpoint.state_dict.get_state_dict with full_state_dict=True)"
        )
    if known:
        return ValueError(
            f"{name} holds objects ({known[1]}) that only unpickling could make, which can run any code: "
            "save the optimizer's state alone, torch.save(optimizer.state_dict(), path)"
        )
    if "TorchScript" in text:
        return ValueError(f"{name} is a TorchScript program: save the state_dict() instead")
    said = " ".join(text.split("WeightsUnpickler error: ")[-1].split())[:120]
    return ValueError(
        f"{name} is damaged or not a file of torch.save ({type(error).__name__}: {said}): save it again"
    )


def find(content: Any) -> Found:
    """The optimizer's state dict and the model's in what a file holds, wherever they stand.

    Raises ValueError where there are several optimizers, or neither is there.
    """
    optimizers: dict[str, dict[str, Any]] = {}
    models: dict[str, dict[str, Any]] = {}
    for place, value in _dicts(content):
        if isinstance(value.get("param_groups"), list) and isinstance(value.get("state"), dict):
            optimizers[place] = value
        elif _is_model(value):
            models[place] = value
    if len(optimizers) > 1:
        raise ValueError(
            f"holds {len(optimizers)} optimizers ({', '.join(list(optimizers)[:8])}): save the one to "
            "translate alone, torch.save(optimizer.state_dict(), path)"
        )
    place = _model_of(list(models))
    if not optimizers and place is None:
        raise ValueError(
            'holds neither an optimizer\'s state dict (with "state" and "param_groups") nor a model\'s: '
            "save optimizer.state_dict()"
        )
    left = {name: "another model's tensors" for name in models if name != place}
    used = {p.split(".")[0].split("[")[0] for p in (*optimizers, *models)}
    if isinstance(content, dict) and "" not in used:
        others = [k for k in content if isinstance(k, str) and k not in used]
        left |= {k[:80]: type(content[k]).__name__ for k in others[:100]}
    return Found(
        next(iter(optimizers.values()), None), models[place] if place is not None else {}, left
    )


def _is_model(value: dict[Any, Any]) -> bool:
    """Whether this is a model's state dict: tensors by name."""
    torch = torch_module()
    tensors = sum(isinstance(x, torch.Tensor) for x in value.values())
    return (
        tensors > 0
        and all(isinstance(k, str) for k in value)
        and not any(isinstance(x, (dict, list)) for x in value.values())
        and 2 * tensors >= len(value)
    )


def _model_of(places: list[str]) -> str | None:
    for key in PARAMETERS:
        found = [p for p in places if key in re.split(r"[.\[\]]", p)]
        if found:
            return min(found, key=len)
    return places[0] if len(places) == 1 else None


def _dicts(content: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every dict with its place; those of an optimizer are not searched, and nothing is visited twice."""
    seen: set[int] = set()
    ahead: list[tuple[str, Any, int]] = [("", content, 0)]
    count = 0
    while ahead:
        place, value, depth = ahead.pop()
        if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
            continue
        seen.add(id(value))
        count += len(value)
        if depth > DEEPEST or count > MOST_ITEMS:
            raise ValueError(
                f"is nested more than {DEEPEST} deep, or has over {MOST_ITEMS:,} items: save "
                "optimizer.state_dict() alone"
            )
        if isinstance(value, dict):
            yield place, value
            if "param_groups" in value and "state" in value:
                continue
            items = [
                (f"{place}.{str(k)[:80]}" if place else str(k)[:80], x) for k, x in value.items()
            ]
        else:
            items = [(f"{place}[{k}]", x) for k, x in enumerate(value)]
        ahead += [(name, x, depth + 1) for name, x in reversed(items)]


def array(t: Any, name: str) -> Array:
    """A tensor's numbers, float32 or float64, in an array of its own; narrower ones widened exactly.

    Raises ValueError, with the name, for what cannot be translated.
    """
    torch = torch_module()
    t = plain(t, name)
    if t.is_complex():
        raise ValueError(
            f"{name} is complex: torch averages real and imaginary parts apart, Optax |g|^2: this cannot be "
            "translated"
        )
    if not t.is_floating_point():
        raise ValueError(
            f"{name} is of {t.dtype}: parameters and averages are floating-point numbers"
        )
    wide = t if t.dtype in (torch.float32, torch.float64) else t.float()
    return np.array(wide.numpy(), order="C")


def plain(t: Any, name: str) -> Any:
    """The tensor itself, where it is whole, in memory, and not larger than what is stored for it."""
    torch = torch_module()
    if not isinstance(t, torch.Tensor):
        raise ValueError(f"{name} is no tensor but {type(t).__name__}")
    if hasattr(t, "placements"):
        raise ValueError(
            f"{name} is one process's part of a DTensor: gather it first, full_tensor()"
        )
    if t.layout != torch.strided or t.is_quantized or t.is_meta or t.is_nested:
        raise ValueError(
            f"{name} is a {t.layout} tensor on {t.device}: only dense ones on the CPU are read"
        )
    t = t.detach()
    if t.numel() * t.element_size() > t.untyped_storage().nbytes():
        raise ValueError(
            f"{name} claims {t.numel():,} elements, and {t.untyped_storage().nbytes():,} bytes are stored "
            "for it: it is expanded or damaged"
        )
    return t.resolve_conj().resolve_neg() if t.is_conj() or t.is_neg() else t


def check_sizes(found: Found, size: int) -> None:
    """Raise ValueError where the tensors to read claim more bytes than a file of this size can hold.

    Tied weights stand several times in a model's state dict; 100,000 views of the same storage do not.
    """
    taken = 0
    state = (found.optimizer or {}).get("state", {})
    for entry in (*state.values(), found.parameters):
        for key, t in entry.items() if isinstance(entry, dict) else ():
            nested = t.items() if isinstance(t, dict) else [(key, t)]
            taken += sum(
                x.numel() * x.element_size() for _, x in nested if hasattr(x, "element_size")
            )
    if taken > 4 * size + (1 << 20):
        raise ValueError(
            f"claims {taken:,} bytes of tensors and has {size:,}: they are views of the same storage, or it "
            "is damaged; save it again"
        )
