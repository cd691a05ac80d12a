"""rmsprop convert, rmsprop inspect"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rmsprop import DIALECTS, PRESETS
from rmsprop.cli import shared
from rmsprop.cli.shared import app
from rmsprop.rule import near

_FILES = "numpy", "bitsandbytes"  # that are of no dialect of their own
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="DIALECT[:FIELD=VALUE...]",
        help="Whose rule wrote SRC, if it does not say, and its numbers: tf1:momentum=0.9.",
    ),
]


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The file to read; see `inspect`.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="The file to write.")],
    from_: From = None,
    to: Annotated[
        str | None,
        typer.Option(help="Kind of DST: torch, timm, keras, optax, tf1, numpy, sb3, bitsandbytes."),
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="DIALECT",
            help="Go on by this dialect's rule. [by the one that wrote SRC]",
        ),
    ] = None,
    lr: Annotated[
        str | None, typer.Option(help="Learning rate of the next step; of each group: 0.1,0.01.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=0, help="Steps made, if SRC does not say.")
    ] = None,
    params: Annotated[
        Path | None, typer.Option(help="Where SRC's parameters and their names are, if elsewhere.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="A checkpoint of the target's model: names, order, shapes.")
    ] = None,
    map_: Annotated[
        str | None,
        typer.Option(
            "--map", metavar="FILE.toml|order", help="Which parameter is which. [by names]"
        ),
    ] = None,
    accept: Annotated[
        str, typer.Option(metavar="LOSS,...", help="What may be lost: eps, precision, missing, ...")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
) -> None:
    """Carry optimizer state, and parameters, from one framework's file to another's.

    Prints what happens to each tensor and whether that is exact. Where the run would not go on as
    it was, it says why, and writes nothing, unless --accept names the loss.

    Examples: rmsprop convert model.keras checkpoint.pt; rmsprop convert ckpt-100 checkpoint.pt --from
    tf1:momentum=0.9 --lr 0.001 --like model.pt --map names.toml
    """
    from rmsprop import console_convert
    from rmsprop.convert import Unfaithful, read, write
    from rmsprop.convert.names import read_map

    if source.resolve() == target.resolve():
        raise ValueError(f"SRC and DST are the same, {source}: write to another file")
    names: Any = map_ if map_ in (None, "order") else read_map(map_)
    dialect, fields, kind = _from(from_)
    found = read(source, dialect, params=params, **fields)
    if kind and found.kind != kind:
        raise ValueError(f"{source} is of {found.kind}, and --from says {kind}")
    rates = None if lr is None else [shared.number(word, "--lr") for word in shared.words(lr)]
    options: dict[str, Any] = {
        "dialect": as_,
        "lr": rates[0] if rates and len(rates) == 1 else rates,
        "step": step,
        "names": names,
        "like": like,
    }
    accepted, refused = shared.words(accept), None
    try:
        done = write(found, target, to, **options, accept=accepted, dry_run=dry_run)
    except Unfaithful as error:
        done, refused = error.translation, error
    written = not dry_run and not refused
    if json_:
        told = {
            "losses": [x._asdict() for x in done.losses],
            "rows": [x._asdict() for x in done.rows],
        }
        typer.echo(json.dumps({"command": shared.command(), "written": written} | told))
    else:
        console_convert.show_translation(done, str(target), written=written)
    if refused:
        lost = ",".join(x.name for x in done.losses if x.name not in accepted)
        raise ValueError(f"nothing is written to {target}; to accept what is lost: --accept {lost}")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint, of any framework.")],
    from_: From = None,
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what a checkpoint holds, running none of it: rule, step, parameters and their state.

    Reads PyTorch's .pt, stable-baselines3's .zip, .safetensors, .keras, .weights.h5, TensorFlow 1
    checkpoints (by their prefix), .msgpack, and folders of Orbax and of `rmsprop train`.

    Examples: rmsprop inspect model.keras; rmsprop inspect ckpt-100 --from tf1:momentum=0
    """
    from rmsprop import console_convert
    from rmsprop.convert.describe import inspect as look

    dialect, fields, _ = _from(from_)
    found = look(file, dialect, **fields)
    if json_:
        typer.echo(json.dumps({"command": shared.command()} | found))
    else:
        console_convert.show_file(found)


def _from(spec: str | None) -> tuple[str | None, dict[str, Any], str | None]:
    """The dialect, the fields, and the kind of file that --from names."""
    if spec is None:
        return None, {}, None
    from rmsprop.entries import fields_of

    name, fields = fields_of(spec)
    if name in _FILES:
        return None, fields, name
    if name not in DIALECTS | PRESETS:
        raise ValueError(f"--from names no dialect: {name!r}{near(name, [*DIALECTS, *_FILES])}")
    return name, fields, None
