"""The command line: help, errors in a line, progress, pictures, user files, Ctrl-C and kill -9."""

import contextlib
import functools
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from PIL import Image

import needs
import rmsprop
from rmsprop import DIALECTS, PRESETS, Rule, cli, compare, compare_surfaces, console, plots
from rmsprop.compare import compare_task
from rmsprop.data import NAMES
from rmsprop.entries import entries
from rmsprop.surfaces import SURFACES
from rmsprop.tasks import Task
from test_compare import lasting
from test_tasks import write_csv, write_npz

COMMANDS: dict[str, Any] = vars(typer.main.get_command(cli.app))["commands"]
SMALL = ("--epochs", "2", "--seeds", "2", "--search-seeds", "1", "--budget", "2", "--jobs", "1",
         "--optimizers", "rmsprop,sgd")  # fmt: skip
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(rmsprop.__file__).parents[1]), "COLUMNS": "80"}


@dataclass
class Result:
    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path) -> Command:
    """`rmsprop ...` in this process, in an empty folder, without a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def command(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["rmsprop", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        code = end.value.code
        return Result(code if isinstance(code, int) else int(code is not None), out, err)

    return command


# A suite in the background ignores SIGINT, and would hand that down; a terminal does not. The process undoes
# it itself, as a preexec_fn would fork this one, which may hold JAX and its threads.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from rmsprop.cli import main
main()
"""


def start(*words: str, **options: Any) -> subprocess.Popen[str]:
    """`rmsprop ...` in a process group of its own."""
    pipes: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "env": ENVIRONMENT,
    }
    command = [sys.executable, "-c", INTERRUPTIBLE, *words]
    return subprocess.Popen(command, text=True, start_new_session=True, **pipes | options)


# Help


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_names_every_option_in_80_columns(run, name):
    result = run(*name.split(), "--help")
    assert result.code == 0
    assert result.err == ""
    assert max(map(len, result.out.splitlines())) <= 80
    if not name:
        assert all(re.search(rf"^ +{command} ", result.out, re.M) for command in COMMANDS)
        return
    for parameter in COMMANDS[name].params:
        for option in parameter.opts:
            word = option if option.startswith("-") else parameter.metavar or option.upper()
            lines = [
                x for x in result.out.splitlines() if x.strip().upper().startswith(word.upper())
            ]
            line = lines[0] if lines else pytest.fail(f"{word} is not in the help")
            assert len(line.split()) > 1, line  # with a word of what it does
    assert "Examples: rmsprop " + name in result.out


def test_the_examples_of_the_help_are_commands_that_parse(run):
    for name in COMMANDS:
        text = " ".join(run(name, "--help").out.split())
        text = re.split(" (?:Arguments|Options):", text.split("Examples: ")[1])[0]
        examples = text.split(";")
        for example in examples:
            program, command, *words = shlex.split(example)
            assert (program, command) == ("rmsprop", name)
            COMMANDS[command].make_context(command, words)  # raises for what is no option


def test_no_command_shows_the_help(run):
    result = run()
    assert result.code == 2
    assert all(command in result.err for command in ("Usage: ", *COMMANDS))


def test_the_version(run):
    assert run("--version").out == f"rmsprop {rmsprop.__version__}\n"


