"""The list of variables that a Keras optimizer keeps: what its config says of it, and what is what in it.

In this order: the iteration; the learning rate, unless a schedule gives it; under `use_ema` the averages of
all parameters; under `gradient_accumulation_steps` the sums of all gradients; then v of all, b of all, m of
all, as far as the rule has them.  Keras calls them velocity, momentum and average_gradient.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmsprop.convert.checkpoint import Array
from rmsprop.rule import Rule

ORDER = ("v", "b", "m")
WORDS = {
    "lr": "learning_rate",
    "decay": "rho",
    "eps": "epsilon",
    "momentum": "momentum",
    "centered": "centered",
    "weight_decay": "weight_decay",
    "clip_value": "clipvalue",
    "clip_norm": "clipnorm",
    "clip_global_norm": "global_clipnorm",
}


@dataclass
class Setting:
    """What is known of an optimizer without its variables.

    Attributes
    ----------
    dialect, fields
        Whose rule it is, and its fields, without the learning rate where a schedule gives that.
    slots
        Of "v", "b" and "m" those that it keeps.
    schedule
        What gives the learning rate; "" where that is a number.
    ema, accumulate
        Whether it averages parameters; over how many steps it sums gradients, 1 where it does not.
    exact
        Whether the config has the learning rate as it was given, and not as float32 rounded it.
    """

    dialect: str = "keras"
    fields: dict[str, Any] = field(default_factory=dict)
    slots: tuple[str, ...] = ("v",)
    schedule: str = ""
    ema: bool = False
    accumulate: int = 1
    exact: bool = False

    @property
    def first(self) -> int:
        """The place of the first array that belongs to a parameter."""
        return 1 if self.schedule else 2

    @property
    def lists(self) -> tuple[str, ...]:
        """What there is of each parameter, in the order of the lists."""
        extra = (("average", self.ema), ("accumulator", self.accumulate > 1))
        return (*(name for name, on in extra if on), *self.slots)


@dataclass
class State:
    """The variables of an optimizer, told apart.

    Attributes
    ----------
    iteration
        As Keras counts: batches, not updates, where gradients are accumulated.
    rate
        The learning rate; None under a schedule.
    lists
        Of each of `Setting.lists` the arrays of all parameters; none at all before the first step.
    """

    iteration: int
    rate: Array | None
    lists: dict[str, list[Array]]


def own_class(config: Any) -> str:
    """The optimizer's class as it is registered, "" where the config has none.

    Examples
    --------
    >>> own_class({"class_name": "RMSprop", "module": "keras.optimizers", "registered_name": None})
    'RMSprop'
    """
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        return ""
    registered = config.get("registered_name")
    if isinstance(registered, str) and ">" in registered:
        return registered
    builtin = str(config.get("module")).split(".")[0] == "keras"
    return config["class_name"] if builtin else f"{config.get('module')}>{config['class_name']}"


def unwrapped(config: Any) -> Any:
    """The config of the optimizer in a LossScaleOptimizer, or the config itself."""
    if own_class(config) == "LossScaleOptimizer" and isinstance(config.get("config"), dict):
        return config["config"].get("inner_optimizer")
    return config


def setting_of(config: Any) -> Setting | None:
    """What a serialized optimizer says; None where it is no RMSprop and no rule of this package.

    Raises ValueError where its numbers are none that a rule can have.
    """
    kind, given = own_class(config), config.get("config") if isinstance(config, dict) else None
    if kind not in ("RMSprop", "rmsprop>RMSprop", "rmsprop>RuleOptimizer"):
        return None
    given = given if isinstance(given, dict) else {}
    schedule = given.get("learning_rate")
    try:
        dialect, fields = _fields(kind, given)
        rule = Rule.from_dialect(dialect, **{"lr": 0.0} | fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the optimizer's config is damaged: {error}") from error
    steps = given.get("gradient_accumulation_steps") or 1
    if not isinstance(steps, int):
        raise ValueError(
            f"the optimizer's config is damaged: gradient_accumulation_steps={steps!r}"
        )
    return Setting(
        dialect,
        fields,
        tuple(s for s in ORDER if s in rule.slots),
        str(schedule.get("class_name", "a function")) if isinstance(schedule, dict) else "",
        bool(given.get("use_ema")),
        steps,
        kind != "RMSprop",
    )


def _fields(kind: str, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    schedule = isinstance(given.get("learning_rate"), dict)
    if kind == "rmsprop>RuleOptimizer":
        fields = given.get("rule")
        if not isinstance(fields, dict):
            raise ValueError("it has no rule")
        return "keras", {k: x for k, x in fields.items() if k != "lr" or not schedule}
    fields = {n: given[w] for n, w in WORDS.items() if w in given and given[w] is not None}
    if schedule:
        del fields["lr"]
    if kind == "RMSprop":
        return "keras", {"weight_decay": 0.0} | fields
    known = Rule().to_dict()
    switches = {k: x for k, x in given.items() if k in known and k not in WORDS}
    return str(given.get("dialect", "keras")), fields | switches


def divided(setting: Setting, arrays: list[Array]) -> State:
    """An optimizer's variables by what they are.

    Raises ValueError where they are not as many, or not of the shapes, that the setting has.
    """
    first, n = setting.first, len(setting.lists)
    if len(arrays) < first or arrays[0].shape or arrays[0].dtype.kind not in "iu":
        raise ValueError("the optimizer's variables do not begin with its iteration")
    rate = None if setting.schedule else arrays[1]
    if rate is not None and (rate.shape or rate.dtype.kind != "f" or not 0 <= rate < np.inf):
        raise ValueError("the optimizer's second variable is not a learning rate")
    rest, count = arrays[first:], (len(arrays) - first) // n if n else 0
    parts = [rest[k * count : (k + 1) * count] for k in range(n)]
    shapes = [[a.shape for a in part] for part in parts]
    if len(rest) != count * n or any(s != shapes[0] for s in shapes) or int(arrays[0]) < 0:
        raise ValueError(
            f"the optimizer's {len(arrays)} variables do not divide into "
            f"{', '.join(setting.lists) or 'nothing'} of each parameter"
        )
    lists = dict(zip(setting.lists, parts, strict=True)) if count else {}
    return State(int(arrays[0]), rate, lists)


def rate_of(setting: Setting, rate: Array) -> float:
    """The learning rate that was given: the variable's, but not as float32 rounded it.

    Examples
    --------
    >>> rate_of(Setting(), np.array(0.001, np.float32))
    0.001
    """
    said = setting.fields.get("lr")
    if setting.exact and said is not None and rate.dtype.type(said) == rate:
        return float(said)
    return float(str(rate.dtype.type(rate)))


def guessed(arrays: list[Array], momentum: Any, centered: Any) -> list[Setting]:
    """All settings that a bare list of variables could have.

    Parameters
    ----------
    arrays
        The optimizer's variables.
    momentum, centered
        What the user told; None where he did not.
    """
    found = []
    for schedule in ("", "a schedule"):
        for b in (False, True):
            for m in (False, True):
                told = (momentum, b), (centered, m)
                if any(x is not None and bool(x) != y for x, y in told):
                    continue
                slots = tuple(s for s in ORDER if s == "v" or (b, m)[s == "m"])
                setting = Setting(fields={"centered": m}, slots=slots, schedule=schedule)
                try:
                    state = divided(setting, arrays)
                except ValueError:
                    continue
                if state.lists or not (b or m):
                    found.append(setting)
    return found
