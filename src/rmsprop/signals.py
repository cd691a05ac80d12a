"""Ctrl-C and SIGTERM that wait for the end of a step."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and has kept where it is."""


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """While the block runs, Ctrl-C and SIGTERM only say that they came; a second one acts as ever.

    Elsewhere than in the main thread, and where a program has handlers of its own, theirs stay.

    Examples
    --------
    >>> with deferred() as came:
    ...     signal.raise_signal(signal.SIGINT)
    ...     came()
    True
    """
    came: list[int] = []
    before: dict[int, object] = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(number, before[number])  # type: ignore[arg-type]

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler in (signal.default_int_handler, signal.SIG_DFL):
                before[number] = handler
                signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
