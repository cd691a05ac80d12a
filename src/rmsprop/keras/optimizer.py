"""The Keras optimizers: `RMSprop`, and any rule as `RuleOptimizer`."""

import math
from importlib import import_module
from typing import Any

import keras

from rmsprop.keras.words import ARGUMENTS, WORDS, rule_of, switches_of
from rmsprop.rule import Rule

ops: Any = keras.ops  # whose results have no type that holds on every backend

_CLIPS = ("clip_value", "clip_norm", "clip_global_norm")


@keras.saving.register_keras_serializable(package="rmsprop")
class RuleOptimizer(keras.optimizers.Optimizer):
    """A `rmsprop.Rule` as a `keras.optimizers.Optimizer`; `from_rule` makes one.

    Clipping, decoupled weight decay, averaging of weights, loss scaling and accumulation of gradients are
    Keras's own; `update_step` computes the rest.  State has the parameter's shape and dtype, but float32
    for float16 and bfloat16 parameters, whose steps are computed in float32 too.  A sparse gradient (of an
    embedding on TensorFlow) is made dense: every row's average decays, not only those that were touched.

    Parameters
    ----------
    rule
        The update, a `Rule` or the dict of its fields; with its weight decay and clipping.
    learning_rate
        A number, a `keras.optimizers.schedules.LearningRateSchedule` or a function without arguments, in
        place of the rule's.
    use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name
        As in `keras.optimizers.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range.

    Examples
    --------
    >>> weight = keras.Variable([1.0, 1.0])
    >>> optimizer = RuleOptimizer(Rule.from_dialect("adam", lr=0.1))
    >>> optimizer.apply([keras.ops.convert_to_tensor([2.0, -3.0])], [weight])
    >>> print(keras.ops.convert_to_numpy(weight.value).round(3))
    [0.9 1.1]
    """

    def __init__(
        self,
        rule: Rule | dict[str, Any],
        learning_rate: Any = None,
        *,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
    ):
        rule = Rule.from_dict(rule) if isinstance(rule, dict) else rule
        if not isinstance(rule, Rule):
            raise TypeError(f"rule must be a Rule; got {rule!r}: Rule.from_dialect makes one")
        if learning_rate is not None and not callable(learning_rate):
            rule = rule.replace(lr=learning_rate)
        super().__init__(
            learning_rate=learning_rate if callable(learning_rate) else rule.lr,
            weight_decay=rule.weight_decay or None,  # Keras's own default
            **{WORDS[clip]: getattr(rule, clip) for clip in _CLIPS},
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        self._rule = rule
        torch = keras.backend.backend() == "torch"
        self._fused: Any = import_module("rmsprop.keras.fused").Fused(rule) if torch else None

    @property
    def rule(self) -> Rule:
        """The update as it is now: with the learning rate, weight decay and clipping of this moment.

        Examples
        --------
        >>> print(RuleOptimizer(Rule(lr=0.5, second_moment="none")).rule.equations())
        p <- p - 0.5*g
        """
        clips = {clip: getattr(self, WORDS[clip]) or None for clip in _CLIPS}
        rate = float(ops.convert_to_numpy(ops.convert_to_tensor(self.learning_rate)))
        given = self._rule.lr
        same = abs(rate - given) <= 2.0**-24 * given  # Keras keeps it in float32
        lr = given if same else rate
        return self._rule.replace(lr=lr, weight_decay=self.weight_decay or 0.0, **clips)

    def build(self, variables: list[Any]) -> None:
        """Make the state for these variables: Keras's, in its order, as far as the rule keeps it."""
        if self.built:
            return
        super().build(variables)
        kept, start = self._rule.slots, self._rule.initial_scale

        def full(shape: Any, dtype: Any) -> Any:  # Constant rounds to float32 on TensorFlow
            return start * ops.ones(shape, dtype)

        self._velocities = self._slot(variables, "velocity", full) if "v" in kept else []
        self._momentums = self._slot(variables, "momentum") if "b" in kept else []
        self._average_gradients = self._slot(variables, "average_gradient") if "m" in kept else []

    def _slot(self, variables: list[Any], name: str, start: Any = "zeros") -> Any:
        self._widen = True
        try:
            return self.add_optimizer_variables(variables, name, start)
        finally:
            self._widen = False

    def add_variable(
        self, shape: Any, initializer: Any = "zeros", dtype: Any = None, **options: Any
    ) -> Any:
        """A variable of the optimizer; one of its averages in float32 at least."""
        if getattr(self, "_widen", False):
            dtype = _wide(dtype)
        return super().add_variable(shape, initializer, dtype, **options)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Move the variables one step, in place; a sparse gradient is made dense first.

        Parameters
        ----------
        grads
            A gradient for each variable, None for those without.
        trainable_variables
            The variables; default those that the optimizer was built with.
        """
        super().apply([_dense(g) for g in grads], trainable_variables)

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Nothing: `update_step` does both kinds, as Keras's would round wd to float32 on TensorFlow."""

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        """All variables at once where the kernel of `rmsprop.torch` can serve, else one by one."""
        if not (
            self._fused and self._fused.step(self, list(grads), trainable_variables, learning_rate)
        ):
            super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of one variable: `rmsprop.reference.update`, line by line.

        Parameters
        ----------
        gradient
            Of the variable's shape, clipped, dense.
        variable
            What to move, in place.
        learning_rate
            A number, a tensor or a variable.
        """
        # Operators instead of keras.ops, which on PyTorch rounds a number beside float64 to float32.
        rule, k = self._rule, self._get_variable_index(variable)
        rho, mu = rule.decay, rule.momentum
        wd = self.weight_decay if self.weight_decay and self._use_weight_decay(variable) else 0.0
        dtype = _wide(variable.dtype)
        lr, p, t = (
            ops.cast(x, dtype) for x in (learning_rate, variable, ops.add(self.iterations, 1))
        )
        g = ops.cast(gradient, dtype)
        v = m = None
        if rule.maximize:
            g = -g
        if wd and not rule.decoupled_weight_decay:
            g = g + wd * p
        if wd and rule.decoupled_weight_decay:
            p = p - lr * wd * p
        if rule.second_moment == "ema":
            v = self._averaged(self._velocities[k], rho, ops.square(g))
        elif rule.second_moment == "sum":
            v = self._kept(self._velocities[k], self._velocities[k] + ops.square(g))
        if rule.centered:
            m = self._averaged(self._average_gradients[k], rho, g)
        u = g
        if rule.first_moment == "before":
            b = self._averaged(self._momentums[k], mu, g)
            u = b / _correction(mu, t) if rule.bias_correction else b
        if rule.second_moment != "none":
            u = u / _denominator(rule, v, m, t)
        if mu == 0 or rule.first_moment == "before":
            return self.assign(variable, p - lr * u)
        u = lr * u if rule.lr_in_momentum else u
        b = self._kept(self._momentums[k], mu * ops.convert_to_tensor(self._momentums[k]) + u)
        u = mu * b + u if rule.nesterov else b
        self.assign(variable, p - (u if rule.lr_in_momentum else lr * u))

    def _averaged(self, slot: Any, rate: float, x: Any) -> Any:
        return self._kept(slot, rate * ops.convert_to_tensor(slot) + (1 - rate) * x)

    def _kept(self, slot: Any, value: Any) -> Any:
        self.assign(slot, value)
        return value

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again, without its state."""
        config = super().get_config()
        rule, rate = self.rule, config["learning_rate"]
        for word in ("learning_rate", "weight_decay", *(WORDS[clip] for clip in _CLIPS)):
            del config[word]  # the rule has them
        schedule = {"learning_rate": rate} if isinstance(rate, dict) else {}
        return config | {"rule": rule.to_dict()} | schedule


def _wide(dtype: Any) -> str:
    """What to compute in: float16 and bfloat16 lose eps, and small steps."""
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if name in ("float16", "bfloat16") else name


def _dense(gradient: Any) -> Any:
    if hasattr(gradient, "dense_shape"):  # of TensorFlow, which convert_to_tensor keeps
        return ops.add(ops.zeros(gradient.dense_shape, gradient.dtype), gradient)
    if hasattr(gradient, "todense"):  # JAX's
        return gradient.todense()
    return gradient.to_dense() if getattr(gradient, "is_sparse", False) else gradient


def _denominator(rule: Rule, v: Any, m: Any, t: Any) -> Any:
    """`rmsprop.reference.denominator`."""
    corrected = rule.bias_correction and rule.second_moment == "ema"
    fix = _correction(rule.decay, t) if corrected else None
    d = v if fix is None else v / fix
    if rule.centered:
        d = ops.relu(d - ops.square(m if fix is None else m / fix))
    return ops.sqrt(d + rule.eps) if rule.eps_in_sqrt else ops.sqrt(d) + rule.eps


def _correction(rate: float, t: Any) -> Any:
    """1 - rate^t, which taken so in float32 would lose three digits at rate = 0.999."""
    return -ops.expm1(math.log(rate) * t) if rate else 1.0


@keras.saving.register_keras_serializable(package="rmsprop")
class RMSprop(RuleOptimizer):
    """RMSprop, in place of `keras.optimizers.RMSprop`: the same numbers and state, in any dialect.

    ::

        p <- p - learning_rate*weight_decay*p
        v <- rho*v + (1-rho)*g^2
        p <- p - learning_rate*g/sqrt(v + epsilon)

    and with momentum, centering and the other dialects as `print(optimizer.rule.equations())` shows them.
    The differences from `keras.optimizers.RMSprop`: the centered variance is kept at 0 where rounding makes
    it negative (there: NaN); the state of float16 and bfloat16 parameters is float32.

    Parameters
    ----------
    learning_rate
        A number, a `keras.optimizers.schedules.LearningRateSchedule` or a function without arguments.
        Default: the dialect's (keras: 0.001); tf1 and optax have none.
    rho
        Decay rate of the averages, in [0, 1). Default: the dialect's (keras: 0.9).
    momentum
        In [0, 1]. Default: the dialect's (keras: 0.0).
    epsilon
        Default: the dialect's (keras: 1e-7).
    centered
        Divide by the standard deviation. Default: the dialect's (keras: False).
    weight_decay
        Decoupled or coupled as the dialect has it (keras: decoupled); `exclude_from_weight_decay` serves
        both. Default None, which is 0.
    clipnorm, clipvalue, global_clipnorm
        Above 0, one of them at most; None is off.
    use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps, name
        As in `keras.optimizers.RMSprop`.
    dialect
        Whose RMSprop to be: "keras", "torch", "tf1", "optax", "timm", "sb3", "hinton", "graves".
    **switches
        Any other field of `rmsprop.Rule`: nesterov, bias_correction, initial_scale, maximize,
        decoupled_weight_decay, eps_in_sqrt, lr_in_momentum.

    Raises
    ------
    TypeError, ValueError
        For an unknown argument, or a value out of its range.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(RMSprop(0.01, momentum=0.9, dialect="torch"), loss="mse")
    >>> print(model.optimizer.rule.equations())
    v <- 0.99*v + 0.01*g^2      (v starts at 0)
    u <- g/(sqrt(v) + 1e-08)
    b <- 0.9*b + u
    p <- p - 0.01*b

    References
    ----------
    Tieleman and Hinton, Lecture 6.5, COURSERA, 2012; keras.optimizers.RMSprop (Keras 3.15).
    """

    def __init__(
        self,
        learning_rate: Any = None,
        rho: float | None = None,
        momentum: float | None = None,
        epsilon: float | None = None,
        centered: bool | None = None,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        dialect: str = "keras",
        **switches: Any,
    ):
        given = {
            "rho": rho,
            "momentum": momentum,
            "epsilon": epsilon,
            "centered": centered,
            "weight_decay": weight_decay,
            "clipnorm": clipnorm,
            "clipvalue": clipvalue,
            "global_clipnorm": global_clipnorm,
        }
        rule = rule_of(dialect, learning_rate, given | switches)
        super().__init__(
            rule,
            learning_rate if callable(learning_rate) else None,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        self.dialect = dialect

    rho = property(lambda self: self._rule.decay, doc="The decay rate of the averages.")
    momentum = property(lambda self: self._rule.momentum, doc="The decay rate of the buffer.")
    epsilon = property(lambda self: self._rule.eps, doc="What is added to the denominator.")
    centered = property(lambda self: self._rule.centered, doc="Divide by the standard deviation?")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again, without its state."""
        config = keras.optimizers.Optimizer.get_config(self)
        if not isinstance(config["learning_rate"], dict):
            config["learning_rate"] = self.rule.lr
        config |= {word: getattr(self, word) for word in ARGUMENTS} | {"dialect": self.dialect}
        return config | switches_of(self._rule, self.dialect)


def from_rule(rule: Rule, learning_rate: Any = None, **options: Any) -> RuleOptimizer:
    """An optimizer for any rule: RMSprop in any dialect, SGD, momentum, AdaGrad, Adam, AdamW.

    Parameters
    ----------
    rule, learning_rate, **options
        As in `RuleOptimizer`.

    Examples
    --------
    >>> from_rule(Rule.from_dialect("momentum", lr=0.1)).rule.momentum
    0.9
    """
    return RuleOptimizer(rule, learning_rate, **options)
