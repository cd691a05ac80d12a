"""The user's Python: run, found, and its mistakes told."""

import sys
from pathlib import Path

import pytest

from rmsprop.user_code import find, load_module


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_a_file_is_run_and_what_it_defines_is_found(tmp_path):
    module = load_module(write(tmp_path, "def double(x):\n    return 2 * x\n"))
    assert find(module, "double")(4) == 8


def test_a_file_is_run_anew_each_time(tmp_path):
    path = write(tmp_path, "def value(): return 1\n")
    assert find(load_module(path), "value")() == 1
    write(tmp_path, "def value(): return 22222\n")
    assert find(load_module(path), "value")() == 22222


def test_a_dataclass_of_the_file_finds_its_module(tmp_path):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Point:\n    x: float = 1.5\n"
    )
    assert find(load_module(write(tmp_path, text)), "Point", "a class")().x == 1.5


def test_a_file_may_hide_no_module_of_the_same_name(tmp_path):
    import json

    load_module(write(tmp_path, "x = 1\n", "json.py"))
    assert sys.modules["json"] is json


def test_a_module_is_taken_by_its_dotted_name():
    assert find(load_module("os.path"), "join")("a", "b") == str(Path("a", "b"))


def test_a_path_may_begin_with_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "def value(): return 3\n")
    assert find(load_module("~/mine.py"), "value")() == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:\n", ["SyntaxError", "mine.py"]),
        ("1 / 0\n", ["ZeroDivisionError"]),
        ("import no_such_module_at_all\n", ["ModuleNotFoundError", "no_such_module_at_all"]),
        ("raise KeyError('here')\n", ["KeyError", "here"]),
        ("\0", ["mine.py"]),
    ],
    ids=["syntax", "raises", "import", "key", "nul"],
)
def test_code_that_does_not_run_is_told_with_its_own_error(tmp_path, text, words):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match="must import") as caught:
        load_module(path)
    assert all(word in str(caught.value) for word in [*words, "must import without error"])
    assert caught.value.__cause__ is not None


def test_a_file_that_fails_leaves_no_module_behind(tmp_path):
    path = write(tmp_path, "1 / 0\n", "fails_at_once.py")
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        load_module(path)
    assert not [name for name in sys.modules if "fails_at_once" in name]


@pytest.mark.parametrize("where", ["none.py", "./none.py", "dir/none.py"])
def test_a_file_that_is_not_there_is_told_with_where_it_was_looked_for(
    tmp_path, monkeypatch, where
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="No file") as caught:
        load_module(where)
    assert where in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_module_that_is_not_there_is_told():
    with pytest.raises(ValueError, match="no_such_module"):
        load_module("no_such_module_at_all")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def make_task(): pass\ndef other(): pass\n", ["it has make_task"]),
        ("def alpha(): pass\ndef beta(): pass\n", ["it has alpha, beta"]),
        ("make_tsk = 3\n", ["it is of type int"]),
        ("def _hidden(): pass\n", ["it has none"]),
    ],
)
def test_a_function_that_is_not_there_is_told_with_the_near_one(tmp_path, text, words):
    module = load_module(write(tmp_path, text))
    with pytest.raises(ValueError, match="must define a function 'make_tsk'") as caught:
        find(module, "make_tsk")
    assert all(str(caught.value).endswith(word) for word in words)
