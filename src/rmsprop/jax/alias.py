"""RMSprop under Optax's names."""

from typing import Any

import optax

from rmsprop.jax.hyperparameters import of_dialect
from rmsprop.jax.transform import make


def rmsprop(
    learning_rate: Any = None,
    decay: Any = None,
    eps: Any = None,
    initial_scale: Any = None,
    eps_in_sqrt: bool | None = None,
    centered: bool | None = None,
    momentum: Any = None,
    nesterov: bool | None = None,
    bias_correction: bool | None = None,
    *,
    weight_decay: Any = None,
    decoupled_weight_decay: bool | None = None,
    lr_in_momentum: bool | None = None,
    maximize: bool | None = None,
    clip_value: Any = None,
    clip_norm: Any = None,
    clip_global_norm: Any = None,
    dialect: str = "optax",
    state_dtype: Any = None,
    key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """RMSprop, in place of `optax.rmsprop`: the same numbers, in any framework's dialect.

    ::

        v <- decay*v + (1-decay)*g^2
        p <- p - learning_rate*g/sqrt(v + eps)

    and with momentum, centering and weight decay as `print(Rule.from_dialect(dialect, ...).equations())`
    shows them. None stands for the dialect's default.

    The differences from `optax.rmsprop`: the centered variance is kept at 0 where rounding makes it negative
    (there: NaN); parameters of float16 and bfloat16 have a state of float32 and are computed in float32
    (there: in their own, so that eps underflows in float16); `nesterov=True` without momentum is refused
    (there: ignored); complex parameters are refused; weight decay and clipping are arguments. The state is
    one `State`, whose b has the opposite sign of Optax's trace.

    Parameters
    ----------
    learning_rate
        A number, an array of one, or a schedule, as in `from_rule`. Required for the dialects optax and tf1.
    decay
        In [0, 1). Default: the dialect's (optax: 0.9).
    eps
        Default: the dialect's (optax: 1e-8).
    initial_scale
        Where v starts. Default: the dialect's (optax: 0.0; tf1, timm, sb3: 1.0).
    eps_in_sqrt
        Whether eps stands inside the root. Default: the dialect's (optax, keras: True; torch: False).
    centered
        Divide by the standard deviation. Default: the dialect's (False; graves: True).
    momentum
        In [0, 1]; 0 is none. Default: the dialect's (0.0; graves: 0.9).
    nesterov, bias_correction, maximize
        Switches of `rmsprop.Rule`. Default False.
    weight_decay
        Default 0.0. `update` then needs the parameters.
    decoupled_weight_decay
        Shrink the parameters by learning_rate*weight_decay instead of adding to the gradient. Default: the
        dialect's (False; keras: True).
    lr_in_momentum
        Whether the buffer holds learning_rate*u or u, which differ under a schedule. Default: the dialect's
        (optax, keras: True; torch, sb3: False).
    clip_value, clip_norm, clip_global_norm
        Clip each component, each array's gradient by its norm, or all by their joint norm; one of them.
        Default None.
    dialect
        Whose RMSprop: optax, torch, keras, tf1, timm, sb3, hinton, graves.
    state_dtype, key
        As in `from_rule`.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range, and at `init` and `update` as `from_rule`.

    Notes
    -----
    Numbers may be arrays, and traced, as `optax.inject_hyperparams` makes them; they are then not checked,
    and momentum and weight decay count as switched on, even at zero. What is None, True, False or a name is
    static. Two habits of `inject_hyperparams`: it takes `jnp.bfloat16` for a schedule, so give the state's
    dtype as "bfloat16"; and it brings numbers to the parameters' dtype, where a decay of 0.999 is 1 in
    bfloat16, so give it `hyperparam_dtype=jnp.float32` for those.

    Under `vmap` all members round with the same draws, unless each is given a key of its own.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> optimizer = rmsprop(learning_rate=0.01, momentum=0.9, dialect="torch")
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": jnp.array([0.1, 0.2])}, state)
    >>> optax.apply_updates(params, updates)["w"].round(4)
    Array([0.9, 1.9], dtype=float32)

    References
    ----------
    Tieleman and Hinton, Lecture 6.5, COURSERA, 2012; Graves, arXiv:1308.0850; optax.rmsprop (Optax 0.2.8).
    """
    fields = {
        "lr": 0.0 if callable(learning_rate) else learning_rate,
        "decay": decay,
        "eps": eps,
        "initial_scale": initial_scale,
        "eps_in_sqrt": eps_in_sqrt,
        "centered": centered,
        "momentum": momentum,
        "nesterov": nesterov,
        "bias_correction": bias_correction,
        "weight_decay": weight_decay,
        "decoupled_weight_decay": decoupled_weight_decay,
        "lr_in_momentum": lr_in_momentum,
        "maximize": maximize,
        "clip_value": clip_value,
        "clip_norm": clip_norm,
        "clip_global_norm": clip_global_norm,
    }
    rule, numbers = of_dialect(dialect, fields)
    return make(rule, numbers, learning_rate, state_dtype, key)
