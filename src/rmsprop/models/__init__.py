"""Models from scratch in plain NumPy, for any optimizer: `MLP`, a multi-layer perceptron, `Recurrent`."""

from rmsprop.models.mlp import MLP as MLP
from rmsprop.models.recurrent import Recurrent as Recurrent

__all__ = ["MLP", "Recurrent"]
