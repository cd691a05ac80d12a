"""The command line: parse, one library call, print.  Heavy imports wait until a command needs them."""

from typing import Annotated

import typer

from rmsprop import __version__
from rmsprop.cli import compare, limits, look, train  # noqa: F401  (their commands)
from rmsprop.cli.shared import app


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
