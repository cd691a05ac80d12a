"""Where good settings of an optimizer are to be looked for, unless the user says."""

from rmsprop.rule import Rule
from rmsprop.space import Space, parse

# lr and eps over ratios, decay and momentum over ratios of their distance from 1, the rest as switches.
_RMSPROP = (
    "lr=1e-5:1", "decay=0.5:0.9999", "eps=1e-10:1e-2", "eps_in_sqrt=false,true", "centered=false,true",
    "momentum=0,0.5,0.9",
)  # fmt: skip
_ADAM = ("lr=1e-5:1", "decay=0.9:0.9999", "eps=1e-10:1e-2", "momentum=0.5:0.99")
_ADAGRAD = ("lr=1e-4:10", "eps=1e-10:1e-2")
_SGD = ("lr=1e-4:10",)
_MOMENTUM = ("lr=1e-5:1", "momentum=0.5:0.99")


def prior(rule: Rule, fixed: frozenset[str] = frozenset()) -> Space:
    """The space in which an optimizer of this kind is searched.

    Parameters
    ----------
    rule
        RMSprop in any dialect, or a baseline.
    fixed
        Names that are not searched, as the user has set them.

    Examples
    --------
    >>> [d.name for d in prior(Rule())]
    ['lr', 'decay', 'eps', 'eps_in_sqrt', 'centered', 'momentum']
    >>> [str(d) for d in prior(Rule.from_dialect("sgd", lr=1))]
    ['lr=0.0001:10:log']
    """
    if rule.second_moment == "none":
        lines = _MOMENTUM if rule.momentum else _SGD
    elif rule.second_moment == "sum":
        lines = _ADAGRAD
    else:
        lines = _ADAM if rule.first_moment == "before" else _RMSPROP
    found = tuple(d for d in map(parse, lines) if d.name not in fixed)
    if not found:
        raise ValueError("all settings are given: there is nothing to search")
    return found
