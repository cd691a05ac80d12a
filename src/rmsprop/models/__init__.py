"""Models from scratch, for any optimizer: `MLP`, a multi-layer perceptron in plain NumPy."""

from rmsprop.models.mlp import MLP as MLP

__all__ = ["MLP"]
