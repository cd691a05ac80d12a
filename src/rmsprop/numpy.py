"""RMSprop, and the optimizers it is compared with, for dicts of NumPy arrays: in place, at memory speed.

    >>> import numpy as np
    >>> from rmsprop.numpy import RMSprop
    >>> params = {"w": np.array([1.0, 2.0, 3.0]), "b": np.array([0.1])}
    >>> grads = {"w": np.array([0.1, 0.2, 0.3]), "b": np.array([0.01])}
    >>> optimizer = RMSprop(learning_rate=0.01)
    >>> optimizer.update(params, grads)["w"].round(4).tolist()
    [0.9684, 1.9684, 2.9684]

The classes differ in the Rule that their arguments make and in nothing else.
"""

from typing import Any

from rmsprop import tree
from rmsprop.optimizer import NanPolicy, Optimizer
from rmsprop.rule import Rule
from rmsprop.schedules import Schedule
from rmsprop.state import State
from rmsprop.tree import Tree

__all__ = ["SGD", "AdaGrad", "Adam", "Optimizer", "RMSprop", "State", "step"]


class RMSprop(Optimizer):
    """RMSprop: divide the gradient by a running root mean square of its recent values.

    ::

        v <- decay_rate*v + (1 - decay_rate)*g^2
        p <- p - learning_rate*g/(sqrt(v) + epsilon)

    Parameters
    ----------
    learning_rate
        A number or a schedule. Default: the dialect's (hinton: 0.01).
    decay_rate
        In [0, 1). Default: the dialect's (hinton: 0.9).
    epsilon
        Default: the dialect's (hinton: 1e-8).
    momentum
        In [0, 1]. Default: the dialect's (hinton: 0.0).
    centered
        Divide by the standard deviation. Default: the dialect's (hinton: False).
    weight_decay
        Coupled or decoupled as the dialect has it. Default 0.0.
    dialect
        Whose RMSprop: hinton, graves, torch, keras, tf1, optax, timm or sb3. They differ in where epsilon
        and the learning rate stand and in where the average starts; see `rmsprop.DIALECTS`.
    nan_policy
        As in `Optimizer`.
    **switches
        Any other field of `rmsprop.Rule`: nesterov, bias_correction, clip_global_norm, ...

    Raises
    ------
    TypeError, ValueError
        As `rmsprop.Rule`.

    Examples
    --------
    >>> RMSprop(momentum=0.9, dialect="torch")
    RMSprop(Rule(lr=0.01, decay=0.99, momentum=0.9), step=0)

    References
    ----------
    Tieleman and Hinton, Lecture 6.5, COURSERA Neural Networks for Machine Learning, 2012.
    """

    def __init__(
        self,
        learning_rate: Schedule | float | None = None,
        decay_rate: float | None = None,
        epsilon: float | None = None,
        momentum: float | None = None,
        centered: bool | None = None,
        weight_decay: float | None = None,
        dialect: str = "hinton",
        nan_policy: NanPolicy = "propagate",
        **switches: Any,
    ):
        fields = {
            "decay": decay_rate,
            "eps": epsilon,
            "momentum": momentum,
            "centered": centered,
            "weight_decay": weight_decay,
        }
        rule = _rule(dialect, learning_rate, fields, switches)
        super().__init__(rule, learning_rate, nan_policy)


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if asked for.

    ::

        b <- momentum*b + g
        p <- p - learning_rate*b          nesterov: learning_rate*(momentum*b + g)

    Parameters
    ----------
    learning_rate
        A number or a schedule. Default 0.001.
    momentum, nesterov, weight_decay
        Defaults 0.0, False, 0.0.
    nan_policy, **switches
        As in `RMSprop`.

    Examples
    --------
    >>> import numpy as np
    >>> SGD(0.1).update({"w": np.array([1.0])}, {"w": np.array([2.0])})["w"].tolist()
    [0.8]

    References
    ----------
    Robbins and Monro, 1951; Polyak, 1964; Sutskever et al., 2013.
    """

    def __init__(
        self,
        learning_rate: Schedule | float | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        nan_policy: NanPolicy = "propagate",
        **switches: Any,
    ):
        fields = {"momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        rule = _rule("sgd", learning_rate, fields, switches)
        super().__init__(rule, learning_rate, nan_policy)


class AdaGrad(Optimizer):
    """AdaGrad: divide the gradient by the root of the sum of all its squares.

    ::

        v <- v + g^2
        p <- p - learning_rate*g/(sqrt(v) + epsilon)

    Parameters
    ----------
    learning_rate
        A number or a schedule. Default 0.01.
    epsilon, weight_decay
        Defaults 1e-10 and 0.0.
    nan_policy, **switches
        As in `RMSprop`; `initial_scale` is where v starts.

    Examples
    --------
    >>> import numpy as np
    >>> AdaGrad(0.1).update({"w": np.array([1.0])}, {"w": np.array([2.0])})["w"].round(6).tolist()
    [0.9]

    References
    ----------
    Duchi, Hazan and Singer, 2011, JMLR 12, 2121-2159.
    """

    def __init__(
        self,
        learning_rate: Schedule | float | None = None,
        epsilon: float | None = None,
        weight_decay: float = 0.0,
        nan_policy: NanPolicy = "propagate",
        **switches: Any,
    ):
        fields = {"eps": epsilon, "weight_decay": weight_decay}
        super().__init__(
            _rule("adagrad", learning_rate, fields, switches), learning_rate, nan_policy
        )


class Adam(Optimizer):
    """Adam: RMSprop whose numerator is a running mean of the gradient, both corrected for their start.

    ::

        b <- beta1*b + (1 - beta1)*g
        v <- beta2*v + (1 - beta2)*g^2
        p <- p - learning_rate*(b/(1 - beta1^t))/(sqrt(v/(1 - beta2^t)) + epsilon)

    Parameters
    ----------
    learning_rate
        A number or a schedule. Default 0.001.
    beta1, beta2, epsilon, weight_decay
        Defaults 0.9, 0.999, 1e-8, 0.0.
    decoupled_weight_decay
        True is AdamW. Default False.
    nan_policy, **switches
        As in `RMSprop`.

    Examples
    --------
    >>> import numpy as np
    >>> Adam(0.1).update({"w": np.array([1.0])}, {"w": np.array([2.0])})["w"].round(6).tolist()
    [0.9]

    References
    ----------
    Kingma and Ba, 2015, arXiv:1412.6980; Loshchilov and Hutter, 2019, arXiv:1711.05101.
    """

    def __init__(
        self,
        learning_rate: Schedule | float | None = None,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float | None = None,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        nan_policy: NanPolicy = "propagate",
        **switches: Any,
    ):
        fields = {
            "momentum": beta1,
            "decay": beta2,
            "eps": epsilon,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(_rule("adam", learning_rate, fields, switches), learning_rate, nan_policy)


def _rule(
    dialect: str, lr: Schedule | float | None, fields: dict[str, Any], switches: dict[str, Any]
) -> Rule:
    """The dialect's rule with what the user gave. A schedule brings its own learning rate."""
    given = {name: value for name, value in fields.items() if value is not None}
    if lr is not None:
        given["lr"] = lr(0) if callable(lr) else lr
    return Rule.from_dialect(dialect, **given, **switches)


def step(rule: Rule, params: Tree, grads: Tree, state: State | None = None) -> tuple[Tree, State]:
    """One update as a function: new parameters and new state; nothing that is passed in is changed.

    Parameters
    ----------
    rule
        The update; a schedule is `rule.replace(lr=...)` at each step.
    params, grads
        As in `Optimizer.update`.
    state
        What the step before returned; None at the first.

    Raises
    ------
    KeyError, TypeError, ValueError
        As `Optimizer.update`.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop import Rule
    >>> rule, params, state = Rule(lr=0.1), {"w": np.ones(1)}, None
    >>> for _ in range(3):
    ...     params, state = step(rule, params, {"w": params["w"]}, state)
    >>> state.step, params["w"].round(3).tolist()
    (3, [0.369])
    """
    optimizer = Optimizer(rule, state=None if state is None else state.copy())
    moved = tree.map_leaves(lambda p: p.copy(), params)
    optimizer.update(moved, grads)
    return moved, optimizer.state