def test_help_and_version_load_nothing_heavy():
    heavy = ["numpy", "numba", "scipy", "sklearn", "matplotlib", "torch", "jax", "keras"]
    for words in ("--help", "--version", "compare --help", "rule keras"):
        code = (
            f"import sys; sys.argv = ['rmsprop', *{words.split()!r}]\n"
            "from rmsprop.cli import main\n"
            "try: main()\n"
            f"finally: print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0
        assert done.stderr == "[]\n", words


# Errors


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("compare digit", "did you mean 'digits'"),
        ("compare rosenbrok", "did you mean 'rosenbrock'"),
        ("compare Rosenbrock", "did you mean 'rosenbrock'"),
        ("compare x", ".tsv, a folder of IDX files or texts), or path/to/file.py:function"),
        ("path rosenbrok", "Near: rosenbrock"),
        ("rule kears", "did you mean 'keras'"),
        ("rule torch lrr=1", "Rule has no field 'lrr'; did you mean 'lr'"),
        ("compare digits --optimizers rmsprop,adm", "no optimizer is named 'adm'; known: rmsprop, "),
        ("compare digits --dialects kers", "no optimizer is named 'rmsprop-kers'"),
        ("compare digits --optimizers ,", "name at least one optimizer"),
        ("compare digits --optimizers sgd,sgd", "named twice: SGD"),
        ("compare digits --optimizers sgd:decay=2", "decay must be a number in [0, 1)"),
        ("compare nothing.csv", "There is no file or folder nothing.csv"),
        ("compare nothing.py:f", "No file 'nothing.py'"),
        ("compare digits --lr-range 0.1", "--lr-range takes two numbers, a:b; got '0.1'"),
        ("compare xor --lr-range 1:0.1 --jobs 1", "from a low above 0 to a higher; got 1.0:0.1"),
        ("compare xor --schedule cosin --jobs 1", "constant, cosine, step, exponential; got 'cosin'"),
        ("compare xor --hidden 4,x --jobs 1", "--hidden takes whole numbers, 128,64; got '4,x'"),
        ("compare xor --hidden -4 --jobs 1", "each at least 1"),
        ("compare xor --activation rely --jobs 1", "must be one of relu, sigmoid, tanh; got 'rely'"),
        ("compare xor --target nan --jobs 1", "target must be finite; got nan"),
        ("compare rosenbrock --start 1,2,3", "--start takes two numbers, a,b; got '1,2,3'"),
        ("compare rosenbrock --start nan,1", "must be finite at the start"),
        ("compare rosenbrock --noise -1", "noise must be finite and at least 0, got -1.0"),
        ("compare rosenbrock --epochs 3", "rosenbrock is a surface, which does not take --epochs"),
        ("compare digits --noise 3", "digits is a task, which does not take --noise"),
        ("path rosenbrock --schedule linear", "schedule must be one of"),
        ("path rosenbrock --out a.jpg", "a picture ends in .png, .svg, .pdf, .gif; got 'a.jpg'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(run, command, words):
    result = run(*command.split())
    assert result.code == 2
    assert result.out == ""
    *progress, message = result.err.splitlines()
    assert all(line.endswith("0 of 150") for line in progress)  # the search that was to begin
    assert message.startswith("rmsprop: ")
    assert words in message
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.html"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("comapre digits", "Did you mean 'compare'"),
        ("compare", "Missing argument"),
        ("compare digits --seeds x", "Invalid value for '--seeds'"),
        ("compare digits --seeds 0", "Invalid value for '--seeds'"),
        ("compare digits --budget 1", "Invalid value for '--budget'"),
        ("compare digits --epochs 0", "Invalid value for '--epochs'"),
        ("compare digits --sched cosine", "--schedule"),
        ("compare digits --jobs", "requires an argument"),
        ("path rosenbrock --steps 0", "Invalid value for '--steps'"),
        ("compare digits moons", "unexpected extra argument"),
    ],
)
def test_wrong_usage_says_how_and_ends_with_the_reason(run, command, words):
    result = run(*command.split())
    assert result.code == 2
    assert result.out == ""
    assert words in result.err.splitlines()[-1]


def test_a_wrong_ending_is_refused_before_anything_is_computed(run, monkeypatch, tmp_path):
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(compare_surfaces, "compare_surface", never)
    assert run("path", "sphere", "--out", "deep/a.bmp").code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_does_not_cost_the_runs_that_are_there(run, tmp_path):
    folder = tmp_path / "kept"
    assert run("compare", "xor", *SMALL, "--out", str(folder)).code == 0
    before = (folder / "runs.jsonl").read_text()
    for _ in range(2):
        assert run("compare", "xor", *SMALL, "--out", str(folder), "--schedule", "cosin").code == 2
    assert before in ((folder / name).read_text() for name in ("runs.jsonl", "runs.bak"))


