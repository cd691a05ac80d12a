"""RMSprop as one exact, fast, portable component, with a lab to see it, tune it and trust it.

This page is the table of contents.  It imports no framework and loads at once; the rest is imported
by name: `rmsprop.numpy`, `rmsprop.torch`, `rmsprop.reference`, `rmsprop.surfaces`, `rmsprop.simulate`,
`rmsprop.data`, `rmsprop.models`, `rmsprop.tasks`, `rmsprop.train`, `rmsprop.style`, `rmsprop.compare`,
`rmsprop.limits`, `rmsprop.maps`, `rmsprop.search`.  `rmsprop.tune` is `rmsprop.search.tune`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rmsprop.dialects import DIALECTS, PRESETS, Dialect
from rmsprop.rule import Rule

if TYPE_CHECKING:
    from rmsprop.search import tune

__version__ = "0.1.0"

__all__ = ["DIALECTS", "PRESETS", "Dialect", "Rule", "__version__", "tune"]


def __getattr__(name: str) -> Any:
    if name == "tune":  # Optuna takes a second to load, and is an extra
        return import_module("rmsprop.search").tune
    raise AttributeError(f"module 'rmsprop' has no attribute {name!r}")
