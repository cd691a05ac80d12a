"""Optax's states: trees, Flax's msgpack and Orbax's folders."""
