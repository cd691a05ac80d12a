"""The Rule: hyperparameters and switches of one update, validated, comparable and printable.

This module imports the standard library and `dialects` only.
"""

import dataclasses
import difflib
import json
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from rmsprop.dialects import DIALECTS, PRESETS


@dataclass(frozen=True, kw_only=True, repr=False)
class Rule:
    """One optimizer update: RMSprop in any framework's dialect, or a baseline, as plain data.

    ::

        g <- -g if maximize;  clip g;  g <- g + wd*p          (coupled weight decay)
        p <- p - lr*wd*p                                      (decoupled weight decay)
        v <- rho*v + (1-rho)*g^2                              v starts at initial_scale
        m <- rho*m + (1-rho)*g                                centered only
        d <- v           or  max(v - m^2, 0)                  centered
        u <- g/(sqrt(d)+eps)   or   g/sqrt(d+eps)             eps outside | inside the root
        p <- p - lr*u                                         no momentum
        b <- mu*b + u;     p <- p - lr*b                      momentum, lr outside the buffer
        b <- mu*b + lr*u;  p <- p - b                         momentum, lr inside the buffer

    `rule.equations()` prints the lines that one rule computes, with its numbers.

    Parameters
    ----------
    lr
        Learning rate, finite and at least 0.
    decay
        rho, the decay rate of the averages v and m, in [0, 1). It is `alpha` in PyTorch, `rho` in
        Keras, `beta2` in Adam.
    eps
        Added to the denominator, finite and at least 0.
    momentum
        mu, in [0, 1]; 0 is no momentum. It is `beta1` in Adam.
    centered
        Divide by the standard deviation of the gradient instead of its root mean square. The
        variance v - m^2 is kept at 0 where rounding makes it negative (the frameworks give NaN).
    nesterov
        Move by mu*b + u in place of b. Needs momentum.
    weight_decay
        wd, finite and at least 0.
    decoupled_weight_decay
        Shrink p by lr*wd*p before the step (AdamW, Keras) instead of adding wd*p to the gradient.
    eps_in_sqrt
        eps stands inside the square root (Keras, TensorFlow, Optax) instead of outside (PyTorch).
    lr_in_momentum
        The buffer holds lr*u (Keras, TensorFlow, Optax) instead of u (PyTorch). The two differ
        only when lr changes.
    initial_scale
        The value at which v starts, finite and at least 0 (TensorFlow: 1).
    bias_correction
        Use v/(1-rho^t) and m/(1-rho^t) at step t, counted from 1, in place of v and m.
    maximize
        Climb instead of descend.
    clip_value
        Clip each component of the gradient to [-clip_value, clip_value].
    clip_norm
        Scale each array's gradient so that its Euclidean norm is at most this.
    clip_global_norm
        Scale all gradients together so that their joint Euclidean norm is at most this.
    second_moment
        How v accumulates: `"ema"` (RMSprop, Adam), `"sum"` (AdaGrad: v <- v + g^2) or `"none"`
        (SGD: u <- g).
    first_moment
        Where the momentum buffer stands: `"after"` the division (RMSprop) or `"before"` it (Adam:
        b <- mu*b + (1-mu)*g, and u is b over the root).

    Raises
    ------
    TypeError, ValueError
        For a value out of its range, or switches that exclude each other. The message gives the
        rule, the value and the remedy.

    Examples
    --------
    >>> from rmsprop import Rule
    >>> rule = Rule.from_dialect("torch", lr=0.001, weight_decay=1e-4)
    >>> rule
    Rule(lr=0.001, decay=0.99, weight_decay=0.0001)
    >>> print(rule.equations())
    g <- g + 0.0001*p
    v <- 0.99*v + 0.01*g^2      (v starts at 0)
    u <- g/(sqrt(v) + 1e-08)
    p <- p - 0.001*u

    References
    ----------
    Tieleman and Hinton, Lecture 6.5, COURSERA, 2012; Graves, arXiv:1308.0850 (centered).
    """

    lr: float = 0.01
    decay: float = 0.9
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    eps_in_sqrt: bool = False
    lr_in_momentum: bool = False
    initial_scale: float = 0.0
    bias_correction: bool = False
    maximize: bool = False
    clip_value: float | None = None
    clip_norm: float | None = None
    clip_global_norm: float | None = None
    second_moment: Literal["ema", "sum", "none"] = "ema"
    first_moment: Literal["after", "before"] = "after"

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        for broken, message in _conflicts(self):
            if broken:
                raise ValueError(message)

    @classmethod
    def from_dialect(cls, dialect: str, **fields: Any) -> Self:
        """The rule of a framework's RMSprop, or of a baseline, with the defaults it has there.

        Parameters
        ----------
        dialect
            A key of `rmsprop.DIALECTS` (hinton, graves, torch, keras, tf1, optax, timm, sb3) or of
            `rmsprop.PRESETS` (sgd, momentum, nesterov, adagrad, adam, adamw).
        **fields
            Fields of `Rule` that replace the dialect's. `lr` is required for tf1 and optax, which
            have no default.

        Raises
        ------
        ValueError
            For an unknown dialect or a missing learning rate.
        TypeError
            For an unknown field.

        Examples
        --------
        >>> Rule.from_dialect("keras", lr=0.002).eps_in_sqrt
        True
        """
        known = DIALECTS | PRESETS
        if dialect not in known:
            raise ValueError(f"unknown dialect {dialect!r}{near(dialect, known)}")
        merged = known[dialect].fields | fields
        if "lr" not in merged:
            raise ValueError(f"the dialect {dialect!r} has no default learning rate: give lr=...")
        return cls.from_dict(merged)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The rule with these fields; what is absent keeps its default.

        Raises TypeError for a field that `Rule` does not have, and as `Rule` for a bad value.

        Examples
        --------
        >>> Rule.from_dict({"lr": 0.1, "decay": 0.99})
        Rule(lr=0.1, decay=0.99)
        """
        for name in fields:
            if name not in _CHECKS:
                raise TypeError(f"Rule has no field {name!r}{near(name, _CHECKS)}")
        return cls(**fields)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The rule that `to_json` wrote.

        Raises ValueError where the text is not a JSON object, and as `from_dict` for its fields.

        Examples
        --------
        >>> Rule.from_json(Rule(lr=0.5).to_json()) == Rule(lr=0.5)
        True
        """
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise ValueError(f"a rule is a JSON object of its fields, not {text[:40]!r}")
        return cls.from_dict(fields)

    def to_dict(self) -> dict[str, Any]:
        """Every field and its value, ready for JSON.

        Examples
        --------
        >>> Rule(lr=0.5).to_dict()["lr"]
        0.5
        """
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Every field and its value as one line of JSON; `from_json` reads it back, bit for bit.

        Examples
        --------
        >>> Rule(lr=0.5).to_json()[:12]
        '{"lr": 0.5, '
        """
        return json.dumps(self.to_dict())

    def replace(self, **fields: Any) -> Self:
        """The same rule with some fields replaced, validated anew.

        Raises TypeError for an unknown field, and as `Rule` for a bad value.

        Examples
        --------
        >>> Rule(lr=0.1).replace(lr=0.2, momentum=0.9)
        Rule(lr=0.2, momentum=0.9)
        """
        return self.from_dict(self.to_dict() | fields)

    @property
    def slots(self) -> tuple[str, ...]:
        """The state arrays that the rule keeps for each parameter, out of `v`, `m` and `b`.

        Examples
        --------
        >>> Rule(momentum=0.9).slots
        ('v', 'b')
        """
        kept = {
            "v": self.second_moment != "none",
            "m": self.centered,
            "b": self.momentum > 0 or self.first_moment == "before",
        }
        return tuple(slot for slot, on in kept.items() if on)

    def equations(self) -> str:
        """What this rule computes for one parameter, line by line, with its numbers.

        Examples
        --------
        >>> print(Rule.from_dialect("sgd", lr=0.1).equations())
        p <- p - 0.1*g
        """
        return "\n".join(line for on, line in _lines(self) if on)

    def __repr__(self) -> str:
        shown = {"lr": self.lr} | {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return f"Rule({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def near(word: Any, known: Any) -> str:
    """A hint for a mistyped name: the near one, and all there are."""
    close = difflib.get_close_matches(str(word).lower(), known, n=1)  # every name is in lower case
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess} (known: {', '.join(known)})"


def _number(rule: str, test: Callable[[float], bool]) -> Callable[[str, Any], float]:
    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{name} must be a number {rule}; got {value!r}: pass a float")
        try:
            number = float(value)
        except OverflowError:  # an int or a fraction beyond the floats
            number = math.inf
        if not (math.isfinite(number) and test(number)):
            raise ValueError(f"{name} must be a number {rule}; got {number!r}")
        return number

    return check


def _optional(check: Callable[[str, Any], float]) -> Callable[[str, Any], float | None]:
    return lambda name, value: None if value is None else check(name, value)


def _switch(name: str, value: Any) -> bool:
    if isinstance(value, bool) or type(value).__name__ == "bool":  # the second is NumPy's
        return bool(value)
    raise TypeError(f"{name} is a switch; got {value!r}: pass True or False")


def _choice(*known: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
        return value

    return check


_at_least_0 = _number("at least 0, and finite", lambda x: x >= 0)
_above_0 = _optional(_number("above 0, and finite, or None to leave it off", lambda x: x > 0))
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "lr": _at_least_0,
    "decay": _number("in [0, 1): 0 forgets at once, 0.99 averages about 100 steps",
                     lambda x: 0 <= x < 1),
    "eps": _at_least_0,
    "momentum": _number("in [0, 1]", lambda x: 0 <= x <= 1),
    "centered": _switch,
    "nesterov": _switch,
    "weight_decay": _at_least_0,
    "decoupled_weight_decay": _switch,
    "eps_in_sqrt": _switch,
    "lr_in_momentum": _switch,
    "initial_scale": _at_least_0,
    "bias_correction": _switch,
    "maximize": _switch,
    "clip_value": _above_0,
    "clip_norm": _above_0,
    "clip_global_norm": _above_0,
    "second_moment": _choice("ema", "sum", "none"),
    "first_moment": _choice("after", "before"),
}  # fmt: skip


def _conflicts(rule: Rule) -> list[tuple[bool, str]]:
    before, ema = rule.first_moment == "before", rule.second_moment == "ema"
    clips = [n for n in ("clip_value", "clip_norm", "clip_global_norm") if getattr(rule, n)]
    return [
        (
            rule.nesterov and not rule.momentum,
            "nesterov=True needs momentum; got momentum=0.0: set it above 0, or nesterov=False",
        ),
        (
            rule.nesterov and before,
            "nesterov=True needs first_moment='after'; got 'before': use one or the other",
        ),
        (
            rule.lr_in_momentum and before,
            "lr_in_momentum=True needs first_moment='after'; got 'before': use one or the other",
        ),
        (
            before and rule.momentum == 1,
            "first_moment='before' needs momentum below 1; got 1.0: its average would stay at zero",
        ),
        (
            rule.centered and not ema,
            f"centered=True needs second_moment='ema'; got {rule.second_moment!r}",
        ),
        (
            rule.bias_correction and not ema and not before,
            f"bias_correction=True needs an average to correct: second_moment='ema' or "
            f"first_moment='before'; got {rule.second_moment!r} and {rule.first_moment!r}",
        ),
        (
            len(clips) > 1,
            f"one clip at a time; got {' and '.join(clips)}: leave all but one at None",
        ),
    ]


def _lines(rule: Rule) -> list[tuple[bool, str]]:
    """The equations in the order of computation, each with whether this rule has it."""
    r, mu, lr, eps = (f"{x:.12g}" for x in (rule.decay, rule.momentum, rule.lr, rule.eps))
    r1, mu1 = f"{1 - rule.decay:.12g}", f"{1 - rule.momentum:.12g}"
    ema, adaptive = rule.second_moment == "ema", rule.second_moment != "none"
    before = rule.first_moment == "before"
    buffered = rule.momentum > 0 and not before
    fixed_v, fixed_b = rule.bias_correction and ema, rule.bias_correction and before
    v, m = ("vhat", "mhat") if fixed_v else ("v", "m")
    top = ("bhat" if fixed_b else "b") if before else "g"
    d = "d" if rule.centered else v
    root = f"sqrt({d} + {eps})" if rule.eps_in_sqrt else f"(sqrt({d}) + {eps})"
    u = "u" if adaptive else top
    gain, rate = (f"{lr}*", "") if rule.lr_in_momentum else ("", f"{lr}*")
    move = f"({mu}*b + {gain}{u})" if rule.nesterov else "b"
    wd, start = rule.weight_decay, f"      (v starts at {rule.initial_scale:.12g})"
    norm = rule.clip_norm or rule.clip_global_norm
    joint = " over all arrays" if rule.clip_global_norm else ""
    return [
        (rule.maximize, "g <- -g"),
        (bool(rule.clip_value), f"g <- min(max(g, -{rule.clip_value}), {rule.clip_value})"),
        (bool(norm), f"g <- g*min(1, {norm}/|g|)      (|g|: the Euclidean norm{joint})"),
        (wd > 0 and not rule.decoupled_weight_decay, f"g <- g + {wd:.12g}*p"),
        (wd > 0 and rule.decoupled_weight_decay, f"p <- p - {lr}*{wd:.12g}*p"),
        (ema, f"v <- {r}*v + {r1}*g^2{start}"),
        (rule.second_moment == "sum", f"v <- v + g^2{start}"),
        (fixed_v, f"vhat <- v/(1 - {r}^t)"),
        (before, f"b <- {mu}*b + {mu1}*g"),
        (fixed_b, f"bhat <- b/(1 - {mu}^t)"),
        (rule.centered, f"m <- {r}*m + {r1}*g"),
        (rule.centered and fixed_v, f"mhat <- m/(1 - {r}^t)"),
        (rule.centered, f"d <- max({v} - {m}^2, 0)"),
        (adaptive, f"u <- {top}/{root}"),
        (buffered, f"b <- {mu}*b + {gain}{u}"),
        (buffered, f"p <- p - {rate}{move}"),
        (not buffered, f"p <- p - {lr}*{u}"),
    ]
