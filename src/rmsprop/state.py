"""What an optimizer remembers, its plain form, and the checks before one state replaces another."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmsprop import tree
from rmsprop.kernels.plan import state_dtype
from rmsprop.rule import Rule
from rmsprop.tree import Array

FILE_KIND = "rmsprop.numpy state"
"""What the header of a file of the state says that it is."""

SLOTS = {"v": "square_avg", "m": "grad_avg", "b": "momentum_buffer"}
"""The rule's letters and the names (PyTorch's) under which a state dict keeps the arrays."""

# What an average means: with another value here, an old state would be read as something it is not.
_MEANING = ("second_moment", "first_moment", "lr_in_momentum", "centered", "bias_correction")


@dataclass
class State:
    """What an optimizer remembers.

    Attributes
    ----------
    step
        Updates made so far.
    slots
        For each of the rule's slots "v", "m", "b": the arrays by their parameters' paths, of the parameters'
        shapes; float64 for float64 parameters, else float32.
    """

    step: int = 0
    slots: dict[str, dict[str, Array]] = field(default_factory=dict)

    def copy(self) -> "State":
        """The same, in arrays of its own."""
        slots = {
            s: {path: a.copy() for path, a in known.items()} for s, known in self.slots.items()
        }
        return State(self.step, slots)

    def grow(self, rule: Rule, params: dict[str, Array]) -> None:
        """Make the arrays that the rule wants and the state lacks; drop those that it does not want."""
        self.check_fits(params)
        for slot in set(self.slots) - set(rule.slots):
            del self.slots[slot]
        for slot in rule.slots:
            if slot not in self.slots:
                start = rule.initial_scale if slot == "v" else 0.0
                self.slots[slot] = {
                    path: np.full(p.shape, start, state_dtype(p)) for path, p in params.items()
                }

    def check_fits(self, params: dict[str, Array]) -> None:
        """Raise KeyError or ValueError where the state was made for other parameters."""
        for known in self.slots.values():
            tree.same_names(known, params, "state", "parameter")
            for path, s in known.items():
                p = params[path]
                if s.shape != p.shape or s.dtype != state_dtype(p):
                    raise ValueError(
                        f"the state{tree.at(path)} is {s.dtype}{s.shape}, but its parameter is "
                        f"{p.dtype}{p.shape}: use a new optimizer for new parameters"
                    )

    def to_dict(self, rule: Rule, skipped: int = 0) -> dict[str, Any]:
        """The plain form: rule, step, skipped, and the arrays by slot name and path, not copied."""
        arrays = {SLOTS[slot]: dict(known) for slot, known in self.slots.items()}
        return {"rule": rule.to_dict(), "step": self.step, "skipped": skipped} | arrays

    @classmethod
    def from_dict(cls, plain: dict[str, Any], rule: Rule) -> "State":
        """The state that `to_dict` returned, in arrays of its own, for an optimizer with this rule.

        Raises
        ------
        TypeError, ValueError
            For a dict that is not such a state, or a state that means something else under this rule.
        """
        missing = [key for key in ("rule", "step") if key not in plain]
        if missing:
            raise ValueError(f"not an optimizer state: it has no {' and no '.join(missing)}")
        step = plain["step"]
        if not isinstance(step, int) or step < 0:
            raise ValueError(f"the state's step must be a whole number, 0 or more; got {step!r}")
        source = Rule.from_dict(plain["rule"])
        check_same_averages(source, rule)
        # Before the first step there are no arrays yet, and after it all that the rule wants.
        lacking = [SLOTS[slot] for slot in source.slots if SLOTS[slot] not in plain]
        if step and lacking:
            raise ValueError(f"the state is incomplete: {', '.join(lacking)} is missing")
        wanted = {s: SLOTS[s] for s in rule.slots if SLOTS[s] in plain}
        return cls(step, {s: _arrays(plain[name], name) for s, name in wanted.items()})


def _arrays(known: Any, name: str) -> dict[str, Array]:
    if not isinstance(known, dict) or not all(isinstance(a, np.ndarray) for a in known.values()):
        raise TypeError(f"the state's {name} must be a dict of arrays by path")
    return {path: np.array(a, order="C") for path, a in known.items()}


def check_same_averages(source: Rule, target: Rule) -> None:
    """Raise ValueError where a state that `source` wrote means something else to `target`.

    Switching momentum on starts an empty buffer, switching it or centering off drops what is no longer
    wanted; every number may change.  What cannot be made up is refused.
    """
    ours, theirs = target.to_dict(), source.to_dict()
    differ = [name for name in _MEANING if ours[name] != theirs[name]]
    if not target.centered and "centered" in differ:
        differ.remove("centered")
    if "lr_in_momentum" in differ and not (source.momentum and target.momentum):
        differ.remove("lr_in_momentum")
    if differ:
        shown = ", ".join(f"{name}={theirs[name]!r} there, {ours[name]!r} here" for name in differ)
        raise ValueError(
            f"this state belongs to another rule ({shown}): make the optimizer with the state's rule, "
            "Rule.from_dict(state['rule']), or start from an empty state"
        )
