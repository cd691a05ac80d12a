"""What the commands have in common: the app, and how what is typed is read."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmsprop.rule import near

if TYPE_CHECKING:
    from rmsprop.surfaces import Surface

app = typer.Typer(
    name="rmsprop",
    help="RMSprop as one exact, fast, portable component: see it, tune it, trust it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Options that several commands have.
TARGETS = (
    "digits, mnist, moons, xor, linear, reviews, or one with a network (digits-cnn), a file "
    "(.npz, .csv, .tsv, a folder)"
)
Epochs = Annotated[int | None, typer.Option(min=1, help="Tasks: passes over the data.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Tasks: rows of a mini-batch.")]
Hidden = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="Tasks: widths of hidden layers; 0 for none."),
]
Activation = Annotated[str | None, typer.Option(help="Tasks: relu, tanh or sigmoid.")]
Network = Annotated[
    str | None, typer.Option(help="Tasks: mlp, cnn, rnn, gru or lstm. [rnn for texts, else mlp]")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Where mnist or reviews lie; else the variable RMSPROP_DATA.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes. [the number of cores]")]
Resume = Annotated[bool, typer.Option("--resume", help="Tasks: go on with what is in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print the study as JSON.")]


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def pair(text: str, separator: str, option: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(separator))
    except ValueError:
        raise ValueError(f"{option} takes two numbers, a{separator}b; got {text!r}") from None
    return low, high


def number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option} takes numbers; got {text!r}") from None


def widths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(width for width in (int(word) for word in words(text)) if width != 0)
    except ValueError:
        raise ValueError(f"--hidden takes whole numbers, 128,64; got {text!r}") from None


def task_settings(
    epochs: int | None,
    batch_size: int | None,
    hidden: str | None,
    activation: str | None,
    network: str | None,
    data_dir: Path | None,
) -> dict[str, Any]:
    """The options above, as `Task.of` and `Settings` name them."""
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "hidden": widths(hidden),
        "activation": activation,
        "network": network,
        "data_dir": plain(data_dir),
    }


def interrupted(stopped: BaseException, folder: Path, *, resume: bool) -> typer.Exit:
    """The end of a command after Ctrl-C, which says how to go on."""
    again = command() if resume else f"{command()} --resume"
    typer.echo(f"\n{stopped}. They are kept in {folder}; to go on:\n  {again}", err=True)
    return typer.Exit(130)


def check_folder(out: Path | None) -> None:
    """Raise ValueError where --out is a file, before anything is done."""
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"--out is a folder, and {out} is a file: name another")


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; the library knows the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def refuse(options: dict[str, Any], kind: str, what: str) -> None:
    """Refuse options that would do nothing."""
    names = ", ".join("--" + name.replace("_", "-") for name in given(options))
    if names:
        raise ValueError(f"{what} is {kind}, which does not take {names}")


def is_surface(what: str) -> bool:
    """Whether this names a surface rather than data; ValueError for what can be neither."""
    from rmsprop.data import NAMES
    from rmsprop.surfaces import SURFACES
    from rmsprop.tasks import split_name

    file, colon, name = what.rpartition(":")
    if what in SURFACES or (colon and file and name.isidentifier()):
        return True
    if split_name(what)[0] not in NAMES and not (
        Path(what).exists() or Path(what).suffix or "/" in what
    ):
        raise ValueError(
            f"no task or surface is named {what!r}{near(what, [*NAMES, *SURFACES])}; or give a file "
            "(.npz, .csv, .tsv, a folder of IDX files or texts), or path/to/file.py:function"
        )
    return False


def load_surface(name: str, noise: float | None) -> "Surface":
    from rmsprop.surfaces import load

    return load(name).with_noise(noise or 0.0)


def stem(what: str) -> str:
    file, _, name = what.rpartition(":")
    return f"{Path(file).stem}-{name}" if file else Path(what).stem


def command() -> str:
    """What was typed, but for a password in it."""
    return shlex.join(["rmsprop", *(_without_password(word) for word in sys.argv[1:])])


def _without_password(word: str) -> str:
    scheme, slashes, rest = word.partition("://")
    account, at, host = rest.rpartition("@")
    user, colon, _ = account.partition(":")
    return f"{scheme}{slashes}{user}:***{at}{host}" if at and colon else word


def plain(value: Any) -> Any:
    """An option as settings keep it: a path as its text."""
    return str(value) if isinstance(value, Path) else value
