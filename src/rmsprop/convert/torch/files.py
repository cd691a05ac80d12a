"""Files of `torch.save`: an optimizer's state dict, a training checkpoint with one, or a model's alone."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from rmsprop import files
from rmsprop.convert.checkpoint import SLOTS, Array, Checkpoint, Entry
from rmsprop.convert.torch import loading as torch_loading
from rmsprop.convert.torch import lowbit
from rmsprop.convert.torch.groups import Group, fields_of, group_of, whose
from rmsprop.convert.torch.loading import BUFFERS, Found, array
from rmsprop.rule import Rule
from rmsprop.state import SLOTS as NAMES

CODE, EXPONENT = "square_avg_code", "square_avg_exponent"
KNOWN = {"step", *NAMES.values(), CODE, EXPONENT}
"""What an RMSprop keeps for a parameter, in PyTorch's words, and ours for one byte."""


def read(path: Path, told: dict[str, Any]) -> Checkpoint:
    """What a file of `torch.save` holds, without unpickling anything but tensors, numbers and strings.

    Parameters
    ----------
    path
        The state dict of an optimizer, a training checkpoint that holds one (under any key), or a model's
        state dict. bitsandbytes' state is told by its names.
    told
        Fields of `Rule` for what the file does not say.

    Raises
    ------
    FileNotFoundError, ValueError
        Where it is missing, damaged, holds other objects, several optimizers, or none of RMSprop's kind.
    ModuleNotFoundError
        Without PyTorch.
    """
    path = Path(path)
    try:
        found = torch_loading.find(torch_loading.load(path, "it"))
        torch_loading.check_sizes(found, path.stat().st_size)
        return of_found(found, told)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write(path: Path, checkpoint: Checkpoint, like: Path | None = None) -> None:
    """Save a translated checkpoint as a whole or not at all.

    The file holds the optimizer's state dict; where parameters have values, `{"model_state_dict": ...,
    "optimizer_state_dict": ...}`. `like` is not used: the entries' order is the order of the parameters.

    Raises OSError where the file cannot be written; what was there before is kept.
    """
    del like
    content = state_dict_of(checkpoint)
    values = {n: tensor(e.value) for n, e in checkpoint.entries.items() if e.value is not None}
    if values:
        content = {"model_state_dict": values, "optimizer_state_dict": content}
    with files.replacing(path) as temporary:
        torch_loading.save(content, temporary)


def of_found(found: Found, told: dict[str, Any], dialect: str = "") -> Checkpoint:
    """A checkpoint of an optimizer's state dict and a model's, named by the model where that is certain."""
    values, left = parameters(found.parameters)
    left = found.left | left
    if found.optimizer is None:
        entries = {name: Entry(value=value) for name, value in values.items()}
        return Checkpoint("torch", groups=[dict(told)], entries=entries, layout="torch", left=left)
    made = of_state_dict(found.optimizer, told, dialect=dialect)
    made.left |= left
    return _with_values(made, values) if values else made


