"""The groups in an optimizer's state dict: whose they are, and the rule that they stand for."""

from typing import Any

from rmsprop.convert.checkpoint import Entry
from rmsprop.dialects import DIALECTS
from rmsprop.rule import Rule

Group = dict[str, Any]

NATIVE = {
    "lr": "lr",
    "momentum": "momentum",
    "decay": "alpha",
    "eps": "eps",
    "centered": "centered",
    "weight_decay": "weight_decay",
}
"""The fields of a rule that every RMSprop of PyTorch's kind has in its groups, and their keys."""

OURS = (
    "nesterov",
    "decoupled_weight_decay",
    "eps_in_sqrt",
    "lr_in_momentum",
    "initial_scale",
    "bias_correction",
    "clip_value",
    "clip_norm",
    "clip_global_norm",
    "second_moment",
    "first_moment",
)
"""Those that rmsprop.torch keeps beside, under their own names; maximize is torch.optim's too."""

TIMM = {"decoupled_weight_decay": "decoupled_decay", "lr_in_momentum": "lr_in_momentum"}

TORCHS: Group = {"capturable": False, "foreach": None, "maximize": False, "differentiable": False}
"""What torch.optim.RMSprop has beside, which stable-baselines3's does not."""

SWITCHES = {
    "centered",
    "nesterov",
    "decoupled_weight_decay",
    "eps_in_sqrt",
    "lr_in_momentum",
    "bias_correction",
    "maximize",
}


def fields_of(group: Group) -> dict[str, Any]:
    """The fields of `Rule` that a group tells.

    Raises ValueError where it is not a group of an RMSprop.
    """
    if "alpha" not in group:
        keys = ", ".join(sorted(str(key)[:30] for key in group if key != "params")[:12])
        raise ValueError(f"the groups have {keys}, and no alpha: this is not RMSprop's state")
    known = NATIVE | {"maximize": "maximize"}
    known |= TIMM if _is_timms(group) else {name: name for name in OURS}
    return {name: _value(name, group[key]) for name, key in known.items() if key in group}


def _is_timms(group: Group) -> bool:
    """Ours have its keys too, beside their own."""
    return "decoupled_decay" in group and not set(OURS) <= set(group)


def _is_ours(group: Group) -> bool:
    return all(name in group for name in ("second_moment", "initial_scale", "eps_in_sqrt"))


def _value(name: str, value: Any) -> Any:
    """A number as Python's: tensors of one element as torch.optim takes them, and 0 or 1 for a switch."""
    if hasattr(value, "element_size") and value.numel() == 1 and not value.is_meta:
        value = value.detach().item()
    if name in SWITCHES and type(value) in (int, float) and value in (0, 1):
        return bool(value)
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(
            f"{name} in the groups is no number but {type(value).__name__}: it is damaged"
        )
    return value


def whose(
    groups: list[Group], state: dict[Any, dict[str, Any]], entries: dict[str, Entry]
) -> tuple[str, list[str]]:
    """The dialect that wrote a state dict, "" where that is not certain, and what to tell of it."""
    if all(set(OURS) <= set(group) for group in groups):
        return "", []  # they tell the whole rule
    if any(_is_timms(group) for group in groups):
        return "timm", []
    if any(key in group for group in groups for key in (*TORCHS, *OURS)):
        return "torch", []
    steps = [e["step"] for e in state.values() if "step" in e]
    if not steps or not all(type(step) is int for step in steps):
        return "torch", []
    least = min((float(e.slots["v"].min()) for e in entries.values() if "v" in e.slots and e.slots["v"].size),
                default=0.0)  # fmt: skip
    floor = fields_of(groups[0])["decay"]
    start = _power(floor, max(steps))
    if start > 1e-30 and least >= start * 0.99:
        return "sb3", [
            "read as of stable-baselines3's RMSpropTFLike: v started at one, for none of it is below "
            f"{start:.2g}"
        ]
    if least < start * 0.99:
        return "torch", [
            "read as of torch.optim.RMSprop before PyTorch 1.12: v did not start at one"
        ]
    return "", [
        "the groups are those of stable-baselines3's RMSpropTFLike (dialect sb3) and of torch.optim.RMSprop "
        "before PyTorch 1.12 (dialect torch), which place eps otherwise: name whose it is"
    ]


def _power(decay: Any, steps: int) -> float:
    """decay^steps, what is left of a v that started at one."""
    if not isinstance(decay, (int, float)) or not 0 <= decay < 1 or not 0 < steps < 2**53:
        return 0.0
    return float(decay) ** steps


def group_of(rule: Rule, dialect: str) -> Group:
    """A group, but for its parameters, as the dialect's optimizer keeps it."""
    group = {key: getattr(rule, name) for name, key in NATIVE.items()}
    if dialect == "sb3" and native(rule, "sb3"):
        return group
    if dialect == "timm" and native(rule, "timm"):
        return group | {key: getattr(rule, name) for name, key in TIMM.items()}
    # timm's too, which stops without them: it may be the one that goes on.
    group |= {key: getattr(rule, name) for name, key in TIMM.items()}
    group |= TORCHS | {"maximize": rule.maximize}
    return group | {name: getattr(rule, name) for name in OURS}


def native(rule: Rule, dialect: str) -> bool:
    """Whether the groups of a framework's own RMSprop ("torch", "timm" or "sb3") can tell this rule.

    Examples
    --------
    >>> native(Rule.from_dialect("torch", momentum=0.9), "torch")
    True
    >>> native(Rule.from_dialect("keras"), "torch")
    False
    """
    own = {"torch": ("maximize",), "timm": tuple(TIMM), "sb3": ()}[dialect]
    told = {name: getattr(rule, name) for name in (*NATIVE, *own)}
    return Rule.from_dict(DIALECTS[dialect].fields | told) == rule
