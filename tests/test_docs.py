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

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])
COMMAND = re.compile(r"^\$ (rmsprop .*)$", re.MULTILINE)


def commands() -> list[str]:
    found = [c for page in PAGES for c in COMMAND.findall(page.read_text(encoding="utf-8"))]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_print_what_they_say(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("```\n", "\n")  # a fence ends what is expected
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    with np.printoptions():
        results = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert results.failed == 0


def test_there_are_examples() -> None:
    assert len(commands()) >= 8


@pytest.mark.long
@pytest.mark.parametrize("command", commands())
def test_commands_run(command: str, tmp_path: Path) -> None:
    words = [sys.executable, "-W", "error", "-m", "rmsprop.cli", *shlex.split(command)[1:]]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout
