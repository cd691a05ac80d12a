"""rmsprop limits"""

import json
from pathlib import Path
from typing import Annotated

import typer

from rmsprop.cli import shared
from rmsprop.cli.shared import app


@app.command()
def limits(
    only: Annotated[
        str | None, typer.Option(help="Of the limitations, these: momentum,centering,...")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=3, help="Runs of each setting. [10]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report. [runs/limits]")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the study as JSON.")] = False,
) -> None:
    """Show RMSprop's limitations, each with its cures, and whether these help: measured over seeds.

    Examples: rmsprop limits; rmsprop limits --only momentum,schedules --seeds 5
    """
    from rmsprop import console, report_limits
    from rmsprop import limits as library

    options = {"only": None if only is None else shared.words(only)}
    with console.progress() as progress:
        study = library.measure(seeds or library.SEEDS, progress=progress, **options)
    page = report_limits.write(study, out or Path("runs/limits"), command=shared.command())
    if json_:
        typer.echo(json.dumps({"command": shared.command()} | study))
    else:
        library.show(study)
        typer.echo(f"Report: {page}")
