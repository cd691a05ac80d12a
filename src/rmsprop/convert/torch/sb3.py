"""stable-baselines3's .zip files of `model.save`: the policy's parameters and its optimizer's state."""

import contextlib
import json
import lzma
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmsprop import files
from rmsprop.convert.checkpoint import Checkpoint
from rmsprop.convert.torch import files as torch_files
from rmsprop.convert.torch import groups as torch_groups
from rmsprop.convert.torch import loading as torch_loading

POLICY, OPTIMIZER, DATA = "policy.pth", "policy.optimizer.pth", "data"
CLASSES = {"RMSpropTFLike": "sb3", "torch.optim.rmsprop.RMSprop": "torch"}
"""What a policy's optimizer_class reads like, and its dialect; rmsprop.torch's groups tell their own."""

DAMAGE = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
)
"""What Python's zipfile raises for damaged archives."""

MOST_RATIO, ALWAYS = 100, 16 << 20
"""A member may claim 100 times its compressed size and 16 MiB."""


def read(path: Path, told: dict[str, Any]) -> Checkpoint:
    """The policy's parameters and its optimizer's state; nothing of the model is unpickled.

    Parameters
    ----------
    path
        What `model.save` wrote.
    told
        Fields of `Rule` for what the file does not say.

    Raises
    ------
    FileNotFoundError, ValueError
        Where it is missing, damaged, or its optimizer is not an RMSprop.
    ModuleNotFoundError
        Without PyTorch.
    """
    path = Path(path)
    with _failures_named(path), _opened(path) as archive, tempfile.TemporaryDirectory() as folder:
        model = _member(archive, POLICY, Path(folder))
        optimizer = _member(archive, OPTIMIZER, Path(folder))
        found = torch_loading.Found(_optimizer(optimizer), _model(model), {})
        torch_loading.check_sizes(found, 2 * path.stat().st_size)
        made = torch_files.of_found(found, told, _dialect(_class(archive)))
        made.kind = "sb3"
        made.notes.append(
            "stable-baselines3 sets the learning rate anew at each update, from the schedule in its data"
        )
        left = [n for n in archive.namelist() if n not in (POLICY, OPTIMIZER)]
        made.left |= {name[:80]: "kept as it is in a copy (--like)" for name in left[:100]}
        return made


def write(path: Path, checkpoint: Checkpoint, like: Path | None = None) -> None:
    """Save a copy of a model with other parameters and another optimizer's state, whole or not at all.

    Parameters
    ----------
    path
        Where to; also `like` itself.
    checkpoint
        Its names are the policy's.
    like
        A file of `model.save`, of the same policy and with the optimizer that the state is for.

    Raises
    ------
    FileNotFoundError, ValueError
        Without `like`, or where its policy has other parameters or its optimizer computes another rule.
    OSError
        Where the file cannot be written; what was there before is kept.
    """
    if like is None:
        raise ValueError(
            "stable-baselines3's files hold the whole model: give one of the same policy as a template, "
            "--like MODEL.zip (like=...)"
        )
    like = Path(like)
    with _failures_named(like), _opened(like) as archive, tempfile.TemporaryDirectory() as folder:
        model = _model(_member(archive, POLICY, Path(folder)))
        state = state_dict_of(checkpoint, _target(archive, Path(folder)))
        changed = {POLICY: _filled(model, checkpoint), OPTIMIZER: state}
        with (
            files.replacing(path) as temporary,
            zipfile.ZipFile(temporary, "w") as copy,
        ):
            for member in archive.infolist():
                if member.filename not in changed:
                    copy.writestr(member, _bytes(archive, member))
            for name, content in changed.items():
                with copy.open(name, "w", force_zip64=True) as file:
                    torch_loading.save(content, file)


def state_dict_of(checkpoint: Checkpoint, dialect: str) -> dict[str, Any]:
    """The state dict for a policy's optimizer; "" is rmsprop.torch's, whose groups tell every rule.

    Raises ValueError where the optimizer computes another rule.
    """
    for k in range(len(checkpoint.groups)):
        rule = torch_files.rule_of(checkpoint, k)
        if dialect and not torch_groups.native(rule, dialect):
            raise ValueError(
                f"its optimizer is {dialect}'s RMSprop, which does not compute {rule!r}: translate to "
                f"--dialect {dialect}, or give a template whose policy has the optimizer that does"
            )
    made = torch_files.state_dict_of(
        Checkpoint(
            "sb3",
            dialect or "torch",
            checkpoint.groups,
            checkpoint.entries,
            checkpoint.step,
            named=False,
        )
    )
    return made


