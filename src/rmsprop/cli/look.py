"""rmsprop path, rmsprop rule"""

import json
from pathlib import Path
from typing import Annotated

import typer

from rmsprop import DIALECTS, PRESETS, Rule
from rmsprop.cli import shared
from rmsprop.cli.shared import app


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

    target = out or Path("runs") / f"path-{shared.stem(surface)}.png"
    plots.check_ending(target, (*plots.FORMATS, "gif"))
    found = shared.load_surface(surface, noise)
    point = shared.pair(start, ",", "--start") if start else None
    study = compare_surface(
        found, fixed_entries(shared.words(optimizers)), start=point, steps=steps, schedule=schedule
    )
    if target.suffix == ".gif":
        plots.animation(found, study["entries"], target)
    else:
        plots.save(plots.surface_overview(found, study["entries"]), target)
    typer.echo(json.dumps({"command": shared.command()} | study) if json_ else f"Picture: {target}")


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
