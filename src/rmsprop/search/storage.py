"""Where trials are kept: SQLite or PostgreSQL through Optuna, waited for when busy or away."""

import contextlib
import functools
import hashlib
import logging
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import (
    BaseStorage,
    InMemoryStorage,
    RDBStorage,
)
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, PendingRollbackError, SQLAlchemyError

optuna.logging.set_verbosity(optuna.logging.WARNING)
# It warns, with pages of SQL, of each connection that breaks: of that we take care.
logging.getLogger("optuna.storages._rdb.storage").setLevel(logging.ERROR)

PATIENCE = 120.0  # seconds for which a server may be away, as while it is restarted
BUSY = 60.0  # seconds for which a SQLite file may be busy with other processes
HEARTBEAT, GRACE = 5, 30  # seconds between signs of life, and without any until a trial is lost
RETRIES = 3
"""How often a trial is tried again after its process, machine or storage was lost."""
_memory = threading.RLock()


def storage_url(where: str | Path) -> URL:
    """The address of a storage: of a SQLite file, or of a PostgreSQL database.

    Parameters
    ----------
    where
        A path that ends in .db or .sqlite, `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`. The
        password is best left to PGPASSWORD or ~/.pgpass.

    Raises
    ------
    ValueError
        For anything else; a password is not shown.

    Examples
    --------
    >>> str(storage_url("runs/study.db"))
    'sqlite:///runs/study.db'
    >>> str(storage_url("postgresql://me:secret@host/searches"))
    'postgresql+psycopg://me:***@host/searches'
    """
    if not isinstance(where, str | Path):
        raise TypeError(f"a storage is a path or an address; got {where!r}")
    rule = "a storage is a file that ends in .db or .sqlite, or postgresql://USER@HOST/DATABASE"
    if isinstance(where, Path) or ("://" not in where and where.endswith((".db", ".sqlite"))):
        return URL.create("sqlite", database=os.fspath(where))
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):  # whose message may hold the password
        raise ValueError(f"{rule}; what was given cannot be read as one") from None
    backend = url.get_backend_name()
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return url
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    raise ValueError(f"{rule}; got {shown(url)}")


def shown(url: URL) -> str:
    """An address as it may be printed: *** for its password.

    Examples
    --------
    >>> shown(storage_url("postgresql://me:secret@host/searches"))
    'postgresql://me:***@host/searches'
    """
    query = {k: "***" if "password" in k else v for k, v in url.query.items()}
    plain = url.set(drivername=url.get_backend_name(), query=query)
    return plain.render_as_string(hide_password=True)


def open_storage(where: str | Path | URL | None) -> BaseStorage:
    """The storage at an address, made there if there is none; in this process's memory for None.

    Raises
    ------
    ValueError
        For an address that is not one.
    ConnectionError
        Where the database does not answer.
    FileNotFoundError, OSError
        Where the file cannot be made.
    """
    if where is None:
        return InMemoryStorage()
    url = where if isinstance(where, URL) else storage_url(where)
    if url.get_backend_name() == "sqlite":
        Path(url.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"connect_args": {"timeout": BUSY, "factory": _Connection}}
    else:
        options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats, since Optuna 2.9
        try:
            with _alone(url, "storage"):  # two that make the tables would be in each other's way
                return _Patient(
                    url.render_as_string(hide_password=False),
                    engine_kwargs=options,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                )
        except ImportError as error:
            raise ModuleNotFoundError(
                "PostgreSQL needs psycopg: pip install 'rmsprop[tune]'", name="psycopg"
            ) from error
        except (SQLAlchemyError, sqlite3.Error, StorageInternalError) as error:
            raise ConnectionError(f"{shown(url)} cannot be opened: {_reason(error, url)}") from None


@contextlib.contextmanager
def alone(storage: BaseStorage, name: str) -> Iterator[None]:
    """While the block runs, no other process is in such a block of the same study.

    It ends with the process, however that ends.
    """
    if isinstance(storage, RDBStorage):
        with _alone(make_url(storage.url), name, storage):
            yield
    else:
        with _memory:
            yield


@contextlib.contextmanager
def _alone(url: URL, name: str, storage: RDBStorage | None = None) -> Iterator[None]:
    if url.get_backend_name() == "sqlite":
        # A lock file that SQLite itself locks: on every system, and let go by the kernel when we die.
        beside = sqlite3.connect(f"{url.database}-lock", timeout=PATIENCE, isolation_level=None)
        with contextlib.closing(beside):
            beside.execute("BEGIN EXCLUSIVE")
            yield
        return
    key = int.from_bytes(hashlib.sha256(f"rmsprop {name}".encode()).digest()[:7], "big")
    if storage is None:
        from sqlalchemy import create_engine

        engine = create_engine(url, connect_args={"connect_timeout": 10})
    else:
        engine = storage.engine
    taken = _taken if storage is None else patient(_taken)
    connection = taken(engine, key)
    try:
        yield
    finally:
        with contextlib.suppress(SQLAlchemyError):  # a server that went away has let go
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})
        with contextlib.suppress(SQLAlchemyError):
            connection.close()
        if storage is None:
            engine.dispose()


def _taken(engine: Any, key: int) -> Any:
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
    except BaseException:
        connection.close()
        raise
    return connection


def patient(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which tries again while the database is busy, restarted or unreachable."""

    @functools.wraps(call)
    def trying(*args: Any, **options: Any) -> Any:
        began, pause = time.monotonic(), 0.05
        while True:
            try:
                return call(*args, **options)
            except (DBAPIError, StorageInternalError) as error:
                if not _passing(error):
                    raise
                if time.monotonic() - began > PATIENCE:
                    away = f"the database has not answered for {PATIENCE:g} s"
                    raise ConnectionError(f"{away}: {_reason(error)}") from None
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    return trying


def _passing(error: BaseException) -> bool:
    """Whether this may end by itself: no connection, or a lock that another holds."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, PendingRollbackError):  # Optuna went on after the connection had broken
        return True
    if not isinstance(cause, DBAPIError):
        return False
    return cause.connection_invalidated or type(cause).__name__ in (
        "OperationalError",
        "InterfaceError",
    )


class _Connection(sqlite3.Connection):
    """SQLite with a write-ahead log: who reads does not wait for who writes, and a commit takes .1 ms.

    What is committed outlasts the process; after a loss of power the last moments may be missing.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.execute("PRAGMA journal_mode=WAL").close()
        self.execute("PRAGMA synchronous=NORMAL").close()


class _Patient(RDBStorage):
    """Optuna's storage, whose calls outlast a restart of the server."""


# The private ones are those that Optuna's cache calls, in place of the public ones.
_CALLS = (
    *sorted(BaseStorage.__abstractmethods__),
    *("record_heartbeat", "_get_stale_trial_ids", "_create_new_trial", "_set_trial_param"),
    *("_get_trials", "_get_best_trial_id"),
)
for _name in _CALLS:
    setattr(_Patient, _name, patient(getattr(RDBStorage, _name)))


def _reason(error: BaseException, url: URL | None = None) -> str:
    """The first line of what the driver says, without the password."""
    cause: Any = error.__cause__ if isinstance(error, StorageInternalError) else error
    line = str(getattr(cause, "orig", None) or cause).strip().split("\n")[0]
    password = url.password if url is not None else None
    return line.replace(password, "***") if isinstance(password, str) and password else line