def _target(archive: zipfile.ZipFile, folder: Path) -> str:
    """Whose the template's optimizer is."""
    words = _class(archive)
    known = _dialect(words)
    groups = _optimizer(_member(archive, OPTIMIZER, folder))["param_groups"]
    if not known and not (groups and isinstance(groups[0], dict) and "second_moment" in groups[0]):
        raise ValueError(
            f"its policy's optimizer is {words[:80] or 'not named'}, no RMSprop: give a template whose "
            "optimizer_class is RMSpropTFLike, torch.optim.RMSprop or rmsprop.torch.RMSprop"
        )
    return known


def _dialect(words: str) -> str:
    """Whose class this is; "" where that is not known."""
    return next((dialect for word, dialect in CLASSES.items() if word in words), "")


def _filled(model: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """The template's policy with the checkpoint's values; tied tensors each time that they stand there."""
    own, left = torch_files.parameters(model)
    missing = [name for name in own if name not in checkpoint.entries]
    more = [name for name in checkpoint.entries if name not in own]
    if missing or more:
        raise ValueError(
            f"its policy has other parameters: the state lacks {missing[:3]}, and has {more[:3]} more; "
            "give a template of the same policy, or names, --map"
        )
    found = dict(model)
    for name, values in own.items():
        new = checkpoint.entries[name].value
        if new is None:
            continue
        if new.shape != values.shape:
            raise ValueError(
                f"{name} is {values.shape} in its policy, and {new.shape} in the state"
            )
        found[name] = torch_files.tensor(new.astype(values.dtype, copy=False))
        ties = [n for n, said in left.items() if said == f"the same tensor as {name}"]
        found |= dict.fromkeys(ties, found[name])
    return found


def _class(archive: zipfile.ZipFile) -> str:
    """What the model's data call the policy's optimizer; its pickled parts are not touched."""
    if DATA not in archive.namelist():
        return ""
    try:
        data = json.loads(_bytes(archive, DATA))
        words = data["policy_kwargs"]["optimizer_class"]
    except (ValueError, RecursionError):
        raise ValueError("its data are damaged: they are no JSON; save the model again") from None
    except (KeyError, TypeError):
        return ""
    return words if isinstance(words, str) else ""


def _optimizer(content: Any) -> dict[str, Any]:
    known = isinstance(content, dict) and isinstance(content.get("param_groups"), list)
    if not known or not isinstance(content.get("state"), dict):
        raise ValueError(f"its {OPTIMIZER} is no optimizer's state dict: save the model again")
    return content


def _model(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"its {POLICY} is no policy's state dict: save the model again")
    return content


@contextlib.contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    """Name the file in what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, no member of which claims more than there can be."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise ValueError(f"it is damaged or not a .zip: {error}; save the model again") from error
    with archive:
        names = archive.namelist()
        for name in (POLICY, OPTIMIZER):
            if names.count(name) != 1:
                raise ValueError(f"it has no {name}, or several: it is not what model.save writes")
        for member in archive.infolist():
            if member.file_size > MOST_RATIO * member.compress_size + ALWAYS:
                raise ValueError(
                    f"its {member.filename[:80]} claims {member.file_size:,} bytes in "
                    f"{member.compress_size:,}: it is damaged or made to fill the memory"
                )
            if member.flag_bits & 1:
                raise ValueError(f"its {member.filename[:80]} is encrypted: save the model without")
        yield archive


def _bytes(archive: zipfile.ZipFile, member: str | zipfile.ZipInfo) -> bytes:
    """A member as it was before it went into the archive."""
    try:
        return archive.read(member)
    except DAMAGE as error:
        raise ValueError(f"it is damaged: {str(error)[:200]}; save the model again") from error


def _member(archive: zipfile.ZipFile, name: str, folder: Path) -> Any:
    """One member of torch.save's kind; PyTorch reads it from a file of its own."""
    place, content = folder / name, _bytes(archive, name)
    try:
        place.write_bytes(content)
    except OSError as error:
        raise OSError(f"{place}, a copy for PyTorch, cannot be written: {error}") from error
    return torch_loading.load(place, f"its {name}")
