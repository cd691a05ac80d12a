"""A param group as PyTorch keeps it, and the Rule that it stands for.

A group is a dict that users, schedulers and checkpoints read and write. Its keys are those of
`torch.optim.RMSprop` (`alpha` is the rule's `decay`), the rule's other switches under their own names, and
`OPTIONS`: how to compute, which is no part of the rule.
"""

import dataclasses
import functools
from typing import Any

import torch

from rmsprop.rule import Rule, near

KEYS = {
    field.name: "alpha" if field.name == "decay" else field.name
    for field in dataclasses.fields(Rule)
    if field.name != "lr"
}
"""Of a rule's fields, all but lr, the keys in a group."""

BACKENDS = ("auto", "numba", "triton", "foreach")
STATE_DTYPES = (None, torch.float32, torch.float64, torch.bfloat16, torch.uint8)
OPTIONS: dict[str, Any] = {
    "capturable": False,
    "foreach": None,
    "fused": None,
    "differentiable": False,
    "backend": "auto",
    "state_dtype": None,
    "stochastic_rounding": False,
    "seed": 0,
}
"""The keys that are not the rule's, with their defaults."""

_LABELS = {"lr": "learning rate", "eps": "epsilon value"}  # torch.optim's own words


def of_rule(rule: Rule) -> dict[str, Any]:
    """The keys of a group that stand for a rule."""
    return {key: getattr(rule, name) for name, key in KEYS.items()} | {"lr": rule.lr}


def rule_of(group: dict[str, Any]) -> Rule:
    """The rule of a group, but for its lr; as `check` made sure, and again if a value has changed."""
    try:
        return _rule(*[group[key] for key in KEYS.values()])
    except (TypeError, ValueError) as error:
        known = {key: group[key] for key in KEYS.values()}
        plain = {key: x.item() if hasattr(x, "item") else x for key, x in known.items()}
        if all([plain[key] is group[key] for key in plain]):
            raise _in_torchs_words(error, group) from None
    return rule_of(plain)  # tensors and arrays of one number, as torch.optim takes them


@functools.lru_cache(maxsize=1024, typed=True)  # 1 is no switch, though it equals True
def _rule(*values: Any) -> Rule:
    return Rule(**dict(zip(KEYS, values, strict=True)))


def rate_of(group: dict[str, Any]) -> Any:
    """The learning rate: a number, or the tensor itself where it must not be read on the host."""
    lr = group["lr"]
    if isinstance(lr, torch.Tensor) and not (group["capturable"] or group["differentiable"]):
        return float(lr.detach())
    return lr.reshape(()) if isinstance(lr, torch.Tensor) and lr.dim() else lr


def check(group: dict[str, Any]) -> None:
    """Raise TypeError or ValueError for a group that no step can be made with."""
    lr = group["lr"]
    if isinstance(lr, torch.Tensor):
        if lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element; got shape {tuple(lr.shape)}")
        lr = float(lr.detach()) if lr.device.type != "meta" else 0.0
    try:
        Rule(lr=lr)
    except (TypeError, ValueError) as error:
        raise _in_torchs_words(error, group) from None
    rule_of(group)
    if group["backend"] not in BACKENDS:
        raise ValueError(f"unknown backend {group['backend']!r}{near(group['backend'], BACKENDS)}")
    if group["state_dtype"] not in STATE_DTYPES:
        raise ValueError(
            f"state_dtype must be None, torch.float32, torch.float64, torch.bfloat16 or torch.uint8; "
            f"got {group['state_dtype']!r}: float16 has no range for squares"
        )
    for key in ("capturable", "differentiable", "stochastic_rounding", "foreach", "fused"):
        optional = (None,) if key in ("foreach", "fused") else ()
        if group[key] not in (True, False, *optional):
            raise TypeError(f"{key} is a switch; got {group[key]!r}: pass True or False")
    seed = group["seed"]
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be a whole number; got {seed!r}")


def in_torchs_words(dialect: str, given: dict[str, Any]) -> Rule:
    """The rule of a dialect with the values that are not None; errors as PyTorch would say them."""
    try:
        return Rule.from_dialect(dialect, **{k: x for k, x in given.items() if x is not None})
    except (TypeError, ValueError) as error:
        raise _in_torchs_words(error, {KEYS.get(k, k): x for k, x in given.items()}) from None


def filled(state_dict: dict[str, Any], present: list[dict[str, Any]]) -> dict[str, Any]:
    """A saved state dict whose groups have every key of ours: what they do not name stays as it is.

    Raises ValueError where the saved state means something else than the present rule would read in it.
    """
    groups = []
    for k, saved in enumerate(state_dict["param_groups"]):
        ours = present[min(k, len(present) - 1)]
        kept = {key: ours[key] for key in (*KEYS.values(), *OPTIONS)}
        if "decoupled_decay" in saved:  # timm's name
            kept["decoupled_weight_decay"] = saved["decoupled_decay"]
        # How to compute is for this optimizer to say; it may stand on another machine.
        merged = kept | saved | {key: ours[key] for key in ("state_dtype", "backend")}
        states = [state_dict["state"].get(key, {}) for key in saved["params"]]
        _check_meaning(saved, merged, states)
        groups.append(merged)
    return {**state_dict, "param_groups": groups}


_TORCHS = {"lr_in_momentum": False, "second_moment": "ema", "first_moment": "after"}


def _check_meaning(saved: Any, merged: Any, states: list[dict[str, Any]]) -> None:
    """A group without our switches was written by torch.optim.RMSprop, or by one with its state."""
    kept = {name for state in states for name in state}
    if "alpha" not in saved or (
        kept and not kept & {"square_avg", "square_avg_code"} and merged["second_moment"] != "none"
    ):
        keeps = f", which keeps {', '.join(sorted(kept))}" if kept else ""
        raise ValueError(
            f"this is not the state of an RMSprop{keeps}: it needs alpha in its groups and square_avg in its "
            "state"
        )
    for key, theirs in _TORCHS.items():
        matters = "square_avg" in kept if key == "second_moment" else "momentum_buffer" in kept
        if key not in saved and merged[key] != theirs and matters:
            raise ValueError(
                f"this state belongs to another rule ({key}={theirs!r} there, {merged[key]!r} here): "
                "make the optimizer with the dialect that wrote it"
            )


def _in_torchs_words(error: Exception, group: dict[str, Any]) -> Exception:
    """The rule's complaint with the group's name for the field, after what torch.optim would say."""
    name, _, rest = str(error).partition(" ")
    if name != "lr" and name not in KEYS:
        return error
    key = KEYS.get(name, name)
    label = _LABELS.get(key, f"{key} value")
    return type(error)(f"Invalid {label}: {group[key]}; {key} {rest}")
