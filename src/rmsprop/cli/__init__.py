"""The command line: parse, one library call, print.  Heavy imports wait until a command needs them."""

import warnings
from typing import Annotated, Any

import typer

from rmsprop import __version__
from rmsprop.cli import compare, convert, limits, look, maps, train, tune  # noqa: F401  (their commands)
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


def _show_warning(message: Warning | str, *where: Any) -> None:
    typer.echo(f"rmsprop: {message}", err=True)


def main() -> None:
    """Run the command line; what is wrong with the input is told in a line."""
    warnings.showwarning = _show_warning
    try:
        app()
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        from rmsprop.convert.reading import printable

        # Names from files stand in it, of which some are strangers'.
        lines = str(error).splitlines() or [""]
        typer.echo("rmsprop: " + "\n".join(map(printable, lines)), err=True)
        raise SystemExit(2) from None
    except MemoryError as error:
        typer.echo(
            f"rmsprop: not enough memory ({error}): take a smaller network or batch", err=True
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        typer.echo("rmsprop: interrupted", err=True)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