def of_state_dict(
    state_dict: dict[str, Any],
    told: dict[str, Any] | None = None,
    names: list[str] | None = None,
    dialect: str = "",
) -> Checkpoint:
    """The canonical form of `optimizer.state_dict()`, of torch.optim.RMSprop or one with its state.

    Parameters
    ----------
    state_dict
        Of torch.optim's, rmsprop.torch's, timm's or stable-baselines3's RMSprop, or of bitsandbytes'.
    told
        Fields of `Rule` for what the groups do not say.
    names
        The parameters', in the optimizer's order; without, those in the groups (`param_names`), else "0",
        "1", ...
    dialect
        Whose it is, where that is known; without, what its keys and numbers tell.

    Raises
    ------
    ValueError
        Where this is not the state of an RMSprop, or cannot be translated.

    Examples
    --------
    >>> import torch
    >>> p = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = torch.optim.RMSprop([p], lr=0.1)
    >>> (3*p).sum().backward()
    >>> optimizer.step()
    >>> found = of_state_dict(optimizer.state_dict(), names=["w"])
    >>> found.step, found.groups[0]["decay"], found.entries["w"].slots["v"]
    (1, 0.99, array([0.09, 0.09], dtype=float32))
    """
    told = told or {}
    groups, ids = groups_of(state_dict)
    state = {key: value for key, value in state_dict["state"].items() if key in ids}
    if any(isinstance(x, dict) and _of_bitsandbytes(x) for x in state.values()):
        from rmsprop.convert.torch import bitsandbytes  # it needs this module

        return bitsandbytes.of_state_dict(state_dict, told, names)
    _check_states(state)
    found_names, named = names_of(ids, groups, names)
    entries = {
        name: Entry(_slots(state.get(key, {}), name), group=ids[key])
        for key, name in zip(ids, found_names, strict=True)
    }
    dialect, notes = (dialect, []) if dialect else whose(groups, state, entries)
    fields = [told | fields_of(group) for group in groups]
    check_rules(dialect, fields)
    step, said = step_of(state, any(f.get("bias_correction") for f in fields))
    made = Checkpoint(
        "torch", dialect, fields, entries, step, "torch", named, notes=[*notes, *said]
    )
    made.left = {
        f"state {key!r}"[:80]: "no parameter's" for key in state_dict["state"] if key not in ids
    }
    _note_missing(made, state)
    return made


def state_dict_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """A state dict that `load_state_dict` of the checkpoint's dialect takes: torch, timm or sb3.

    Every group has all switches of the rule under the names of rmsprop.torch, which torch.optim ignores;
    those of timm and stable-baselines3 have their own keys alone, where these tell the rule. The names of
    the parameters are there (`param_names`) only where the file would not tell them otherwise: an optimizer
    that has loaded names takes further groups (`add_param_group`) with names only.

    Raises ValueError where a rule needs the step and there is none.
    """
    torch = torch_loading.torch_module()
    rules = [rule_of(checkpoint, k) for k in range(len(checkpoint.groups))]
    if checkpoint.step is None and any(rule.bias_correction for rule in rules):
        raise ValueError(
            "the rule corrects its averages for the step, which is not known: give it, step="
        )
    step: Any = checkpoint.step or 0
    names = ordered(checkpoint)
    state: dict[int, dict[str, Any]] = {}
    for k, name in enumerate(n for group in names for n in group):
        slots = checkpoint.entries[name].slots
        if slots:
            count = step if checkpoint.dialect in ("sb3", "timm") else torch.tensor(float(step))
            state[k] = {"step": count} | {NAMES[s]: tensor(slots[s]) for s in SLOTS if s in slots}
    groups, first = [], 0
    for rule, members in zip(rules, names, strict=True):
        group = group_of(rule, checkpoint.dialect)
        group["params"] = list(range(first, first + len(members)))
        if keeps_names(checkpoint):
            group["param_names"] = members
        groups.append(group)
        first += len(members)
    return {"state": state, "param_groups": groups}


def ordered(checkpoint: Checkpoint) -> list[list[str]]:
    """The parameters' names, group by group, as an optimizer counts them."""
    return [
        [name for name, entry in checkpoint.entries.items() if entry.group == k]
        for k in range(len(checkpoint.groups))
    ]


def keeps_names(checkpoint: Checkpoint) -> bool:
    """Whether the names must stand in the groups: nothing else in the file would tell them."""
    without = any(entry.value is None for entry in checkpoint.entries.values())
    return checkpoint.named and (without or len(checkpoint.groups) > 1)


def rule_of(checkpoint: Checkpoint, group: int) -> Rule:
    """The rule of a group whose fields may all be there."""
    if checkpoint.dialect:
        return checkpoint.rule(group)
    return Rule.from_dict(checkpoint.groups[group])


def tensor(a: Array | None) -> Any:
    """An array as a tensor, without a copy where that can be."""
    native = np.asarray(a).astype(np.asarray(a).dtype.newbyteorder("="), copy=False)
    return torch_loading.torch_module().from_numpy(np.require(native, requirements=["C", "W"]))


