"""Addresses of storages: which are taken, and that no password is ever printed."""

from pathlib import Path

import pytest

import needs

needs.package("optuna")

from rmsprop.search.storage import open_storage, shown, storage_url  # noqa: E402

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://me:{SECRET}@host/db",
        f"postgresql://me:{SECRET}@host:port/db",
        f"postgres//me:{SECRET}@host/db",
        f"mysql://host/db?password={SECRET}",
        f"http://me:{SECRET}@host",
        "sqlite://",
        "sqlite:///:memory:",
        "study",
        "study.txt",
        "",
    ],
)
def test_a_wrong_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"a storage is a file that ends in \.db") as caught:
        open_storage(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_database_that_does_not_answer_is_told_without_the_password() -> None:
    needs.package("psycopg")
    for url in (
        f"postgresql://me:{SECRET}@127.0.0.1:1/db",
        f"postgresql://me@127.0.0.1:1/db?password={SECRET}",
    ):
        with pytest.raises(
            ConnectionError, match=r"127\.0\.0\.1:1/db.* cannot be opened"
        ) as caught:
            open_storage(url)
        assert SECRET not in str(caught.value)
        assert SECRET not in shown(storage_url(url))


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_text(
        "not a database, and long enough to be read as the head of one" * 9
    )
    with pytest.raises(ConnectionError, match=r"s\.db cannot be opened: file is not a database"):
        open_storage(tmp_path / "s.db")
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(ConnectionError, match=r"folder\.db cannot be opened"):
        open_storage(tmp_path / "folder.db")
