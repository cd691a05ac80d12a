"""Who has a trial: a search in a process on a machine, and whether it is still there."""

import contextlib
import functools
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

_live: set[str] = set()  # the owners in this process that are at it


def new_owner() -> str:
    """The name of a search in this process, like no other's.

    Examples
    --------
    >>> new_owner() == new_owner()
    False
    """
    return f"{_machine()} {os.getpid()} {uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def at_it(owner: str) -> Iterator[None]:
    """While the block runs, the owner is at it; what it has when the block is left, nobody has."""
    _live.add(owner)
    try:
        yield
    finally:
        _live.discard(owner)


def is_gone(owner: str) -> bool:
    """Whether an owner of this machine is at it no more; of another machine that cannot be known.

    Examples
    --------
    >>> owner = new_owner()
    >>> with at_it(owner):
    ...     is_gone(owner)
    False
    >>> is_gone(owner), is_gone("another-machine 17 abc")
    (True, False)
    """
    machine, _, rest = owner.partition(" ")
    pid = rest.partition(" ")[0]
    if machine != _machine() or not pid.isdigit() or os.name != "posix":
        return False
    if int(pid) == os.getpid():  # one before us had our number, or another search in this process
        return owner not in _live
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


@functools.cache
def _machine() -> str:
    """Where process ids mean what they mean here: other hosts and containers may have our host's name."""
    parts = [socket.gethostname().replace(" ", "_")]
    with contextlib.suppress(OSError):  # Linux has both
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text()[:8])
        parts.append("".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid"))))
    return "-".join(parts)
