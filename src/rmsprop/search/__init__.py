"""Searches for good settings: of a rule on a task, or of any function of the user's.

`tune` is the way in, and `look` shows a study from where it is kept: by Optuna, in SQLite or PostgreSQL. No
trial is lost or done twice.
"""

try:
    from rmsprop.search.results import look
    from rmsprop.search.tuning import tune
except ModuleNotFoundError as error:
    if error.name not in ("optuna", "sqlalchemy"):
        raise
    raise ModuleNotFoundError(
        f"A search needs {error.name}: pip install 'rmsprop[tune]'", name=error.name
    ) from error

__all__ = ["look", "tune"]
