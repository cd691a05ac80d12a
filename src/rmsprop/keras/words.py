"""From Keras's words to a Rule, and errors back to Keras's words."""

import re
from typing import Any

from rmsprop.dialects import DIALECTS
from rmsprop.rule import Rule, near

WORDS = {
    "lr": "learning_rate",
    "decay": "rho",
    "eps": "epsilon",
    "clip_value": "clipvalue",
    "clip_norm": "clipnorm",
    "clip_global_norm": "global_clipnorm",
}
"""Fields of a rule that have another name in Keras."""

ARGUMENTS = ("rho", "momentum", "epsilon", "centered")
"""What `keras.optimizers.RMSprop` keeps in its config beside the arguments of every optimizer."""

_FIELDS = {name: WORDS.get(name, name) for name in Rule().to_dict()}
_NAMES = {word: name for name, word in _FIELDS.items()}


def rule_of(dialect: str, learning_rate: Any, given: dict[str, Any]) -> Rule:
    """The dialect's rule with what the user gave, in Keras's words; None stands for not given.

    Parameters
    ----------
    dialect
        A key of `rmsprop.DIALECTS`.
    learning_rate
        A number, or a schedule or function, which brings its own.
    given
        Values by Keras's name, or by the rule's where Keras has none.

    Raises
    ------
    TypeError, ValueError
        For an unknown name, or a value out of its range.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"unknown dialect {dialect!r}{near(dialect, DIALECTS)}")
    for word in given:
        if word not in _NAMES:
            raise TypeError(f"RMSprop has no argument {word!r}{near(word, _NAMES)}")
    fields = {_NAMES[word]: value for word, value in given.items() if value is not None}
    if callable(learning_rate):
        learning_rate = DIALECTS[dialect].fields.get("lr", 0.0)
    if learning_rate is not None:
        fields["lr"] = learning_rate
    try:
        return Rule.from_dialect(dialect, **fields)
    except (TypeError, ValueError) as error:
        raise type(error)(in_keras_words(str(error))) from None


def switches_of(rule: Rule, dialect: str) -> dict[str, Any]:
    """The fields without a name in Keras in which a rule is not the dialect's: what a config must add."""
    known, plain = rule.to_dict(), Rule.from_dialect(dialect, lr=0.0).to_dict()
    own = set(known) - set(WORDS) - set(ARGUMENTS) - {"weight_decay"}
    return {name: known[name] for name in known if name in own and known[name] != plain[name]}


def in_keras_words(message: str) -> str:
    """The text of an error, with Keras's names for the rule's."""
    return re.sub(r"\b(" + "|".join(WORDS) + r")\b", lambda found: WORDS[found[0]], message)
