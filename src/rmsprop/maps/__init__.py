"""Response maps: what an optimizer comes to for every pair of two of its numbers.

Examples
--------
>>> from rmsprop.entries import entries
>>> from rmsprop.maps import surface_map
>>> from rmsprop.space import Range
>>> from rmsprop.surfaces import SURFACES
>>> study = surface_map(SURFACES["rosenbrock"], entries(["rmsprop"], []),
...                     Range("lr", 1e-4, 1, count=16), Range("decay", 0.9, 0.999, count=16), steps=200)
>>> study["maps"][0]["loss"].shape
(16, 16)
"""

from rmsprop.maps.cells import within
from rmsprop.maps.lanes import Ends, Replicate, run
from rmsprop.maps.surfaces import surface_map
from rmsprop.maps.tasks import task_map
from rmsprop.maps.user import compiled_surface

__all__ = ["Ends", "Replicate", "compiled_surface", "run", "surface_map", "task_map", "within"]
