"""The user's own Python: a file or a module, run, and what it defines."""

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load_module(where: str) -> ModuleType:
    """The module in a .py file, or the importable one of that name.

    It is run: load only what you trust, and never a name that came over a network.

    Parameters
    ----------
    where
        `path/to/file.py` or `package.module`.

    Raises
    ------
    ValueError
        For a file that is not there, and for code that does not import without error.

    Examples
    --------
    >>> load_module("math").__name__
    'math'
    """
    path = Path(where).expanduser()
    if path.suffix == ".py" and not path.is_file():
        raise ValueError(
            f"No file {where!r} from {Path.cwd()}: give its path, as dir/file.py:function"
        )
    try:
        if path.suffix != ".py":
            return importlib.import_module(where)
        spec = importlib.util.spec_from_file_location(f"rmsprop_user_{path.stem}", path)
        assert spec is not None  # as for every .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where a dataclass of the file looks for its module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[spec.name]
            raise
        return module
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"{where!r} must import without error, but raises {type(error).__name__}: {error}. Mend it"
            + ("" if path.suffix == ".py" else ", or for a file write path/to/file.py:function")
        ) from error


def find(module: ModuleType, name: str, what: str = "") -> Any:
    """The function that a module calls `name`, or a ValueError that says what it has.

    Parameters
    ----------
    module, name
        Where, and which.
    what
        What is asked of it, in the error: " of (x, y)".

    Examples
    --------
    >>> import math
    >>> find(math, "hypot")(3.0, 4.0)
    5.0
    """
    found = getattr(module, name, None)
    if callable(found):
        return found
    where = getattr(module, "__file__", None) or module.__name__
    rule = f"{where} must define a function {name!r}{what}"
    if found is not None:
        raise ValueError(f"{rule}; it is of type {type(found).__name__}")
    names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    near = ", ".join(difflib.get_close_matches(name, names) or names) or "none"
    raise ValueError(f"{rule}; it has {near}")
