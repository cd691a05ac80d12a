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

from pathlib import Path
from typing import Any, Literal

import numpy as np

from rmsprop import files, tree
from rmsprop.kernels.element import flags_of, scalars_of
from rmsprop.kernels.norms import norms
from rmsprop.kernels.plan import Plan
from rmsprop.rule import Rule
from rmsprop.schedules import Schedule, as_schedule
from rmsprop.state import SLOTS, State, check_same_averages
from rmsprop.tree import Array, Tree

__all__ = ["SGD", "AdaGrad", "Adam", "Optimizer", "RMSprop", "State", "step"]

NanPolicy = Literal["propagate", "skip", "raise"]
_FILE_KIND = "rmsprop.numpy state"


class Optimizer:
    """A Rule that updates nested dicts and lists of arrays in place.

    Parameters
    ----------
    rule
        The update. Its `lr` is used unless `learning_rate` is given.
    learning_rate
        A number, or a schedule: a callable of the step (from 0), as those of `rmsprop.schedules`.
    nan_policy
        What a NaN or an infinity in any gradient does: `"propagate"` it to the parameters, as every
        framework does; `"skip"` the whole update, leaving parameters, state and step as they were, and
        count it in `skipped`; or `"raise"` FloatingPointError before anything changes.

    Examples
    --------
    >>> optimizer = Optimizer(Rule.from_dialect("keras", lr=0.1))
    >>> optimizer.update([np.ones(2)], [np.full(2, 0.5)])[0].round(4).tolist()
    [0.6838, 0.6838]
    """

    def __init__(
        self,
        rule: Rule,
        learning_rate: Schedule | float | None = None,
        nan_policy: NanPolicy = "propagate",
    ):
        if nan_policy not in ("propagate", "skip", "raise"):
            raise ValueError(f"nan_policy must be propagate, skip or raise; got {nan_policy!r}")
        self._rule = rule
        self.learning_rate = rule.lr if learning_rate is None else learning_rate
        self.nan_policy = nan_policy
        self.skipped = 0
        self._state = State()
        self._plan: Plan | None = None

    @property
    def rule(self) -> Rule:
        """The update, with the learning rate of the next step.

        Setting it changes the rule mid-run. Momentum that is switched on starts from an empty buffer;
        switching centering on, or the kind of an average, is refused, as no state can be made up for it.
        """
        return self._rule.replace(lr=self.current_learning_rate)

    @rule.setter
    def rule(self, rule: Rule) -> None:
        if self._state.slots:
            check_same_averages(self._rule, rule)
        # At once: a buffer that waited for momentum to come back might be read with other units.
        self._state.slots = {s: a for s, a in self._state.slots.items() if s in rule.slots}
        self._rule = rule
        self.learning_rate = rule.lr
        self._plan = None

    @property
    def learning_rate(self) -> Schedule | float:
        """The learning rate, a number or a schedule; assign either at any time."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Schedule | float) -> None:
        self._learning_rate = value if callable(value) else self._rule.replace(lr=value).lr
        self._schedule = as_schedule(self._learning_rate)

    @property
    def current_learning_rate(self) -> float:
        """The learning rate that the next update will use."""
        lr = float(self._schedule(self._state.step))
        if not 0 <= lr < float("inf"):
            raise ValueError(
                f"the learning rate must be finite and at least 0; the schedule gave {lr} at step "
                f"{self._state.step}"
            )
        return lr

    @property
    def step_count(self) -> int:
        """Updates made so far."""
        return self._state.step

    @property
    def state(self) -> State:
        """What the optimizer remembers: the arrays themselves, to look at."""
        return self._state

    def update(self, params: Tree, grads: Tree) -> Tree:
        """Move the parameters one step, in place, and return them.

        Parameters
        ----------
        params
            Arrays of float16, float32 or float64 and any shape (also empty, 0-d and non-contiguous), in
            nested dicts and lists. The state belongs to the paths: other arrays may come next time.
        grads
            The same tree of gradients of the same shapes. They are not changed.

        Raises
        ------
        KeyError, TypeError, ValueError
            For names, dtypes, shapes that do not match, and for parameters that are read-only or share
            memory. Nothing has changed then.
        FloatingPointError
            For a gradient that is not finite, under nan_policy="raise".

        Examples
        --------
        >>> optimizer, params = RMSprop(0.1), {"layer": [np.zeros(2), np.zeros(())]}
        >>> _ = optimizer.update(params, {"layer": [np.ones(2), np.ones(())]})
        >>> params["layer"][0].round(4).tolist()
        [-0.3162, -0.3162]
        """
        lr = self.current_learning_rate
        plan = self._bind(params, grads)
        lengths = norms(plan.flat_grads) if self._wants_norms() else None
        if lengths is not None and self._refuses(plan, lengths):
            self.skipped += 1
            return params
        self._state.step += 1
        h = scalars_of(self._rule, lr, self._state.step)
        plan.step(self._flags, h, self._scales(lengths))
        return params

    def _bind(self, params: Tree, grads: Tree) -> Plan:
        """The plan for these arrays: the last one as it is, if they are the same objects."""
        p, g = tree.flatten(params, "params"), tree.flatten(grads, "grads")
        plan = self._plan
        if plan is not None and plan.holds(p):
            if plan.holds_grads(g):
                return plan
            tree.check_grads(p, g)
        else:
            tree.check_params(p)
            tree.check_grads(p, g)
            self._state.grow(self._rule, p)
            self._flags = flags_of(self._rule)
            self._plan = plan = Plan(p, self._state.slots)
        plan.bind(g)
        return plan

    def _wants_norms(self) -> bool:
        rule = self._rule
        return bool(self.nan_policy != "propagate" or rule.clip_norm or rule.clip_global_norm)

    def _refuses(self, plan: Plan, lengths: Array) -> bool:
        """Whether the NaN policy skips this update."""
        if self.nan_policy == "propagate" or np.isfinite(lengths).all():
            return False
        if self.nan_policy == "skip":
            return True
        path = list(plan.params)[int(np.flatnonzero(~np.isfinite(lengths))[0])]
        g = plan.grads[path]
        raise FloatingPointError(
            f"the gradient{tree.at(path)} holds {np.isnan(g).sum()} NaN and {np.isinf(g).sum()} "
            f"infinities of {g.size} values at step {self._state.step}: nothing was changed; lower the "
            "learning rate, clip, or use nan_policy='skip'"
        )

    def _scales(self, lengths: Array | None) -> Array | None:
        """A factor for each gradient: clipping by norm, and the sign of maximize; None for 1."""
        rule = self._rule
        factor: Any = -1.0 if rule.maximize else 1.0
        if lengths is not None:
            # fmin passes over the NaN of 0/0 and of a gradient that is NaN itself.
            with np.errstate(divide="ignore", invalid="ignore"):
                if rule.clip_norm is not None:
                    factor = factor * np.fmin(1.0, rule.clip_norm / lengths)
                if rule.clip_global_norm is not None:
                    factor = factor * np.fmin(1.0, rule.clip_global_norm / np.hypot.reduce(lengths))
        if self._plan is None or np.all(factor == 1.0):
            return None
        return np.broadcast_to(np.float64(factor), len(self._plan.params)).copy()

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the optimizer remembers.

        Returns
        -------
        dict
            `"rule"`: the rule's fields; `"step"`; `"skipped"`; and `"square_avg"`, `"grad_avg"`,
            `"momentum_buffer"`, as far as the rule keeps them: arrays by path.

        Examples
        --------
        >>> optimizer = RMSprop()
        >>> _ = optimizer.update({"w": np.ones(1)}, {"w": np.ones(1)})
        >>> optimizer.state_dict()["square_avg"]["w"].round(3).tolist()
        [0.1]
        """
        return self._state.copy().to_dict(self.rule, self.skipped)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned. The optimizer keeps its own rule and schedule.

        Raises
        ------
        ValueError
            For a state of a rule that averages otherwise, or one that is not complete: nothing is loaded
            then. Whether it fits the parameters is checked now if they are known, else at the next update.

        Examples
        --------
        >>> first, second = RMSprop(), RMSprop()
        >>> _ = first.update({"w": np.ones(1)}, {"w": np.ones(1)})
        >>> second.load_state_dict(first.state_dict())
        >>> second.step_count
        1
        """
        loaded = State.from_dict(state, self._rule)
        skipped = int(state.get("skipped", 0))
        if self._plan is not None:
            loaded.check_fits(self._plan.params)
        self._state, self.skipped, self._plan = loaded, skipped, None

    def save(self, path: str | Path) -> None:
        """Write the state to one safetensors file, replaced as a whole or not at all.

        Raises OSError where the file cannot be written; what was there before is kept.
        """
        header = self._state.to_dict(self.rule, self.skipped)
        arrays = {
            f"{name}/{where}": a
            for name in SLOTS.values()
            for where, a in header.pop(name, {}).items()
        }
        files.save_arrays(path, arrays, {"kind": _FILE_KIND} | header)

    def load(self, path: str | Path) -> None:
        """Go on from the file that `save` wrote.

        Raises ValueError for a file that is damaged or not such a state, and as `load_state_dict`.
        """
        arrays, state = files.load_arrays(path, _FILE_KIND)
        try:
            for key, a in arrays.items():
                name, _, where = key.partition("/")
                state.setdefault(name, {})[where] = a
            self.load_state_dict(state)
        except (
            TypeError
        ) as error:  # a header whose values are of other kinds than those that `save` wrote
            raise ValueError(f"{path} is damaged: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        # The plan holds addresses: a copy, or a pickle, that kept it would step the original's memory.
        return self.__dict__ | {"_plan": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rule!r}, step={self._state.step})"


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
    >>> from rmsprop import Rule
    >>> rule, params, state = Rule(lr=0.1), {"w": np.ones(1)}, None
    >>> for _ in range(3):
    ...     params, state = step(rule, params, {"w": params["w"]}, state)
    >>> state.step, params["w"].round(3).tolist()
    (3, [0.369])
    """
    optimizer = Optimizer(rule)
    if state is not None:
        optimizer._state = state.copy()
    moved = tree.map_leaves(lambda p: p.copy(), params)
    optimizer.update(moved, grads)
    return moved, optimizer.state