def parameters(model: dict[str, Any]) -> tuple[dict[str, Array], dict[str, str]]:
    """A model's parameters by name, each once, and what else its state dict holds."""
    torch, values, left = torch_loading.torch_module(), {}, {}
    seen: dict[Any, str] = {}
    for name, t in model.items():
        if not isinstance(t, torch.Tensor):
            left[name] = f"no tensor but {type(t).__name__}"
            continue
        t = torch_loading.plain(t, name)
        place = (t.data_ptr(), tuple(t.shape), t.stride())
        if name.rsplit(".", 1)[-1] in BUFFERS or not (t.is_floating_point() or t.is_complex()):
            left[name] = "a buffer, no parameter"
        elif t.numel() and place in seen:
            left[name] = f"the same tensor as {seen[place]}"
        else:
            seen[place] = name
            values[name] = array(t, name)
    return values, left


def _with_values(made: Checkpoint, values: dict[str, Array]) -> Checkpoint:
    """The parameters' values and, where the optimizer had no names, their names, if these are certain."""
    shapes = {name: value.shape for name, value in values.items()}
    if made.named:
        pairs = {name: name for name in made.entries if name in values}
    else:
        pairs = matched(made, shapes)
    if len(pairs) < len(made.entries) or any(
        entry.slots and entry.shape != shapes[pairs[name]] for name, entry in made.entries.items()
    ):
        made.left |= dict.fromkeys(values, "a parameter that no state could be told to belong to")
        made.notes.append(
            "the file's parameters and the optimizer's state could not be matched (another number, other "
            "shapes, or several groups without names): the state keeps its places 0, 1, ... for names"
            if not made.named
            else "the file's parameters have other names or shapes than the optimizer's: they are left"
        )
        return made
    if not made.named:
        made.notes.append("the state's names are those of the file's parameters, in their order")
    made.left |= {n: "no parameter of the optimizer" for n in values if n not in pairs.values()}
    made.entries = {
        pairs[name]: Entry(entry.slots, values[pairs[name]], entry.group)
        for name, entry in made.entries.items()
    }
    made.named = True
    return made


