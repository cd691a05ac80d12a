"""The picture as it comes about."""

from pathlib import Path
from typing import Any

from rmsprop.run import Moment
from rmsprop.style import images


class Pictures:
    """A callback of `train` that writes `picture.png` after each epoch, and keeps each as `progress/NN.png`.

    Parameters
    ----------
    folder
        That of the run.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)

    def __call__(self, moment: Moment) -> None:
        """Write the picture, if an epoch has ended."""
        if moment.measured:
            learner: Any = moment.learner
            image = learner.image()
            images.save(self._folder / "progress" / f"{len(moment.run.steps) - 1:02d}.png", image)
            images.save(self._folder / "picture.png", image)
