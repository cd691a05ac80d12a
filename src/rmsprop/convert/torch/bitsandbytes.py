"""bitsandbytes' RMSprop, whose average v is 8-bit codes: a state dict read and written without bitsandbytes.

Of a tensor of 4,096 elements or more it keeps `state1`, uint8 of the parameter's shape, `qmap1`, the 256
numbers that the codes stand for, and `absmax1`, one float32 for each block of 256 elements (2,048 before
0.44); of smaller ones `state1` in float32:

    v = qmap1[state1]*absmax1[block]

Its step is that of torch.optim.RMSprop (eps and lr outside), but for momentum, which it takes and ignores.
Nothing in the file says that the optimizer was RMSprop: its Momentum, Lion and Adagrad keep the same.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import files
from rmsprop.convert.checkpoint import Array, Checkpoint, Entry
from rmsprop.convert.torch import loading as torch_loading

SMALL, BLOCK = 4096, 256
BLOCKS = (256, 2048)
WRAPPED = "__bnb_optimizer_quant_state__"
"""Where newer versions keep a parameter's tensors, so that FSDP does not gather them."""

KNOWN = {"step", "state1", "qmap1", "absmax1", "gnorm_vec", "unorm_vec"}


def read(path: Path, told: dict[str, Any]) -> Checkpoint:
    """As `torch_files.read`, which tells bitsandbytes' state by its names."""
    from rmsprop.convert.torch import files as torch_files

    return torch_files.read(path, told)


def write(path: Path, checkpoint: Checkpoint, like: Path | None = None) -> None:
    """Save a translated checkpoint as bitsandbytes' RMSprop8bit does, as a whole or not at all.

    v is rounded to the nearest code; `like` is not used. Parameters that have values go beside it, as
    `torch_files.write` lays them out.

    Raises ValueError where bitsandbytes cannot compute the rule, and OSError as `files.replacing`.
    """
    from rmsprop.convert.torch import files as torch_files

    del like
    content = state_dict_of(checkpoint)
    values = {
        n: torch_files.tensor(e.value) for n, e in checkpoint.entries.items() if e.value is not None
    }
    if values:
        content = {"model_state_dict": values, "optimizer_state_dict": content}
    with files.replacing(path) as temporary:
        torch_loading.save(content, temporary)


def of_state_dict(
    state_dict: dict[str, Any], told: dict[str, Any] | None = None, names: list[str] | None = None
) -> Checkpoint:
    """The canonical form of the state dict of bitsandbytes' RMSprop, 8-bit or 32-bit.

    Arguments and errors are those of `torch_files.of_state_dict`.
    """
    from rmsprop.convert.torch import files as torch_files

    groups, ids = torch_files.groups_of(state_dict)
    found_names, named = torch_files.names_of(ids, groups, names)
    state = {key: _flat(x) for key, x in state_dict["state"].items() if key in ids}
    entries = {
        name: Entry(_slots(state[key], name) if key in state else {}, group=ids[key])
        for key, name in zip(ids, found_names, strict=True)
    }
    fields, ignored = [], False
    for group in groups:
        known, momentum = _fields(group)
        fields.append((told or {}) | known)
        ignored |= momentum
    torch_files.check_rules("torch", fields)
    step, notes = torch_files.step_of(state, matters=False)
    made = Checkpoint("bitsandbytes", "torch", fields, entries, step, "torch", named, notes=notes)
    made.notes.append(
        "bitsandbytes does not say which of its optimizers wrote this: it is read as RMSprop's"
    )
    if ignored:
        made.notes.append("bitsandbytes' RMSprop takes momentum and ignores it: none is read")
    if any("absmax1" in entry for entry in state.values()):
        made.notes.append("v was kept in 8 bits: these are the numbers as stored, exactly")
    return made


def state_dict_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """A state dict that bitsandbytes' RMSprop8bit takes, of any version with blocks of 256.

    Raises ValueError where it cannot compute the rule: it has neither momentum nor centering, and all else
    must be as torch.optim.RMSprop has it.
    """
    from rmsprop.convert.torch import files as torch_files
    from rmsprop.convert.torch import groups as torch_groups

    torch = torch_loading.torch_module()
    names, groups, first = torch_files.ordered(checkpoint), [], 0
    for k, members in enumerate(names):
        rule = torch_files.rule_of(checkpoint, k)
        if not torch_groups.native(rule.replace(maximize=False), "torch") or rule.maximize:
            raise ValueError(f"bitsandbytes' RMSprop computes torch's rule only; this is {rule!r}")
        if rule.centered or rule.momentum or rule.decay == 0:
            raise ValueError(
                f"bitsandbytes' RMSprop has no centering, ignores momentum, and takes no decay of 0; this is "
                f"{rule!r}"
            )
        group: dict[str, Any] = {"lr": rule.lr, "betas": (rule.decay, 0.0), "eps": rule.eps}
        group |= {
            "weight_decay": rule.weight_decay,
            "params": list(range(first, first + len(members))),
        }
        if torch_files.keeps_names(checkpoint):
            group["param_names"] = members
        groups.append(group)
        first += len(members)
    state = {}
    qmap = torch.from_numpy(dynamic_map())  # one for all, as bitsandbytes has it
    for k, name in enumerate(n for members in names for n in members):
        slots = checkpoint.entries[name].slots
        if set(slots) - {"v"}:
            raise ValueError(f"bitsandbytes keeps v alone; {name} has {', '.join(slots)}")
        if slots:
            state[k] = {"step": checkpoint.step or 0} | _stored(slots["v"], name, qmap)
    return {"state": state, "param_groups": groups}


