"""RMSprop for JAX: `optax.rmsprop` by changing one name, in any framework's dialect.

    from rmsprop.jax import rmsprop

`rmsprop` has Optax's arguments; `from_rule` makes an Optax transformation of any `rmsprop.Rule`; `State` is
what both keep.
"""

try:
    import jax as _jax  # noqa: F401
    import optax as _optax  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jaxlib", "optax"):
        raise
    raise ModuleNotFoundError(
        "rmsprop.jax needs JAX and Optax: pip install 'rmsprop[jax]'", name=error.name
    ) from error

from rmsprop.jax.alias import rmsprop
from rmsprop.jax.transform import State, from_rule

__all__ = ["State", "from_rule", "rmsprop"]
