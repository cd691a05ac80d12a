"""A training from its settings to its report: what `rmsprop train` does."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmsprop import files, report_run, saved
from rmsprop.environment import PACKAGES, WITH_TORCH, describe
from rmsprop.evaluate import evaluate
from rmsprop.run import Moment
from rmsprop.settings import Settings, make_entry, make_task, resolved, to_toml
from rmsprop.train import train

if TYPE_CHECKING:
    from rmsprop.style import StyleTask

Record = dict[str, Any]


def run(
    settings: Settings,
    folder: str | Path,
    *,
    command: str,
    resume: bool = False,
    checkpoint_steps: int | None = None,
    tensorboard: bool = False,
    callbacks: Sequence[Callable[[Moment], Any]] = (),
) -> tuple[Record, Path]:
    """Train as the settings say, measure, and write run.toml, run.json and report.html beside the model.

    Parameters
    ----------
    settings
        What to train and how.
    folder, resume, checkpoint_steps, callbacks
        As in `train.train`.
    command
        What to run to get this again, for the report.
    tensorboard
        Write event files too, to `folder/tensorboard`.

    Returns
    -------
    record, page
        What run.json holds, and the path of the report.

    Raises
    ------
    Interrupted, OSError, TypeError, ValueError
        As `train.train`; nothing in the folder is replaced before the first update.
    """
    folder = Path(folder)
    task = make_task(settings)
    entry = make_entry(settings, task)
    settings = resolved(settings, task, entry.rule)
    keep = _Settings(folder / "run.toml", to_toml(settings))
    done = train(
        task,
        entry.rule,
        seed=settings.seed,
        schedule=settings.schedule,
        warm_up=settings.warm_up,
        steps=settings.steps,
        patience=settings.patience,
        details=not settings.is_style,
        folder=folder,
        resume=resume,
        checkpoint_steps=checkpoint_steps,
        callbacks=[keep, *_watchers(settings, folder, tensorboard), *callbacks],
    )
    keep.write()  # of a finished run that was gone on with
    record = done.to_dict() | describe(WITH_TORCH if "torch" in sys.modules else PACKAGES)
    record |= {
        "label": entry.label,
        "metric": task.metric,
        "equations": entry.rule.equations(),
        "patience": settings.patience,
        "toml": keep.text,
        "command": command,
    }
    report = _report_style if settings.is_style else _report
    return record, report(settings, task, record, folder)


class _Settings:
    """A callback that writes run.toml at the first moment: what is refused before replaces nothing."""

    def __init__(self, path: Path, text: str):
        self.path, self.text = path, text
        self._written = False

    def __call__(self, moment: Moment) -> None:
        if not self._written:
            self.write()

    def write(self) -> None:
        files.write_text(self.path, self.text)
        self._written = True


def _watchers(settings: Settings, folder: Path, tensorboard: bool) -> list[Any]:
    found: list[Any] = []
    if tensorboard:
        from rmsprop.tensorboard import TensorBoard

        found.append(TensorBoard(folder / "tensorboard"))
    if settings.is_style:
        from rmsprop.style import Pictures

        found.append(Pictures(folder))
    return found


def _report(settings: Settings, task: Any, record: Record, folder: Path) -> Path:
    """Measure what was trained, as it lies on disk, and write its page."""
    record["evaluation"] = None
    if record["test_loss"] is not None and (hasattr(task, "build") or not settings.is_own):
        own = settings.task if settings.is_own else None
        record["evaluation"] = evaluate(saved.load(folder, task=own))
    record["sentence"] = report_run.sentence(record)
    return report_run.write(record, folder, getattr(task, "dataset", None))


def _report_style(settings: Settings, task: "StyleTask", record: Record, folder: Path) -> Path:
    from rmsprop import report_style

    record["sentence"] = report_style.sentence(record)
    return report_style.write(record, folder, task)
