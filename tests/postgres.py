"""A real PostgreSQL server in a folder of its own, that a test can stop, kill and start again."""

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import needs

USER, PASSWORD = "searcher", "never-print-me"


class Server:
    """A server on a free port of 127.0.0.1, with one user who has a password."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, _free_port()
        self.url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        word = folder / "password"
        word.write_text(PASSWORD)
        _give(word)
        _call("initdb", "-D", self._data, "-U", USER, "-A", "scram-sha-256", "--no-sync",
              f"--pwfile={word}", "-E", "UTF8", "--locale=C")  # fmt: skip

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        log = str(self.folder / "log")
        _call("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", options)

    def stop(self, mode: str = "immediate") -> None:
        """By default as a loss of power does: every connection is cut, nothing is said."""
        _call("pg_ctl", "stop", "-w", "-D", self._data, "-m", mode)

    def restart(self) -> None:
        self.stop()
        self.start()


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """A server that runs while the block does; skips where PostgreSQL is not installed."""
    needs.package("psycopg")
    _program("initdb")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # not in pytest's, which is closed to others
    try:
        _give(folder)
        made = Server(folder)
        made.start()
        try:
            yield made
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test has stopped it
                made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _program(name: str) -> list[str]:
    """How a program of PostgreSQL is run; as user postgres where we are root, which it refuses."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    with contextlib.suppress(FileNotFoundError, subprocess.CalledProcessError):
        found = subprocess.run(
            ["pg_config", "--bindir"], capture_output=True, text=True, check=True
        )
        folders.insert(0, Path(found.stdout.strip()))
    path = next((str(folder / name) for folder in folders if (folder / name).exists()), None)
    path = path or shutil.which(name)
    if path is None:
        needs.lacking("PostgreSQL's server is not installed: apt-get install postgresql")
    if os.name == "posix" and os.geteuid() == 0:
        if shutil.which("runuser") is None:
            needs.lacking("PostgreSQL does not run as root, and there is no runuser")
        return ["runuser", "-u", "postgres", "--", path]
    return [path]


def _give(path: Path) -> None:
    if os.name == "posix" and os.geteuid() == 0:
        shutil.chown(path, "postgres")


def _call(name: str, *words: str) -> None:
    # A server keeps what it inherits: a pipe would never end.
    quiet = subprocess.DEVNULL
    subprocess.run(
        [*_program(name), *words], check=True, stdin=quiet, stdout=quiet, stderr=quiet, cwd="/"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
