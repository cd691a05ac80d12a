"""Every example in the README and the docs runs, and says what the page says."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main

import needs
from rmsprop import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
COMMAND = re.compile(r"^\$ (rmsprop .*)$", re.MULTILINE)
KNOWN: dict[str, Any] = vars(typer.main.get_command(cli.app))["commands"]
# Of the README's table of tasks, whose rows begin with a command.
TASKS = re.findall(r"^\| `(rmsprop .*?)` \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
# What is added to a command that would take long, by how it begins: the last of an option counts.
SHORTER = {
    "rmsprop compare digits": "--epochs 2 --budget 2 --search-seeds 1 --seeds 2 --jobs 1",
    "rmsprop compare digits --tune": "--epochs 2 --trials 2 --seeds 2 --jobs 1",
    "rmsprop compare moons": "--epochs 2 --budget 2 --search-seeds 1 --seeds 2 --jobs 1",
    "rmsprop limits": "--only momentum,centering --seeds 3",
    "rmsprop map digits": "--epochs 1",
    "rmsprop train digits-": "--epochs 1",
    "rmsprop train mnist-mlp": "--epochs 1",
    "rmsprop train reviews": "--epochs 1",
    "rmsprop train style": "--size 64 --steps 2",
    "rmsprop tune digits": "--epochs 2 --trials 6 --finalists 2 --seeds 2 --jobs 1",
    "rmsprop tune linear": "--epochs 5 --search-seeds 2 --seeds 2",
    "rmsprop tune xor": "--epochs 5 --seeds 2 --jobs 1",
}


def commands(page: Path) -> list[str]:
    """Those of a page that no page before it has."""
    before = {c for p in PAGES[: PAGES.index(page)] for c in COMMAND.findall(p.read_text("utf-8"))}
    return [c for c in COMMAND.findall(page.read_text("utf-8")) if c not in before]


def shorter(command: str) -> str:
    found = [beginning for beginning in SHORTER if command.startswith(beginning)]
    return f"{command} {SHORTER[max(found, key=len)]}" if found else command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_print_what_they_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("```\n", "\n")  # a fence ends what is expected
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    with np.printoptions():
        results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert results.failed == 0


def test_there_are_examples() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 20


@pytest.mark.parametrize("command", sorted({*TASKS, *chain(*map(commands, PAGES))}))
def test_a_command_parses_as_it_stands(command: str) -> None:
    """With its own numbers, for which others stand in below."""
    _, name, *words = shlex.split(command)
    KNOWN[name].make_context(name, words)  # raises for what is no option, or no value of it


def test_what_makes_a_command_shorter_has_a_command() -> None:
    every = [*TASKS, *chain(*map(commands, PAGES))]
    assert all(any(c.startswith(beginning) for c in every) for beginning in SHORTER)


@pytest.mark.long
@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    """With fewer steps where they take long; what they come to in full is a benchmark's to say."""
    for command in commands(page):
        run(shorter(command), tmp_path)


# Those that no page has, with other numbers. To measure a convolutional network on MNIST takes half a minute:
# test_tasks.py trains it, mnist-mlp is the command on its data, a page's digits-cnn that with its network.
ON_PAGES = tuple(chain(*map(commands, PAGES)))
RUN = [
    task
    for task in TASKS
    if task != "rmsprop train mnist-cnn" and not any(c.startswith(task) for c in ON_PAGES)
]


@pytest.mark.long
@pytest.mark.parametrize("command", RUN)
def test_the_tasks_of_the_table_run(command: str, tmp_path: Path) -> None:
    if "mnist" in command or "reviews" in command:
        needs.data_dir()
    run(shorter(command), tmp_path)


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
