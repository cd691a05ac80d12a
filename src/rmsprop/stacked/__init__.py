"""Many copies of a small network, the same start and batches, each by its own rule: one computation.

`train_many(task, rules)` returns the Runs that `rmsprop.train.train` returns for each rule, to rounding.
"""

from rmsprop.stacked.mlp import StackedMLP as StackedMLP
from rmsprop.stacked.optimizer import StackedOptimizer as StackedOptimizer
from rmsprop.stacked.train import can_stack as can_stack
from rmsprop.stacked.train import train_many as train_many

__all__ = ["StackedMLP", "StackedOptimizer", "can_stack", "train_many"]
