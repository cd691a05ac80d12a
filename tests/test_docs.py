"""Every example in the README and the docs runs, and says what the page says."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import needs

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
COMMAND = re.compile(r"^\$ (rmsprop .*)$", re.MULTILINE)
# Of the README's table of tasks, whose rows begin with a command.
TASKS = re.findall(r"^\| `(rmsprop .*?)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
SHORTER = {
    "rmsprop train mnist-cnn": "--steps 20",
    "rmsprop train mnist-mlp": "--epochs 1",
    "rmsprop train style": "--size 64 --steps 12",
    "rmsprop limits": "--only momentum,schedules --seeds 3",
}


def commands(page: Path) -> list[str]:
    return COMMAND.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_print_what_they_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("```\n", "\n")  # a fence ends what is expected
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    with np.printoptions():
        results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert results.failed == 0


def test_there_are_examples() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 20


@pytest.mark.long
@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    for command in commands(page):
        run(command, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("command", TASKS)
def test_the_tasks_of_the_table_run(command: str, tmp_path: Path) -> None:
    """With fewer steps where they take long; what they come to in full is a benchmark's to say."""
    if "mnist" in command or "reviews" in command:
        needs.data_dir()
    run(f"{command} {SHORTER.get(command, '')}", tmp_path)


def run(command: str, folder: Path) -> None:
    words = [sys.executable, "-W", "error", "-m", "rmsprop.cli", *shlex.split(command)[1:]]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    assert "Traceback" not in done.stderr
    assert done.stdout, command
