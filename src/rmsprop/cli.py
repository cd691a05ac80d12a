"""The command line: parse, one library call, print.  Heavy imports wait until a command needs them."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmsprop import DIALECTS, PRESETS, Rule, __version__
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

_TARGETS = "digits, mnist, moons, xor, linear, a file (.npz, .csv, IDX folder), or a surface"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rmsprop {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def compare(
    what: Annotated[str, typer.Argument(metavar="TASK|SURFACE", help=_TARGETS)],
    optimizers: Annotated[
        str,
        typer.Option(
            help="Names, comma-separated; name:field=value sets fields, lr= fixes the rate."
        ),
    ] = "rmsprop,sgd,momentum,adagrad,adam",
    dialects: Annotated[
        str, typer.Option(help="RMSprop in these dialects too: torch,keras,...")
    ] = "",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Final runs of each. [10; 5 if large]")
    ] = None,
    search_seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs at each learning rate. [3; 1 if large]")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=2, help="Learning rates to choose from. [10; surfaces 61]")
    ] = None,
    lr_range: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="[1e-4:3.16; surfaces 1e-5:10]")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="constant or cosine. [cosine; surfaces constant]")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Validation score, or height, whose first reach is timed.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Tasks: passes over the data.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Tasks: rows of a mini-batch.")
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Tasks: widths of hidden layers; 0 for none."),
    ] = None,
    activation: Annotated[str | None, typer.Option(help="Tasks: relu, tanh or sigmoid.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where mnist lies; else the variable RMSPROP_DATA.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Tasks: fetch mnist if it is not there.")
    ] = False,
    start: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Surfaces: where to start.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Surfaces: updates. [1000]")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Surfaces: standard deviation added to gradients. [0]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report. [runs/compare-WHAT]")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the study as JSON.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Tasks: processes. [the number of cores]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Tasks: go on with what is in --out.")
    ] = False,
) -> None:
    """Compare optimizers, each with a learning rate found for it, and write a report.

    Examples: rmsprop compare digits; rmsprop compare rosenbrock --start -1.5,2.5
    """
    from rmsprop import console, report
    from rmsprop.entries import entries

    competitors = entries(_words(optimizers), _words(dialects))
    folder = out or Path("runs") / f"compare-{_stem(what)}"
    shared = {
        "seeds": seeds,
        "budget": budget,
        "lr_range": _pair(lr_range, ":", "--lr-range") if lr_range else None,
        "schedule": schedule,
        "target": target,
    }
    task = {
        "epochs": epochs,
        "batch_size": batch_size,
        "hidden": _widths(hidden),
        "activation": activation,
        "data_dir": str(data_dir) if data_dir else None,
    }
    running = {
        "search_seeds": search_seeds,
        "jobs": jobs,
        "resume": resume or None,
        "download": download or None,
    }
    walk = {"start": _pair(start, ",", "--start") if start else None, "steps": steps}
    surface: Surface | None = None
    if _is_surface(what):
        _refuse(task | running, "a surface", what)
        surface = _surface(what, noise)
        study = _compare_surface(surface, competitors, _given(shared | walk))
    else:
        _refuse(walk | {"noise": noise}, "a task", what)
        study = _compare_task(what, competitors, folder, _given(task), _given(shared), running)
    page = report.write(study, folder, command=_command(), surface=surface)
    if json_:
        typer.echo(json.dumps({"command": _command()} | study))
    else:
        console.show(study)
        typer.echo(f"Report: {page}")


def _compare_surface(
    surface: "Surface", competitors: list[Any], options: dict[str, Any]
) -> dict[str, Any]:
    from rmsprop.compare_surfaces import compare_surface

    return compare_surface(surface, competitors, **options)


def _compare_task(
    what: str,
    competitors: list[Any],
    folder: Path,
    settings: dict[str, Any],
    options: dict[str, Any],
    running: dict[str, Any],
) -> dict[str, Any]:
    import os

    from rmsprop import console, data
    from rmsprop.compare import compare_task
    from rmsprop.ledger import Interrupted, Ledger
    from rmsprop.tasks import Task

    if running["download"]:
        data.load(what, data_dir=settings.get("data_dir"), download=True)
    task = Task.of(what, **settings)
    task.dataset  # noqa: B018  (bad data are told before anything is written)
    resume = bool(running["resume"])
    ledger = Ledger(folder / "runs.jsonl", resume=resume)
    with console.progress() as progress:
        try:
            return compare_task(
                task,
                competitors,
                search_seeds=running["search_seeds"],
                processes=running["jobs"] or os.cpu_count() or 1,
                ledger=ledger,
                progress=progress,
                **options,
            )
        except Interrupted as stopped:
            again = _command() if resume else f"{_command()} --resume"
            message = f"\n{stopped}. They are kept in {folder}; to go on:\n  {again}"
    typer.echo(message, err=True)
    raise typer.Exit(130)


@app.command()
def path(
    surface: Annotated[str, typer.Argument(help="A surface, or path/to/file.py:function.")],
    optimizers: Annotated[
        str, typer.Option(help="Names, comma-separated; name:lr=0.1 sets the learning rate.")
    ] = "rmsprop:lr=0.01,sgd:lr=0.001,adam:lr=0.01",
    start: Annotated[str | None, typer.Option(metavar="X,Y", help="Where to start.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Updates.")] = 1000,
    noise: Annotated[
        float | None, typer.Option(help="Standard deviation added to gradients. [0]")
    ] = None,
    schedule: Annotated[str, typer.Option(help="constant or cosine.")] = "constant",
    out: Annotated[
        Path | None, typer.Option(help="A .png, .svg, .pdf or .gif. [runs/path-SURFACE.png]")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the paths as JSON.")] = False,
) -> None:
    """Draw the paths of optimizers over a surface, at the learning rates given.

    Examples: rmsprop path rosenbrock; rmsprop path quadratic --start -4,0 --out a.gif
    """
    from rmsprop import plots
    from rmsprop.compare_surfaces import compare_surface
    from rmsprop.entries import fixed_entries

    target = out or Path("runs") / f"path-{_stem(surface)}.png"
    plots.check_ending(target, (*plots.FORMATS, "gif"))
    found = _surface(surface, noise)
    point = _pair(start, ",", "--start") if start else None
    study = compare_surface(
        found, fixed_entries(_words(optimizers)), start=point, steps=steps, schedule=schedule
    )
    if target.suffix == ".gif":
        plots.animation(found, study["entries"], target)
    else:
        plots.save(plots.surface_overview(found, study["entries"]), target)
    typer.echo(json.dumps({"command": _command()} | study) if json_ else f"Picture: {target}")


@app.command()
def rule(
    dialect: Annotated[str, typer.Argument(help=", ".join([*DIALECTS, *PRESETS]))],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[FIELD=VALUE]...", help="Fields of Rule.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the rule as JSON.")] = False,
) -> None:
    """Print what a framework's RMSprop, or another optimizer, computes.

    Examples: rmsprop rule keras; rmsprop rule torch lr=0.001 momentum=0.9 centered=true
    """
    from rmsprop.entries import entry

    known = DIALECTS | PRESETS
    if dialect not in known:
        Rule.from_dialect(dialect)  # raises with the near name
    found = entry(":".join([dialect, *(settings or [])])).rule
    if json_:
        typer.echo(found.to_json())
        return
    typer.echo(f"{known[dialect].source}\n")
    typer.echo(found.equations())
    if known[dialect].note:
        typer.echo(f"\n{known[dialect].note}")
    if "lr" not in known[dialect].fields and not any(s.startswith("lr=") for s in settings or []):
        typer.echo("\nIt has no default learning rate; 0.001 stands in.")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _pair(text: str, separator: str, option: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(separator))
    except ValueError:
        raise ValueError(f"{option} takes two numbers, a{separator}b; got {text!r}") from None
    return low, high


def _widths(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(width for width in (int(word) for word in _words(text)) if width != 0)
    except ValueError:
        raise ValueError(f"--hidden takes whole numbers, 128,64; got {text!r}") from None


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given; the library knows the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}


def _refuse(options: dict[str, Any], kind: str, what: str) -> None:
    """Refuse options that would do nothing."""
    names = ", ".join("--" + name.replace("_", "-") for name in _given(options))
    if names:
        raise ValueError(f"{what} is {kind}, which does not take {names}")


def _is_surface(what: str) -> bool:
    """Whether this names a surface rather than data; ValueError for what can be neither."""
    from rmsprop.data import NAMES
    from rmsprop.surfaces import SURFACES

    file, colon, name = what.rpartition(":")
    if what in SURFACES or (colon and file and name.isidentifier()):
        return True
    if what not in NAMES and not (Path(what).exists() or Path(what).suffix or "/" in what):
        raise ValueError(
            f"no task or surface is named {what!r}{near(what, [*NAMES, *SURFACES])}; or give a file "
            "(.npz, .csv, a folder of IDX files), or path/to/file.py:function"
        )
    return False


def _surface(name: str, noise: float | None) -> "Surface":
    from rmsprop.surfaces import load

    return load(name).with_noise(noise or 0.0)


def _stem(what: str) -> str:
    file, _, name = what.rpartition(":")
    return f"{Path(file).stem}-{name}" if file else Path(what).stem


def _command() -> str:
    return shlex.join(["rmsprop", *sys.argv[1:]])


def main() -> None:
    """Run the command line; what is wrong with the input is told in a line."""
    try:
        app()
    except (ValueError, TypeError, KeyError, OSError, ModuleNotFoundError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo(f"rmsprop: {text}", err=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        typer.echo("rmsprop: interrupted", err=True)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
