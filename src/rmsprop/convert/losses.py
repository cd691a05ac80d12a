"""What a rule loses when another optimizer is to go on with its state: named, so that it can be accepted."""

from typing import NamedTuple

from rmsprop.dialects import DIALECTS
from rmsprop.rule import Rule


class Loss(NamedTuple):
    """One way in which the run will not go on as it would have."""

    name: str
    """The word to accept it by; "" for what nobody can accept."""
    why: str
    """What changes, and the remedy."""


# What the framework's own optimizer lets its user choose; its other switches are the dialect's.
_NUMBERS = {"lr", "decay", "eps", "momentum", "centered"}
_CLIPS = {"clip_value", "clip_norm", "clip_global_norm"}
_FREE = {
    "torch": _NUMBERS | {"weight_decay", "maximize"},
    "timm": _NUMBERS | {"weight_decay", "decoupled_weight_decay", "lr_in_momentum"},
    "sb3": _NUMBERS | {"weight_decay"},
    "keras": _NUMBERS | {"weight_decay"} | _CLIPS,
    "tf1": _NUMBERS,
    "optax": _NUMBERS | {"nesterov", "bias_correction", "eps_in_sqrt", "initial_scale"},
}
OWN = {
    "torch": "torch.optim.RMSprop",
    "timm": "timm.optim.RMSpropTF",
    "sb3": "stable-baselines3's RMSpropTFLike",
    "keras": "keras.optimizers.RMSprop",
    "tf1": "tf.compat.v1.train.RMSPropOptimizer",
    "optax": "optax.rmsprop",
}
"""The optimizers that dialects are of."""


def as_dialect(rule: Rule, dialect: str) -> Rule:
    """The rule that a framework's own optimizer computes when it gets this one's numbers.

    Raises ValueError for a dialect without an optimizer of its own.

    Examples
    --------
    >>> as_dialect(Rule.from_dialect("keras", nesterov=True, momentum=0.9), "torch")
    Rule(lr=0.001, eps=1e-07, momentum=0.9)
    """
    if dialect not in _FREE:
        raise ValueError(
            f"no framework's own optimizer computes {dialect!r}; known: {', '.join(_FREE)}"
        )
    switches = {k: x for k, x in DIALECTS[dialect].fields.items() if k not in _NUMBERS}
    plain = Rule().to_dict() | switches
    free = {name: getattr(rule, name) for name in _FREE[dialect]}
    return Rule.from_dict(plain | free)


def readers(rule: Rule, kind: str) -> list[str]:
    """The framework's own optimizers, of a kind of file, that compute this rule."""
    of_kind = {"torch": ("torch", "timm", "sb3"), "sb3": ("sb3", "torch"), "bitsandbytes": ()}
    return [OWN[d] for d in of_kind.get(kind, (kind,)) if d in _FREE and _computes(d, rule)]


def _computes(dialect: str, rule: Rule) -> bool:
    own = as_dialect(rule, dialect)
    one_unit = not rule.momentum or own.lr_in_momentum == rule.lr_in_momentum
    return one_unit and not _differ(rule, own, started=True)


def losses(source: Rule, target: Rule, *, started: bool) -> list[Loss]:
    """What is lost between two rules; nothing where they compute the same from here on.

    Parameters
    ----------
    source, target
        The rule that wrote the state, and the one that is to go on with it.
    started
        Whether every parameter has its average v, so that where v starts has no effect any more.

    Examples
    --------
    >>> [loss.name for loss in losses(Rule.from_dialect("keras"), Rule(lr=0.001), started=True)]
    ['eps']
    """
    found = [_loss(name, source, target) for name in _differ(source, target, started)]
    return list({loss.name: loss for loss in reversed(found)}.values())[::-1]


_ALIAS = {"eps_in_sqrt": "eps", "decoupled_weight_decay": "weight_decay"}


def _differ(source: Rule, target: Rule, started: bool) -> list[str]:
    """The fields on which two rules differ with an effect; the buffer's unit is not one of them."""
    a, b = source.to_dict(), target.to_dict()
    idle = {"lr", "lr_in_momentum"}
    if not (source.eps or target.eps):
        idle.add("eps_in_sqrt")
    if not (source.weight_decay or target.weight_decay):
        idle.add("decoupled_weight_decay")
    if started:
        idle.add("initial_scale")
    return [name for name in a if a[name] != b[name] and name not in idle]


def _loss(name: str, source: Rule, target: Rule) -> Loss:
    told = _WHY.get(name, "{name} is {there!r} there and {here!r} here")
    here, there = getattr(target, name), getattr(source, name)
    if name in ("second_moment", "first_moment"):
        return Loss("", told.format(name=name, here=here, there=there))
    return Loss(_ALIAS.get(name, name), told.format(name=name, here=here, there=there))


_WHY = {
    "centered": "centered is {there} there and {here} here: the mean of the gradients would start at zero, "
    "or be dropped",
    "initial_scale": "parameters that have had no step would start from v = {here} here, and from {there} "
    "there",
    "second_moment": "the averages are of another kind ({there} there, {here} here): no state can be made "
    "up for it",
    "first_moment": "the buffer stands {there} the division there and {here} it here: no state can be made "
    "up for it",
    "eps_in_sqrt": "eps stands elsewhere (inside the root: {there} there, {here} here), and there is no eps "
    "that turns one into the other",
    "decoupled_weight_decay": "weights decay apart from the gradient in one and through it in the other "
    "(decoupled: {there} there, {here} here); the averages contain what they were made with",
}
