"""What the user gives, as switches (a Rule) and numbers, some of which JAX may be tracing."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp

from rmsprop.jax.arithmetic import Numbers
from rmsprop.rule import Rule

# For a number that is not known when the switches are checked: in range, and on.
_STANDS_FOR = dict.fromkeys(Numbers._fields, 0.5)


def of_rule(rule: Rule) -> Numbers:
    """The numbers of a rule.

    Examples
    --------
    >>> of_rule(Rule(lr=0.1, decay=0.99))[:3]
    (0.1, 0.99, 1e-08)
    """
    return Numbers(**{name: getattr(rule, name) for name in Numbers._fields})


def of_dialect(dialect: str, fields: dict[str, Any]) -> tuple[Rule, Numbers]:
    """The rule of a dialect with these fields, and its numbers.

    Where a number is an array of JAX, or is being traced, it cannot be checked here: the rule has another in
    its place, which leaves its switch on.

    Parameters
    ----------
    dialect
        As in `Rule.from_dialect`.
    fields
        Fields of `Rule`; what is None is the dialect's default.

    Raises
    ------
    TypeError, ValueError
        As `Rule`, and for an array that is not one real number.

    Examples
    --------
    >>> rule, numbers = of_dialect("optax", {"lr": 0.1, "momentum": jnp.zeros(()), "centered": None})
    >>> rule.slots
    ('v', 'b')
    """
    given = {name: x for name, x in fields.items() if x is not None}
    arrays = {name: scalar(name, given[name]) for name in Numbers._fields if _array(given, name)}
    known = given | {name: _STANDS_FOR[name] for name in arrays}
    try:
        rule = Rule.from_dialect(dialect, **known)
    except (TypeError, ValueError) as error:
        raise _in_optaxs_words(error) from None
    return rule, of_rule(rule)._replace(**arrays)


def with_rate(rule: Rule, rate: Any) -> Numbers:
    """The numbers of a rule with another learning rate; None is the rule's own.

    Raises as `of_dialect`.

    Examples
    --------
    >>> with_rate(Rule(), 0.5).lr
    0.5
    """
    if rate is None or callable(rate):
        return of_rule(rule)
    if _array({"lr": rate}, "lr"):
        return of_rule(rule)._replace(lr=scalar("lr", rate))
    try:
        return of_rule(rule.replace(lr=rate))
    except (TypeError, ValueError) as error:
        raise _in_optaxs_words(error) from None


def scalar(name: str, x: Any) -> jax.Array:
    """An array of JAX with one real number, or TypeError, ValueError.

    Examples
    --------
    >>> print(scalar("eps", jnp.array(0.5)))
    0.5
    """
    name, x = _OPTAXS.get(name, name), jnp.asarray(x)
    if not any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"{name} must be a real number; got an array of {x.dtype}")
    if x.shape:
        raise ValueError(f"{name} must be one number; got an array of shape {x.shape}")
    return x


def _array(given: dict[str, Any], name: str) -> bool:
    x = given.get(name)
    return hasattr(x, "dtype") and not isinstance(x, numbers.Real)


_OPTAXS = {"lr": "learning_rate"}


def _in_optaxs_words(error: Exception) -> Exception:
    """The rule's complaint with Optax's name for the field."""
    text = str(error)
    for field in dataclasses.fields(Rule):
        if field.name in _OPTAXS and text.startswith(f"{field.name} "):
            text = _OPTAXS[field.name] + text.removeprefix(field.name)
    return type(error)(text.replace("give lr=", "give learning_rate="))
