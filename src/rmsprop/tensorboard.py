"""Event files for TensorBoard."""

import time
from pathlib import Path
from typing import Any

from rmsprop.run import Moment

EVERY = 10  # updates between two points of the mini-batches' loss and of the learning rate


class TensorBoard:
    """A callback of `train` that writes loss, learning rate and validation figures for TensorBoard.

    Parameters
    ----------
    folder
        Where event files go, one for each time that a run is started or gone on with; `tensorboard --logdir`
        with this folder or one above shows them.

    Raises
    ------
    ModuleNotFoundError
        Without the package tensorboard.
    """

    def __init__(self, folder: str | Path):
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "event files need TensorBoard: pip install 'rmsprop[tensorboard]'",
                name="tensorboard",
            ) from error
        events: Any = event_pb2
        summaries: Any = summary_pb2
        self._event, self._session = events.Event, events.SessionLog
        self._summary = summaries.Summary
        self._open = lambda: EventFileWriter(str(folder))
        self._writer: Any = None

    def __call__(self, moment: Moment) -> None:
        """Write what is new."""
        if self._writer is None:  # not before: a run that is refused leaves no folder
            self._writer = self._open()
            # Points beyond a checkpoint that this run goes on from were of another process: they give way.
            start = self._session(status=self._session.START)
            self._writer.add_event(
                self._event(step=moment.step, wall_time=time.time(), session_log=start)
            )
        run, values = moment.run, {}
        if moment.measured:
            values = {
                "loss/train": run.train_loss[-1],
                "loss/validation": run.validation_loss[-1],
                "score/validation": run.validation_score[-1],
            }
        elif moment.step % EVERY == 0 or moment.step == 1:
            values = {"loss/batch": moment.loss, "learning_rate": moment.lr}
        self._write(moment.step, {k: v for k, v in values.items() if v is not None})
        if moment.measured:
            self._writer.flush()
        if moment.measured and (moment.step == moment.steps or run.stopped):
            self._writer.close()

    def _write(self, step: int, values: dict[str, Any]) -> None:
        if values:
            points = [self._summary.Value(tag=k, simple_value=v) for k, v in values.items()]
            summary = self._summary(value=points)
            self._writer.add_event(self._event(step=step, wall_time=time.time(), summary=summary))