def matched(made: Checkpoint, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Whose state stands at which place: in order for one group, by shapes that differ for several."""
    if len(made.groups) == 1:
        return (
            dict(zip(made.entries, shapes, strict=True)) if len(shapes) == len(made.entries) else {}
        )
    by_shape = {shape: name for name, shape in shapes.items()}
    certain = len(by_shape) == len(shapes) == len(made.entries)
    if not certain or not all(e.slots and e.shape in by_shape for e in made.entries.values()):
        return {}
    return {name: by_shape[entry.shape] for name, entry in made.entries.items()}


def groups_of(state_dict: dict[str, Any]) -> tuple[list[Group], dict[Any, int]]:
    """The groups, and in the optimizer's order which group each parameter's key belongs to."""
    groups, ids = state_dict["param_groups"], {}
    for k, group in enumerate(groups):
        if not isinstance(group, dict) or not isinstance(group.get("params"), (list, tuple)):
            raise ValueError(f"group {k} of the optimizer has no list of parameters: it is damaged")
        for key in group["params"]:
            if isinstance(key, bool) or not isinstance(key, (int, str)) or key in ids:
                raise ValueError(
                    f"group {k} names the parameter {str(key)[:40]} twice, or it is no number"
                )
            ids[key] = k
    if not groups:
        raise ValueError("the optimizer has no groups of parameters: it is damaged")
    return groups, ids


def names_of(
    ids: dict[Any, int], groups: list[Group], names: list[str] | None
) -> tuple[list[str], bool]:
    """The parameters' names in the optimizer's order, and whether they are their own."""
    if names is not None:
        if len(names) != len(ids):
            raise ValueError(f"the optimizer has {len(ids)} parameters; got {len(names)} names")
        return names, True
    if all(isinstance(key, str) for key in ids):
        return [*ids], True
    own: list[Any] = []
    for group in groups:
        told = group.get("param_names")
        own += told if isinstance(told, (list, tuple)) and len(told) == len(group["params"]) else []
    if len(own) == len(ids) == len({x for x in own if isinstance(x, str)}):
        return own, True
    return [str(k) for k in range(len(ids))], False


def _of_bitsandbytes(entry: dict[Any, Any]) -> bool:
    return "state1" in entry or "__bnb_optimizer_quant_state__" in entry


def _check_states(state: dict[Any, Any]) -> None:
    """Raise ValueError for what an RMSprop does not keep."""
    for entry in state.values():
        if not isinstance(entry, dict):
            raise ValueError(
                "the optimizer's state is not a dict for each parameter: it is damaged"
            )
        others = sorted(str(key)[:40] for key in entry if key not in KNOWN)
        if others:
            raise ValueError(
                f"the state keeps {', '.join(others[:8])}: this is not RMSprop's, which keeps square_avg, "
                "grad_avg and momentum_buffer"
            )


def _slots(entry: dict[str, Any], name: str) -> dict[str, Array]:
    """The averages of one parameter, widened to float32 where they are narrower."""
    found = {s: array(entry[n], f"{n} of {name}") for s, n in NAMES.items() if n in entry}
    if CODE in entry:
        found["v"] = _decoded(entry, name)
    shapes = {a.shape for a in found.values()}
    if len(shapes) > 1:
        raise ValueError(f"the averages of {name} differ in shape: {', '.join(map(str, shapes))}")
    return {s: found[s] for s in SLOTS if s in found}


def _decoded(entry: dict[str, Any], name: str) -> Array:
    if NAMES["v"] in entry or EXPONENT not in entry:
        raise ValueError(f"{CODE} of {name} needs {EXPONENT}, and no {NAMES['v']} beside it")
    codes, exponents = (
        torch_loading.plain(entry[n], f"{n} of {name}").numpy() for n in (CODE, EXPONENT)
    )
    try:
        return lowbit.decode(codes, exponents)
    except ValueError as error:
        raise ValueError(f"{CODE} of {name}: {error}") from None


def check_rules(dialect: str, fields: list[dict[str, Any]]) -> None:
    """Raise ValueError for numbers that no rule has."""
    for k, known in enumerate(fields):
        try:
            Rule.from_dialect(dialect or "torch", **known)
        except (ValueError, TypeError) as error:
            raise ValueError(f"group {k} of the optimizer: {str(error)[:300]}") from None


def step_of(state: dict[Any, dict[str, Any]], matters: bool) -> tuple[int | None, list[str]]:
    """The updates made, and a note where parameters were not all updated as often."""
    steps = sorted({_count(entry["step"]) for entry in state.values() if "step" in entry})
    if len(steps) < 2:
        return (steps[0] if steps else None), []
    if matters:
        raise ValueError(
            f"parameters were updated {steps[0]} to {steps[-1]} times, and the rule's bias correction needs "
            "one step for all: translate their groups apart"
        )
    said = f"parameters were updated {steps[0]} to {steps[-1]} times"
    return steps[-1], [f"{said}: the most is taken for the step, on which no average depends"]


def _count(step: Any) -> int:
    if hasattr(step, "element_size"):
        step = torch_loading.plain(step, "step")
        if step.is_complex():
            raise ValueError("step is a complex number: the state is damaged")
        step = step.double().reshape(-1).tolist()
        step = step[0] if len(step) == 1 else math.nan
    if isinstance(step, bool) or not isinstance(step, (int, float)):
        raise ValueError(f"step is no number but {type(step).__name__}: the state is damaged")
    if not 0 <= step <= 2**53 or step != int(step):
        raise ValueError(f"step must be a whole number of updates; got {float(min(step, 1e300))!r}")
    return int(step)


def _note_missing(made: Checkpoint, state: dict[Any, Any]) -> None:
    never = [name for name, entry in made.entries.items() if not entry.slots]
    if never and state:
        more = f" and {len(never) - 5} more" if len(never) > 5 else ""
        made.notes.append(
            f"{len(never)} parameters were never updated and have no state: {', '.join(never[:5])}{more}"
        )
    if any(isinstance(entry, dict) and CODE in entry for entry in state.values()):
        made.notes.append(
            "v was kept in one byte: these are the numbers as stored, exactly; what is kept in float32 from "
            "here on is not rounded as it was"
        )
