"""rmsprop tune"""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from rmsprop.cli import shared
from rmsprop.cli.shared import app

_SPACE = "What is searched: lr=1e-5:1:log decay=0.9,0.99 centered=true,false."


@app.command()
def tune(
    what: Annotated[
        str,
        typer.Argument(
            metavar="TASK|FUNCTION|show", help=f"{shared.TARGETS}, or path/to/file.py:function"
        ),
    ],
    space: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=RANGE]...", help=_SPACE)
    ] = None,
    method: Annotated[str, typer.Option(help="tpe, random or grid.")] = "tpe",
    trials: Annotated[int | None, typer.Option(min=1, help="In all. [60; of a grid all]")] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="Tasks: rmsprop, a dialect, adam, ...; name:field=value.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Tasks: constant, cosine, ... [cosine]")
    ] = None,
    direction: Annotated[
        str | None, typer.Option(help="Functions: minimize or maximize. [minimize]")
    ] = None,
    search_seeds: Annotated[
        int | None, typer.Option(min=1, help="Tasks: runs that a trial is the mean of. [1]")
    ] = None,
    splits: Annotated[
        bool, typer.Option("--splits", help="Tasks: each seed splits the data anew.")
    ] = False,
    finalists: Annotated[
        int | None, typer.Option(min=0, help="How many of the best get final runs. [5]")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Final runs of each. [10; 5 if large]")
    ] = None,
    prune: Annotated[bool, typer.Option(help="Stop trials that fall behind.")] = True,
    stack: Annotated[
        bool, typer.Option(help="Train small networks of a grid or random search as one.")
    ] = True,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draws. [0]")] = None,
    time_limit: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="For each trial. [none]")
    ] = None,
    epochs: shared.Epochs = None,
    batch_size: shared.BatchSize = None,
    hidden: shared.Hidden = None,
    activation: shared.Activation = None,
    network: shared.Network = None,
    data_dir: shared.DataDir = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="FILE|URL", help="SQLite or postgresql://. [study.db in --out]"),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of the study in its storage.")] = None,
    jobs: shared.Jobs = None,
    ray: Annotated[
        str | None, typer.Option(metavar="auto|ADDRESS", help="Run trials on a Ray cluster.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder. [runs/tune-WHAT]")] = None,
    json_: shared.Json = False,
) -> None:
    """Search for good settings; the same command goes on where a stopped one was.

    Examples: rmsprop tune digits; rmsprop tune linear lr=0.01,0.1 decay=0.9,0.99 --method grid;
    rmsprop tune my_file.py:loss x=0:1; rmsprop tune show runs/tune-digits
    """
    if what == "show":
        _show(space or [], storage, study, json_)
        return
    from rmsprop import console, report_search
    from rmsprop import search as library

    stem = shared.stem(what) + (f"-{optimizer.partition(':')[0]}" if optimizer else "")
    folder = out or Path("runs") / f"tune-{stem}"
    shared.check_folder(out)
    options = shared.given(
        {
            "optimizer": optimizer,
            "schedule": schedule,
            "direction": direction,
            "trials": trials,
            "search_seeds": search_seeds,
            "finalists": finalists,
            "seeds": seeds,
            "seed": seed,
            "time_limit": time_limit,
            "ray": ray,
            "study": study,
        }
    )
    task = shared.task_settings(epochs, batch_size, hidden, activation, network, data_dir)
    message = f"\ninterrupted: the trials that have ended are kept. To go on:\n  {shared.command()}"
    with console.progress() as progress:
        try:
            found = library.tune(
                _objective(what, shared.given(task)),
                space or None,
                method=method,
                splits=splits,
                prune=prune,
                stack=stack,
                storage=storage or folder / "study.db",
                jobs=jobs or os.cpu_count() or 1,
                apart=True,
                progress=progress,
                **options,
            )
        except KeyboardInterrupt:
            found = None
    if found is None:
        typer.echo(message, err=True)
        raise typer.Exit(130)
    page = report_search.write(found, folder, command=shared.command())
    if json_:
        typer.echo(json.dumps({"command": shared.command()} | found))
    else:
        console.show_search(found)
        typer.echo(f"Report: {page}")
    if found["winner"] is None:
        raise typer.Exit(1)


def _objective(what: str, settings: dict[str, Any]) -> Any:
    """A task's settings; or where the user's function is, as it is."""
    from rmsprop.search.objective import takes_nothing
    from rmsprop.settings import Settings

    named = Settings(what)
    if named.is_own and not takes_nothing(what):
        shared.refuse(settings, "a function", what)
        return what
    if not named.is_own:
        _known(what)
    return Settings(
        what, **{f.name: settings[f.name] for f in fields(Settings) if f.name in settings}
    )


def _known(what: str) -> None:
    from rmsprop.surfaces import SURFACES

    if what in SURFACES:
        raise ValueError(
            f"{what} is a surface, and tune searches on tasks and functions: rmsprop map {what} shows every "
            f"pair of two settings, rmsprop compare {what} finds learning rates"
        )
    shared.is_surface(what)  # raises for what is neither


def _show(where: list[str], storage: str | None, study: str | None, json_: bool) -> None:
    """The ranking of a study that has ended, was stopped, or is under way elsewhere."""
    from rmsprop import console
    from rmsprop import search as library

    if len(where) != 1:
        raise ValueError("name one study: rmsprop tune show runs/tune-digits")
    if storage is None:
        folder = Path(where[0])
        path = folder if folder.is_file() else folder / "study.db"
        if not path.is_file():
            raise FileNotFoundError(f"There is no study in {folder}: name the folder of a search.")
        found = library.look(path, study)
    else:
        found = library.look(storage, where[0])
    if json_:
        typer.echo(json.dumps(found))
    else:
        console.show_search(found)
