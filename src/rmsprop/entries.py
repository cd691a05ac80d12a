"""What competes in a comparison: names on the command line, as Rules with labels."""

import math
from dataclasses import dataclass
from typing import Any

from rmsprop.dialects import DIALECTS, PRESETS
from rmsprop.rule import Rule

DEFAULT_OPTIMIZERS = ("rmsprop", "sgd", "momentum", "adagrad", "adam")
_LABELS = {
    "rmsprop": "RMSprop",
    "sgd": "SGD",
    "momentum": "Momentum",
    "nesterov": "Nesterov",
    "adagrad": "AdaGrad",
    "adam": "Adam",
    "adamw": "AdamW",
}


@dataclass(frozen=True)
class Entry:
    """One competitor.

    Attributes
    ----------
    label
        Its name in tables and legends.
    rule
        Its update; the learning rate is the one given, or a placeholder until it is searched.
    fixed
        Whether the user gave the learning rate, so that it is not searched.
    given
        The fields of the rule that the user gave.
    """

    label: str
    rule: Rule
    fixed: bool = False
    given: tuple[str, ...] = ()

    @property
    def is_rmsprop(self) -> bool:
        """Whether this is RMSprop, in whatever dialect, rather than something it is compared with."""
        return self.rule.second_moment == "ema" and self.rule.first_moment == "after"

    def at(self, lr: float | None) -> dict[str, Any]:
        """What a study says of this competitor with the learning rate it ran at; None if none worked."""
        rule = self.rule if lr is None else self.rule.replace(lr=lr)
        return {
            "label": self.label,
            "is_rmsprop": self.is_rmsprop,
            "fixed": self.fixed,
            "lr": lr,
            "rule": rule.to_dict(),
            "equations": rule.equations(),
        }


def entry(spec: str) -> Entry:
    """The competitor that a spec names: `name`, or `name:field=value:...` with fields of `Rule`.

    Parameters
    ----------
    spec
        The name is rmsprop, a dialect (keras, torch, ... or rmsprop-keras) or a preset (sgd, momentum,
        nesterov, adagrad, adam, adamw).

    Raises
    ------
    ValueError
        For a name, field or value that is not known, with what is.

    Examples
    --------
    >>> entry("rmsprop-keras:decay=0.99:centered=true")
    Entry(label='RMSprop (keras, decay=0.99, centered=true)', \
rule=Rule(lr=0.001, decay=0.99, eps=1e-07, centered=True, decoupled_weight_decay=True, eps_in_sqrt=True, \
lr_in_momentum=True), fixed=False, given=('decay', 'centered'))
    """
    name, fields = fields_of(spec)
    pairs = spec.strip().split(":")[1:]
    dialect = name.removeprefix("rmsprop-").lower()
    if dialect == "rmsprop":
        dialect = "hinton"
    elif dialect not in DIALECTS and dialect not in PRESETS:
        known = ", ".join(["rmsprop", *(f"rmsprop-{d}" for d in DIALECTS), *PRESETS])
        raise ValueError(f"no optimizer is named {name!r}; known: {known}")
    stand_in = {} if "lr" in (DIALECTS | PRESETS)[dialect].fields else {"lr": 0.001}
    rule = Rule.from_dialect(dialect, **(stand_in | fields))
    notes = [pair for pair in pairs if not pair.startswith("lr=")]
    if dialect in PRESETS:
        label = _LABELS[dialect]
    else:
        label = _LABELS["rmsprop"]
        notes = notes if name == "rmsprop" else [dialect, *notes]
    return Entry(
        label + (f" ({', '.join(notes)})" if notes else ""), rule, "lr" in fields, tuple(fields)
    )


def fields_of(spec: str) -> tuple[str, dict[str, Any]]:
    """The name and the fields of a spec, `name:field=value:...`.

    Raises ValueError for a part without an equals sign.

    Examples
    --------
    >>> fields_of("tf1:momentum=0.9:centered=true")
    ('tf1', {'momentum': 0.9, 'centered': True})
    """
    name, *pairs = spec.strip().split(":")
    return name, dict(_pair(pair, spec) for pair in pairs)


def entries(optimizers: list[str], dialects: list[str]) -> list[Entry]:
    """The competitors, with labels that tell them apart.

    Raises ValueError for two that are the same, and as `entry`.

    Examples
    --------
    >>> [e.label for e in entries(["rmsprop", "adam"], ["keras"])]
    ['RMSprop', 'Adam', 'RMSprop (keras)']
    >>> [e.label for e in entries(["sgd:lr=0.1", "sgd:lr=1"], [])]
    ['SGD, lr 0.1', 'SGD, lr 1']
    """
    found = [entry(spec) for spec in [*optimizers, *(f"rmsprop-{d}" for d in dialects)]]
    if not found:
        raise ValueError("name at least one optimizer")
    labels = [e.label for e in found]
    found = [
        Entry(f"{e.label}, lr {e.rule.lr:g}", e.rule, e.fixed, e.given)
        if e.fixed and labels.count(e.label) > 1
        else e
        for e in found
    ]
    labels = [e.label for e in found]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise ValueError(f"named twice: {', '.join(sorted(twice))}")
    return found


def fixed_entries(optimizers: list[str]) -> list[Entry]:
    """The competitors at the learning rates given, or at 0.01.

    Examples
    --------
    >>> [(e.label, e.rule.lr) for e in fixed_entries(["rmsprop", "sgd:lr=0.1"])]
    [('RMSprop', 0.01), ('SGD', 0.1)]
    """
    with_rates = [spec if ":lr=" in spec else f"{spec}:lr=0.01" for spec in optimizers]
    return entries(with_rates, [])


def learning_rates(low: float, high: float, budget: int) -> list[float]:
    """`budget` learning rates at equal ratios from low to high, to six digits.

    Examples
    --------
    >>> [f"{lr:.3g}" for lr in learning_rates(0.001, 1.0, 4)]
    ['0.001', '0.01', '0.1', '1']
    """
    if not (0 < low < high < math.inf):
        raise ValueError(
            f"learning rates must run from a low above 0 to a higher; got {low}:{high}"
        )
    if budget < 2:
        raise ValueError(f"the budget must be 2 learning rates or more; got {budget}")
    ratio = (high / low) ** (1 / (budget - 1))
    return [float(f"{low * ratio**k:.6g}") for k in range(budget)]


def check_settings(target: float | None, **counts: int | None) -> None:
    """Raise ValueError for a target that is not finite or a count below 1; None stands for the default.

    Examples
    --------
    >>> check_settings(None, seeds=3)
    """
    if target is not None and not math.isfinite(target):
        raise ValueError(f"target must be finite; got {target}")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be 1 or more; got {count}")


def _pair(pair: str, spec: str) -> tuple[str, Any]:
    name, equals, text = pair.partition("=")
    if not equals:
        raise ValueError(f"write name:field=value, as rmsprop:decay=0.99; got {spec!r}")
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    if text.lower() in words and name != "second_moment":  # whose "none" is a word
        return name, words[text.lower()]
    try:
        return name, float(text)
    except ValueError:
        return name, text
