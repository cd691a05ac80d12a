"""Neural style transfer with RMSprop on the pixels; needs PyTorch, and no trained weights.

    from rmsprop.style import RULE, StyleTask, sheet

`StyleTask` says what to make, its learner makes it, `sheet` shows it beside what it was made of.
"""

try:
    import torch as _torch  # noqa: F401  (before Numba, as in rmsprop.torch)
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "style transfer needs PyTorch: pip install 'rmsprop[torch]'", name="torch"
    ) from error

from rmsprop.style.features import RandomFilters
from rmsprop.style.images import read, save
from rmsprop.style.pictures import Pictures
from rmsprop.style.transfer import RULE, StyleLearner, StyleTask, sheet
from rmsprop.style.vgg import VGG19

__all__ = [
    "RULE",
    "VGG19",
    "Pictures",
    "RandomFilters",
    "StyleLearner",
    "StyleTask",
    "read",
    "save",
    "sheet",
]