def test_a_folder_that_cannot_be_made_is_told(run, tmp_path):
    (tmp_path / "taken").write_text("")
    for what in ("xor", "sphere"):
        words = SMALL if what == "xor" else ("--steps", "5", "--budget", "2", "--optimizers", "sgd")
        result = run("compare", what, *words, "--out", "taken/deep")
        assert result.code == 2
        assert "taken" in result.err.splitlines()[-1]


# The rule


@pytest.mark.parametrize("name", [*DIALECTS, *PRESETS])
def test_rule_prints_what_a_framework_computes_by_its_own_defaults(run, name):
    known = (DIALECTS | PRESETS)[name]
    stand_in = {} if "lr" in known.fields else {"lr": 0.001}
    rule = Rule.from_dialect(name, **stand_in)
    out = run("rule", name).out
    assert out.startswith(known.source + "\n\n" + rule.equations() + "\n")
    assert ("0.001 stands in" in out) == bool(stand_in)
    assert known.note in out
    assert Rule.from_json(run("rule", name, "--json").out) == rule


def test_rule_takes_fields(run):
    words = ("rule", "torch", "lr=0.5", "momentum=0.9", "centered=true", "clip_norm=none")
    expected = Rule.from_dialect("torch", lr=0.5, momentum=0.9, centered=True)
    assert Rule.from_json(run(*words, "--json").out) == expected
    assert expected.equations() in run(*words).out


# Pictures


def test_path_draws_the_defaults_of_the_slides(run, tmp_path):
    result = run("path", "rosenbrock")
    assert result == Result(0, "Picture: runs/path-rosenbrock.png\n", "")
    with Image.open(tmp_path / "runs" / "path-rosenbrock.png") as image:
        assert min(image.size) > 1000
    study = json.loads(run("path", "rosenbrock", "--json", "--out", "a.png").out)
    assert study["command"] == "rmsprop path rosenbrock --json --out a.png"
    found = {e["label"]: e["lr"] for e in study["entries"]}
    assert found == {"RMSprop": 0.01, "SGD": 0.001, "Adam": 0.01}
    assert all(e["path"]["positions"][0] == [-1.5, 2.5] for e in study["entries"])
    assert all(len(e["path"]["positions"]) == 1001 for e in study["entries"])