def dynamic_map() -> Array:
    """The 256 numbers that bitsandbytes' signed codes stand for: float32, ascending, from -0.993 to 1.

    Seven decades of 1, 2, ..., 64 steps each, both signs, with 0 and 1: the "dynamic" map of bitsandbytes,
    which its optimizers of one state use, also where the state is never negative.

    References
    ----------
    Dettmers, 8-Bit Approximations for Parallelism in Deep Learning, 2016, arXiv:1511.04561;
    bitsandbytes.functional.create_dynamic_map.
    """
    linspace = torch_loading.torch_module().linspace  # as it does: NumPy's rounds otherwise
    found = [0.0, 1.0]
    for decade in range(7):
        edges = linspace(0.1, 1, 2**decade + 1)
        steps = (10 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2.0)).tolist()
        found += [*steps, *[-x for x in steps]]
    return np.sort(np.array(found, np.float32))


def quantised(v: Array, qmap: Array) -> tuple[Array, Array]:
    """(codes, largest of each block) of an array, each number rounded to the nearest that a code has."""
    blocks = -(-v.size // BLOCK)
    padded = np.zeros(blocks * BLOCK, np.float32)
    padded[: v.size] = v.reshape(-1)
    largest = np.abs(padded.reshape(blocks, BLOCK)).max(axis=1)
    scaled = padded.reshape(blocks, BLOCK) / np.where(largest > 0, largest, 1)[:, None]
    middles = (qmap[1:].astype(np.float64) + qmap[:-1]) / 2
    codes = np.searchsorted(middles, scaled.reshape(-1)).astype(np.uint8)[: v.size]
    return codes.reshape(v.shape), largest


def _stored(v: Array, name: str, qmap: Any) -> dict[str, Any]:
    from rmsprop.convert.torch import files as torch_files

    if v.size < SMALL:
        return {"state1": torch_files.tensor(v.astype(np.float32))}
    if not np.isfinite(v).all():
        raise ValueError(
            f"v of {name} is not finite, and cannot be kept in 8 bits: choose another format"
        )
    codes, largest = quantised(v, qmap.numpy())
    return {
        "state1": torch_files.tensor(codes),
        "qmap1": qmap,
        "absmax1": torch_files.tensor(largest),
    }


def _flat(entry: Any) -> dict[str, Any]:
    """A parameter's state with what newer versions wrap."""
    wrapped = entry.get(WRAPPED, {}) if isinstance(entry, dict) else None
    if not isinstance(wrapped, dict):
        raise ValueError("the optimizer's state is not a dict for each parameter: it is damaged")
    found = {key: value for key, value in entry.items() if key != WRAPPED} | wrapped
    others = sorted(str(key)[:40] for key in found if key not in KNOWN)
    if "max1" in found:
        raise ValueError(
            "the state has one scale for a whole tensor (block_wise=False): only blocks are read"
        )
    if others or "state1" not in found:
        raise ValueError(
            f"the state keeps {', '.join(others[:8])}: this is not the state of bitsandbytes' RMSprop, which "
            "keeps state1 alone"
        )
    return found


def _slots(entry: dict[str, Any], name: str) -> dict[str, Array]:
    torch = torch_loading.torch_module()
    codes = torch_loading.plain(entry["state1"], f"state1 of {name}")
    if codes.dtype == torch.uint8:
        v = _numbers(codes, entry, name)
    else:
        v = torch_loading.array(codes, f"state1 of {name}")
    if v.size and v.min() < 0:
        raise ValueError(
            f"state1 of {name} has negative numbers: it is no average of squares, but bitsandbytes' "
            "Momentum or Lion"
        )
    return {"v": v}


def _numbers(codes: Any, entry: dict[str, Any], name: str) -> Array:
    """What the codes stand for, in float32 as bitsandbytes multiplies."""
    parts = {}
    for key in ("qmap1", "absmax1"):
        if key not in entry:
            raise ValueError(f"state1 of {name} is codes, and there is no {key}: it is damaged")
        parts[key] = torch_loading.array(entry[key], f"{key} of {name}").astype(np.float32)
    size, scales = codes.numel(), parts["absmax1"].reshape(-1)
    block = next((b for b in BLOCKS if -(-size // b) == scales.size), None)
    if parts["qmap1"].shape != (256,) or block is None or not codes.is_contiguous():
        raise ValueError(
            f"state1 of {name}, {tuple(codes.shape)}, has qmap1 {parts['qmap1'].shape} and absmax1 "
            f"{scales.shape}: bitsandbytes writes 256 and one for each block of 256 or 2,048"
        )
    scale = np.repeat(scales, block)[:size].reshape(tuple(codes.shape))
    return parts["qmap1"][codes.numpy()] * scale


def _fields(group: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The fields of a rule that a group tells, and whether it names a momentum, which is ignored."""
    from rmsprop.convert.torch.groups import fields_of

    betas = group.get("betas")
    if not isinstance(betas, (tuple, list)) or not betas:
        raise ValueError("the groups have no betas: this is not bitsandbytes' state")
    plain = {key: group[key] for key in ("lr", "eps", "weight_decay") if key in group}
    known = fields_of(plain | {"alpha": betas[0]})
    if known["decay"] == 0:
        raise ValueError("betas start with 0: this is bitsandbytes' Adagrad, not its RMSprop")
    rest = list(_numbers_in(betas[1:]))
    return known | {"momentum": 0.0, "centered": False}, any(x != 0 for x in rest)


def _numbers_in(values: Any) -> Iterator[float]:
    for x in values:
        if isinstance(x, (int, float)) and not isinstance(x, bool):
            yield x
