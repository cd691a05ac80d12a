"""RMSprop as one exact, fast, portable component, with a lab to see it, tune it and trust it.

This page is the table of contents.  It imports no framework and loads at once; the rest is imported
by name: `rmsprop.numpy`, `rmsprop.torch`, `rmsprop.reference`, `rmsprop.surfaces`, `rmsprop.simulate`,
`rmsprop.data`, `rmsprop.models`, `rmsprop.tasks`, `rmsprop.train`, `rmsprop.style`, `rmsprop.compare`,
`rmsprop.limits`.
"""

from rmsprop.dialects import DIALECTS, PRESETS, Dialect
from rmsprop.rule import Rule

__version__ = "0.1.0"

__all__ = ["DIALECTS", "PRESETS", "Dialect", "Rule", "__version__"]
