"""RMSprop for Keras 3 on TensorFlow, JAX and PyTorch: another import for `keras.optimizers.RMSprop`.

    from rmsprop.keras import RMSprop

`RMSprop` has Keras's arguments and state, and a dialect; `from_rule` makes an optimizer of any
`rmsprop.Rule`.  Who loads a `.keras` file with one of them in it must have imported this module.
"""

try:
    import keras as _keras  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "keras":  # a backend that is missing says so itself
        raise
    raise ModuleNotFoundError(
        "rmsprop.keras needs Keras 3: pip install 'rmsprop[keras]'", name="keras"
    ) from error

from rmsprop.keras.optimizer import RMSprop, RuleOptimizer, from_rule

__all__ = ["RMSprop", "RuleOptimizer", "from_rule"]