@pytest.mark.parametrize(("ending", "head"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_path_writes_vectors(run, tmp_path, ending, head):
    words = ("--optimizers", "sgd:lr=0.01,sgd:lr=0.1,sgd:lr=0.9,sgd:lr=1.01", "--start", "4,0")
    result = run("path", "quadratic", *words, "--steps", "50", "--out", f"new/a.{ending}")
    assert (result.code, result.err) == (0, "")
    content = (tmp_path / "new" / f"a.{ending}").read_bytes()
    assert content.startswith(head)
    assert len(content) > 10_000


def test_path_writes_a_moving_picture(run, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "animation", functools.partial(plots.animation, frames=8))
    assert (
        run(
            "path", "quadratic", "--optimizers", "sgd:lr=0.9", "--steps", "30", "--out", "a.gif"
        ).code
        == 0
    )
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.format == "GIF"
        assert getattr(gif, "n_frames", 1) == 8
        first = np.asarray(gif.convert("RGB"), dtype=int)
        gif.seek(getattr(gif, "n_frames", 1) - 1)
        assert np.abs(np.asarray(gif.convert("RGB"), dtype=int) - first).max() > 50


def test_path_takes_noise_start_and_schedule(run):
    words = ("path", "sphere", "--optimizers", "sgd:lr=0.1", "--start", "1,-1", "--steps", "20")
    quiet, noisy, cosine = (
        json.loads(run(*words, *more, "--json").out)["entries"][0]["path"]["positions"]
        for more in ((), ("--noise", "0.5"), ("--schedule", "cosine"))
    )
    assert quiet[0] == noisy[0] == cosine[0] == [1.0, -1.0]
    assert abs(quiet[-1][0]) < abs(cosine[-1][0])
    assert noisy[1] != quiet[1] == cosine[1]


# Comparisons


def test_compare_writes_a_report_and_says_where(run, tmp_path):
    result = run("compare", "xor", *SMALL)
    assert result.code == 0
    folder = tmp_path / "runs" / "compare-xor"
    study = json.loads((folder / "run.json").read_text())
    assert sorted(f.name for f in folder.iterdir()) == ["report.html", "run.json", "runs.jsonl"]
    assert len((folder / "runs.jsonl").read_text().splitlines()) == 8
    assert result.out.splitlines()[-1] == "Report: runs/compare-xor/report.html"
    assert study["verdict"] in " ".join(result.out.split())
    for e in study["entries"]:
        line = next(line for line in result.out.splitlines() if line.startswith(e["label"]))
        assert f"{e['lr']:.3g}" in line
        assert f"{100 * e['test_score']['mean']:.2f}%" in line
    assert shlex.split(study["command"]) == ["rmsprop", "compare", "xor", *SMALL]
    lines = result.err.splitlines()
    assert lines[0] == "learning rates: 0 of 4"
    assert lines[-1] == "final runs: 4 of 4"
    assert all(
        re.fullmatch(r"(learning rates|final runs): \d of \d(, about \d+ s left)?", x)
        for x in lines
    )
    assert any("left" in line for line in lines)


def test_json_is_all_there_is_on_standard_output(run, tmp_path):
    for words in (("xor", *SMALL), ("sphere", "--steps", "20", "--optimizers", "sgd")):
        result = run("compare", *words, "--json", "--out", "a")
        study = json.loads(result.out)
        assert result.out.count("\n") == 1
        assert study == json.loads((tmp_path / "a" / "run.json").read_text())
        assert "NaN" not in result.out
        assert "Infinity" not in result.out


def test_compare_takes_a_table_a_users_arrays_and_a_users_function(run, tmp_path):
    write_csv(tmp_path / "rent [red].csv")
    write_npz(tmp_path / "bars.npz")
    (tmp_path / "hills.py").write_text(
        "import math\n\ndef bowl(x, y):\n    return (x - 1) ** 2 + 3 * math.cosh(y)\n"
    )
    result = run("compare", "rent [red].csv", *SMALL)
    assert result.code == 0
    assert "On rent [red], " in " ".join(result.out.split())  # not taken for a colour
    study = json.loads((tmp_path / "runs" / "compare-rent [red]" / "run.json").read_text())
    assert study["task"]["metric"] == "R^2"
    assert run("compare", "bars.npz", *SMALL, "--hidden", "7,5", "--activation", "tanh").code == 0
    study = json.loads((tmp_path / "runs" / "compare-bars" / "run.json").read_text())
    assert study["task"]["widths"] == [16, 7, 5, 1]
    assert study["task"]["activation"] == "tanh"
    result = run(
        "compare", "hills.py:bowl", "--steps", "30", "--optimizers", "rmsprop,sgd", "--start", "2,1"
    )
    assert result.code == 0
    study = json.loads((tmp_path / "runs" / "compare-hills-bowl" / "run.json").read_text())
    assert study["surface"]["name"] == "bowl"
    assert study["settings"]["start"] == [2.0, 1.0]
    heights = study["entries"][0]["path"]["heights"][0]
    assert heights[0] == pytest.approx(1 + 3 * np.cosh(1), rel=1e-6)
    assert heights[-1] < heights[0]


def test_the_options_of_compare_reach_the_study(run):
    words = ("--optimizers", "sgd,adam:lr=0.02", "--dialects", "keras,torch", "--lr-range", "0.001:0.1",
             "--budget", "3", "--seeds", "2", "--search-seeds", "2", "--schedule", "constant",
             "--target", "0.6", "--batch-size", "50", "--hidden", "0", "--epochs", "1",
             "--jobs", "1")  # fmt: skip
    study = json.loads(run("compare", "moons", *words, "--json").out)
    labels = [e["label"] for e in study["entries"]]
    assert labels == ["SGD", "Adam", "RMSprop (keras)", "RMSprop (torch)"]
    assert [row["lr"] for row in study["entries"][0]["search"]] == [0.001, 0.01, 0.1]
    assert study["settings"] == {
        "seeds": 2, "search_seeds": 2, "budget": 3, "lr_range": [0.001, 0.1], "schedule": "constant",
        "target": 0.6, "processes": 1,
    }  # fmt: skip
    assert (study["task"]["widths"], study["task"]["batch_size"], study["task"]["epochs"]) == (
        [2, 1],
        50,
        1,
    )


def test_resume_takes_what_is_there_and_without_it_all_is_done_again(run, tmp_path, monkeypatch):
    words = ("compare", "xor", *SMALL, "--out", "a", "--json")
    first = json.loads(run(*words).out)
    trained = []
    train = compare.train
    monkeypatch.setattr(compare, "train", lambda *a, **k: trained.append(1) or train(*a, **k))
    result = run(*words, "--resume")
    assert trained == []
    again = json.loads(result.out)
    assert result.err.splitlines() == ["learning rates: 4 of 4", "final runs: 4 of 4"]
    assert again["entries"] == first["entries"]  # the seconds too
    assert len((tmp_path / "a" / "runs.jsonl").read_text().splitlines()) == 8
    assert lasting(json.loads(run(*words).out)["entries"]) == lasting(first["entries"])
    assert len(trained) == 8
    assert len((tmp_path / "a" / "runs.bak").read_text().splitlines()) == 8


@pytest.mark.parametrize(
    "optimizers", ["rmsprop-keras:decay=0.99:centered=true:momentum=0.9", "sgd"]
)
def test_the_table_in_a_terminal_fits_80_columns_and_loses_no_number(run, optimizers):
    words = (*SMALL[:-1], optimizers, "--lr-range", "0.001:0.01")
    result = run("compare", "digits", *words, "--out", "a")
    assert max(map(len, result.out.splitlines())) <= 80
    assert "…" not in result.out
    e = json.loads(Path("a/run.json").read_text())["entries"][0]
    for x in (e["test_score"]["mean"], e["test_score"]["low"], e["test_score"]["high"]):
        assert f"{100 * x:.2f}%" in result.out


def test_progress_lines_are_few_and_tell_the_time_left(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress() as tell:
        for done in range(5, 106):  # five were there before
            tell(done, 105, "runs")
            now[0] += 2.0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 13
    assert lines[0] == "runs: 5 of 105"
    assert "runs: 50 of 105, about 110 s left" in lines
    assert lines[-1] == "runs: 105 of 105"


# In a terminal, and when it is interrupted


def test_a_terminal_gets_a_bar_with_the_time_left(tmp_path):
    master, slave = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "100"}
    words = ("compare", "xor", *SMALL, "--out", str(tmp_path), "--json")
    process = start(*words, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["kind"] == "task"  # nothing of the bar in it
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    last = text.split("learning rates")[-1]
    assert re.search(r"━+ 4/4 +\d:\d\d:\d\d left: +\d:\d\d:\d\d", last)
    assert "final runs" in last


LONG = ("compare", "digits", "--epochs", "60", "--seeds", "3", "--budget", "4", "--search-seeds", "2",
        "--optimizers", "rmsprop,sgd", "--jobs", "2")  # fmt: skip
SEARCH, FINAL = 2 * 4 * 2, 2 * 3


def lines_of(file: Path) -> list[str]:
    """The whole lines."""
    text = file.read_text() if file.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def wait_for_lines(file: Path, count: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while len(lines_of(file)) < count:
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < end
        time.sleep(0.005)


def group_of(leader: int) -> dict[int, str]:
    """The processes of a group that still run, by id, and their commands."""
    if not Path("/proc/self/stat").exists():
        needs.lacking("there is no /proc to find processes in")
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, _, group, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if group == str(leader) and state not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_text()
    return found


def assert_gone(leader: int) -> None:
    end = time.monotonic() + 15
    while group_of(leader) and time.monotonic() < end:
        time.sleep(0.02)
    assert group_of(leader) == {}


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group


def stopped(
    words: tuple[str, ...], file: Path, stop: Callable[[Any], None]
) -> tuple[int, str, list[str]]:
    """Start a command, stop it once it has finished two more runs: its code, last words and whole lines."""
    process = start(*words)
    wait_for_lines(file, len(lines_of(file)) + 2, process)
    stop(process)
    out, err = process.communicate(timeout=30)
    assert out == ""
    assert "Traceback" not in err
    assert_gone(process.pid)
    assert not (file.parent / "report.html").exists()
    return process.returncode, err, lines_of(file)


@pytest.mark.long
def test_ctrl_c_and_kill_9_cost_no_finished_run_and_leave_no_process(tmp_path):
    folder = tmp_path / "a folder"
    words, file = (*LONG, "--out", str(folder)), folder / "runs.jsonl"
    code, err, first = stopped(words, file, press_ctrl_c)
    assert code == 130
    assert 2 <= len(first) < SEARCH
    *_, said, again = err.splitlines()
    known = f"interrupted: {len(first)} of {SEARCH} runs are finished. They are kept in {folder}; to go on:"
    assert said == known
    assert shlex.split(again) == ["rmsprop", *words, "--resume"]

    code, err, second = stopped((*words, "--resume"), file, subprocess.Popen.kill)
    assert code == -signal.SIGKILL
    assert err.splitlines()[0] == f"learning rates: {len(first)} of {SEARCH}"
    assert second[: len(first)] == first
    with file.open("a") as end:
        end.write(second[-1][: len(second[-1]) // 2])  # as if it had died while it wrote

    process = start(*words, "--resume", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = lines_of(file)
    assert lines[: len(second)] == second  # their seconds too: they were not run again
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == SEARCH + FINAL
    assert (folder / "report.html").stat().st_size > 100_000
    assert_gone(process.pid)
    whole = compare_task(
        Task.of("digits", epochs=60),
        entries(["rmsprop", "sgd"], []),
        seeds=3,
        search_seeds=2,
        budget=4,
    )
    study = json.loads(out)
    assert study.pop("command") == shlex.join(["rmsprop", *words, "--resume", "--json"])
    assert lasting(study) == lasting(json.loads(json.dumps(whole)))


def test_a_process_that_is_killed_is_told_in_a_line(run, monkeypatch):
    def killed(*args: Any, **options: Any) -> None:
        raise BrokenProcessPool("A process in the process pool was terminated abruptly")

    monkeypatch.setattr(compare, "train", killed)
    result = run("compare", "xor", *SMALL)
    assert (result.code, result.out) == (2, "")
    assert result.err.splitlines()[-1].startswith("rmsprop: a process was killed, perhaps for want")


def test_ctrl_c_of_a_surface_ends_it_quietly(tmp_path):
    process = start("compare", "rosenbrock", "--steps", "300000", "--out", str(tmp_path / "a"))
    maps, end = Path(f"/proc/{process.pid}/maps"), time.monotonic() + 60
    if not maps.exists():
        needs.lacking("there is no /proc to see a process in")
    while "llvmlite" not in maps.read_text() and time.monotonic() < end:
        time.sleep(0.02)  # until it has begun
    try:
        # Again and again: Python drops an interrupt that meets a callback of an import.
        while process.poll() is None and time.monotonic() < end:
            press_ctrl_c(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not (tmp_path / "a").exists()


def test_no_name_is_both_a_task_and_a_surface():
    assert not set(NAMES) & set(SURFACES)
