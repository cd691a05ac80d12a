"""The values of a trial, as Optuna draws and keeps them and as the objective is given them."""

import math
from typing import Any

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, Trial

from rmsprop.space import Choice, Dimension, Range, Space


def suggested(trial: Trial, d: Dimension, on_grid: bool) -> Any:
    """The value of one dimension: from the grid, drawn, or as the trial had it before it was lost."""
    if isinstance(d, Choice) or on_grid:
        values = d.values if isinstance(d, Choice) else d.values().tolist()
        return trial.suggest_categorical(d.name, values)
    if d.scale == "log1m":  # Optuna knows logarithms of the value itself only
        distance = trial.suggest_float(f"1-{d.name}", 1 - d.high, 1 - d.low, log=True)
        return _from_one(d, distance)
    return _short(d, trial.suggest_float(d.name, d.low, d.high, log=d.scale == "log"))


def config_of(space: Space, trial: FrozenTrial) -> dict[str, Any]:
    """The values of a kept trial by the names of the space; empty where it never had any."""
    found: dict[str, Any] = {}
    for d in space:
        if d.name in trial.params:
            kept = trial.params[d.name]
            searched = isinstance(trial.distributions[d.name], FloatDistribution)
            found[d.name] = _short(d, kept) if searched and isinstance(d, Range) else kept
        elif f"1-{d.name}" in trial.params and isinstance(d, Range):
            found[d.name] = _from_one(d, trial.params[f"1-{d.name}"])
    return found


def _short(d: Range, value: float) -> float:
    """Four digits: what is searched is not known better, and the winner is to be copied."""
    digits = 4 + _shared(d.low, d.high)
    return min(max(float(f"{value:.{digits}g}"), d.low), d.high)


def _from_one(d: Range, distance: float) -> float:
    digits = 3 + _shared(1 - d.high, 1 - d.low)
    return min(max(float(f"{1 - float(f'{distance:.{digits}g}'):.15g}"), d.low), d.high)


def _shared(low: float, high: float) -> int:
    """How many leading digits all numbers of a range share, as from 1000 to 1000.5, which tell none apart."""
    return max(0, math.ceil(math.log10(max(abs(low), abs(high)) / (high - low) / 2)))
