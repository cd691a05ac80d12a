"""rmsprop compare"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmsprop.cli import shared
from rmsprop.cli.shared import app

if TYPE_CHECKING:
    from rmsprop.surfaces import Surface


@app.command()
def compare(
    what: Annotated[
        str, typer.Argument(metavar="TASK|SURFACE", help=f"{shared.TARGETS}, or a surface")
    ],
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
    tune: Annotated[
        str | None, typer.Option(help="Tasks: search all settings, by tpe or random.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="With --tune: trials of each optimizer. [30]")
    ] = None,
    epochs: shared.Epochs = None,
    batch_size: shared.BatchSize = None,
    hidden: shared.Hidden = None,
    activation: shared.Activation = None,
    network: shared.Network = None,
    data_dir: shared.DataDir = None,
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
    json_: shared.Json = False,
    jobs: shared.Jobs = None,
    resume: shared.Resume = False,
) -> None:
    """Compare optimizers, each with a learning rate found for it, and write a report.

    Examples: rmsprop compare digits; rmsprop compare rosenbrock --start -1.5,2.5
    """
    from rmsprop import console, report
    from rmsprop.entries import entries

    competitors = entries(shared.words(optimizers), shared.words(dialects))
    folder = out or Path("runs") / f"compare-{shared.stem(what)}"
    common = {
        "seeds": seeds,
        "budget": budget,
        "lr_range": shared.pair(lr_range, ":", "--lr-range") if lr_range else None,
        "schedule": schedule,
        "target": target,
    }
    task = shared.task_settings(epochs, batch_size, hidden, activation, network, data_dir)
    running = {
        "search_seeds": search_seeds,
        "jobs": jobs,
        "resume": resume or None,
        "download": download or None,
        "tune": tune,
        "trials": trials,
    }
    if tune is not None and (budget or lr_range):
        raise ValueError(
            "--tune searches in ranges of its own: it does not take --budget or --lr-range"
        )
    if tune is None and trials is not None:
        raise ValueError("--trials is for --tune tpe")
    walk = {"start": shared.pair(start, ",", "--start") if start else None, "steps": steps}
    surface: Surface | None = None
    if shared.is_surface(what):
        shared.refuse(task | running, "a surface", what)
        surface = shared.load_surface(what, noise)
        study = _compare_surface(surface, competitors, shared.given(common | walk))
    else:
        shared.refuse(walk | {"noise": noise}, "a task", what)
        study = _compare_task(
            what, competitors, folder, shared.given(task), shared.given(common), running
        )
    page = report.write(study, folder, command=shared.command(), surface=surface)
    if json_:
        typer.echo(json.dumps({"command": shared.command()} | study))
    else:
        console.show(study)
        typer.echo(f"Report: {page}")


def _storage(folder: Path, resume: bool) -> Path:
    """Where the search keeps its trials; those of a comparison before are set aside."""
    path = folder / "study.db"
    if not resume:
        for old in (path, *folder.glob("study.db-*")):
            if old.exists():
                old.replace(old.with_name(old.name.replace("study.db", "study.db.bak", 1)))
    return path


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
    from rmsprop.tasks import Task, split_name

    if running["download"]:
        data.load(split_name(what)[0], data_dir=settings.get("data_dir"), download=True)
    task = Task.of(what, **settings)
    task.model(0)  # bad data, or a framework that is missing, are told before anything is written
    resume = bool(running["resume"])
    ledger = Ledger(folder / "runs.jsonl", resume=resume)
    if running["tune"] is not None:
        options |= shared.given({"tune": running["tune"], "trials": running["trials"]})
        options["storage"] = _storage(folder, resume)
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
            end = stopped
    raise shared.interrupted(end, folder, resume=resume)
