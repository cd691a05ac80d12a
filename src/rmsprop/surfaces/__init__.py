"""Two-dimensional test functions with analytic gradients, and the way to bring your own.

Sources: Jamil and Yang, 2013, arXiv:1308.4008; Surjanovic and Bingham, Virtual Library of Simulation
Experiments, sfu.ca/~ssurjano.  Some public lists have wrong coefficients: the tests check the value and
gradient at every minimum.
"""

from rmsprop.surfaces.surface import Surface
from rmsprop.surfaces.table import SURFACES, get
from rmsprop.surfaces.user import from_function, load

__all__ = ["SURFACES", "Surface", "from_function", "get", "load"]
