"""rmsprop map"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmsprop.cli import shared
from rmsprop.cli.shared import app

if TYPE_CHECKING:
    from rmsprop.space import Range

_RANGE = "LOW:HIGH[:SCALE[:COUNT]]"


@app.command("map")
def map_(
    what: Annotated[
        str, typer.Argument(metavar="SURFACE|TASK", help=f"{shared.TARGETS}, or a surface")
    ],
    x: Annotated[
        str, typer.Option(metavar=f"NAME={_RANGE}", help="Along the page: lr=1e-5:1:log:256.")
    ] = "lr=1e-5:1",
    y: Annotated[
        str, typer.Option(metavar=f"NAME={_RANGE}", help="Up the page; log1m is log in 1 - value.")
    ] = "decay=0.5:0.9999",
    optimizers: Annotated[
        str, typer.Option(help="Names, comma-separated, one map each: rmsprop,adam.")
    ] = "rmsprop",
    outcome: Annotated[
        str | None,
        typer.Option(help="loss, steps; surfaces final, tasks score. [loss; tasks score]"),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Height, or validation score, that steps are counted to.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs of a cell that are averaged. [1; with noise 5]")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="constant, cosine, ... [surfaces constant; tasks cosine]")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Surfaces: updates. [1000]")] = None,
    start: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Surfaces: where to start.")
    ] = None,
    starts: Annotated[
        int | None, typer.Option(min=1, help="Surfaces: so many starts, averaged. [1]")
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Surfaces: standard deviation added to gradients. [0]")
    ] = None,
    epochs: shared.Epochs = None,
    batch_size: shared.BatchSize = None,
    hidden: shared.Hidden = None,
    activation: shared.Activation = None,
    network: shared.Network = None,
    data_dir: shared.DataDir = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of map.png, .svg, .npz. [runs/map-WHAT]")
    ] = None,
    json_: shared.Json = False,
    jobs: shared.Jobs = None,
    resume: shared.Resume = False,
) -> None:
    """Draw what an optimizer comes to for every pair of two of its numbers.

    Examples: rmsprop map rosenbrock; rmsprop map digits --y momentum=0:0.99 --optimizers rmsprop,adam
    """
    from rmsprop import console, report_maps
    from rmsprop.entries import entries

    competitors = entries(shared.words(optimizers), [])
    shared.check_folder(out)
    folder = out or Path("runs") / f"map-{shared.stem(what)}"
    common = {"seeds": seeds, "schedule": schedule, "target": target, "outcome": outcome}
    if start is not None and starts is not None:
        raise ValueError("give --start or --starts, not both")
    walk: dict[str, Any] = {"steps": steps, "starts": starts, "start": start}
    task = shared.task_settings(epochs, batch_size, hidden, activation, network, data_dir)
    if shared.is_surface(what):
        shared.refuse(task | {"jobs": jobs, "resume": resume or None}, "a surface", what)
        if point := walk.pop("start"):
            walk["starts"] = [shared.pair(point, ",", "--start")]
        study = _surface(what, noise, competitors, (x, y), shared.given(common | walk))
    else:
        shared.refuse(walk | {"noise": noise}, "a task", what)
        running = {"jobs": jobs, "resume": resume, "folder": folder}
        study = _task(what, shared.given(task), competitors, (x, y), shared.given(common), running)
    files = report_maps.write(study, folder, command=shared.command())
    if json_:
        typer.echo((folder / "run.json").read_text(encoding="utf-8"))
        return
    console.say(report_maps.sentence(study))
    typer.echo(f"Picture: {files[0]}")


def _ranges(axes: tuple[str, str], count: int) -> tuple["Range", "Range"]:
    from rmsprop.space import Range, parse

    found = [parse(axis, count) for axis in axes]
    for axis in found:
        if not isinstance(axis, Range):
            raise ValueError(f"an axis is a range, name=low:high:scale:count; got {axis}")
    return found[0], found[1]  # type: ignore[return-value]


def _surface(
    what: str,
    noise: float | None,
    competitors: list[Any],
    axes: tuple[str, str],
    options: dict[str, Any],
) -> dict[str, Any]:
    from rmsprop import console
    from rmsprop.maps import compiled_surface, surface_map
    from rmsprop.maps.surfaces import COUNT

    surface = compiled_surface(shared.load_surface(what, noise))
    ranges = _ranges(axes, COUNT)
    with console.progress() as progress:
        return surface_map(
            surface,
            competitors,
            *ranges,
            progress=lambda share: progress(round(100 * share), 100, "per cent"),
            **options,
        )


def _task(
    what: str,
    settings: dict[str, Any],
    competitors: list[Any],
    axes: tuple[str, str],
    options: dict[str, Any],
    running: dict[str, Any],
) -> dict[str, Any]:
    import os

    from rmsprop import console
    from rmsprop.ledger import Interrupted, Ledger
    from rmsprop.maps import task_map
    from rmsprop.maps.tasks import COUNT
    from rmsprop.tasks import Task

    task = Task.of(what, **settings)
    task.model(0)  # bad data, or a framework that is missing, are told before anything is written
    ranges = _ranges(axes, COUNT)
    ledger = Ledger(running["folder"] / "runs.jsonl", resume=running["resume"])
    with console.progress() as progress:
        try:
            return task_map(
                task,
                competitors,
                *ranges,
                processes=running["jobs"] or os.cpu_count() or 1,
                ledger=ledger,
                progress=progress,
                **options,
            )
        except Interrupted as stopped:
            end = stopped
    raise shared.interrupted(end, running["folder"], resume=running["resume"])
