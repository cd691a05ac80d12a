"""rmsprop train, rmsprop evaluate, rmsprop predict."""

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmsprop.cli import shared
from rmsprop.cli.shared import app

if TYPE_CHECKING:
    from rmsprop.settings import Settings

_TASKS = "mnist-mlp, mnist-cnn, digits-rnn, reviews-rnn, style, ..., data of your own, or file.py:make_task"

_OWN = "Of a run of your own code: file.py:make_task again, as it is run."


@app.command()
def train(
    task: Annotated[str | None, typer.Argument(help=_TASKS)] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file of these settings; flags come first.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="rmsprop, rmsprop-keras:momentum=0.9, adam, ... [rmsprop]")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at its highest.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="cosine, constant, step or exponential. [cosine]")
    ] = None,
    warm_up: Annotated[int | None, typer.Option(help="Steps that rise to it first. [0]")] = None,
    clip_norm: Annotated[
        float | None, typer.Option(help="Clip gradients to this norm; 0 never. [1 if recurrent]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates, in place of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows of a mini-batch.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many epochs without a better score.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of start and mini-batches. [0]")] = None,
    network: Annotated[
        str | None, typer.Option(help="mlp, cnn, rnn, gru or lstm. [rnn for texts, else mlp]")
    ] = None,
    framework: Annotated[str | None, typer.Option(help="numpy or torch.")] = None,
    hidden: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Hidden widths; 0 for none.")
    ] = None,
    activation: Annotated[str | None, typer.Option(help="mlp: relu, tanh or sigmoid.")] = None,
    embedding: Annotated[int | None, typer.Option(help="Texts: width of a word's vector.")] = None,
    pool: Annotated[str | None, typer.Option(help="Recurrent: last, mean or max.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Before the output layer.")] = None,
    words: Annotated[int | None, typer.Option(help="Texts: size of the vocabulary.")] = None,
    longest: Annotated[int | None, typer.Option(help="Texts: tokens kept of each.")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Which rows are for what. [0]")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where mnist or reviews lie; else RMSPROP_DATA.")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch mnist if need be.")] = False,
    content: Annotated[Path | None, typer.Option(help="Style: the picture to keep.")] = None,
    style: Annotated[Path | None, typer.Option(help="Style: the picture to paint like.")] = None,
    size: Annotated[int | None, typer.Option(help="Style: pixels of the longer side.")] = None,
    scales: Annotated[int | None, typer.Option(help="Style: sizes from coarse to fine.")] = None,
    features: Annotated[str | None, typer.Option(help="Style: random or vgg19.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Style: VGG-19's file.")] = None,
    pooling: Annotated[str | None, typer.Option(help="Style: VGG-19's, max or average.")] = None,
    content_weight: Annotated[float | None, typer.Option(help="Style: of the content.")] = None,
    style_weight: Annotated[float | None, typer.Option(help="Style: of the style.")] = None,
    tv_weight: Annotated[float | None, typer.Option(help="Style: of smoothness.")] = None,
    recolour: Annotated[
        bool | None,
        typer.Option("--recolour/--no-recolour", help="Style: its colours first. [if random]"),
    ] = None,
    start: Annotated[str | None, typer.Option(help="Style: content or noise.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder. [runs/train-TASK]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what is in --out.")] = False,
    checkpoint_steps: Annotated[
        int | None, typer.Option(min=1, help="Updates between checkpoints. [every 30 s]")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's event files too.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> None:
    """Train a network, and measure it on rows that it has not seen.

    Examples: rmsprop train mnist-cnn; rmsprop train reviews.tsv --network gru --patience 3
    """
    flags = dict(locals())
    from rmsprop.settings import Settings, read

    flags = {f.name: shared.plain(flags[f.name]) for f in fields(Settings)}
    flags["hidden"] = shared.widths(hidden)
    found = (read(config) if config else {}) | shared.given(flags)
    if (epochs is None) != (steps is None):  # one of them comes before the file's other
        found.pop("steps" if steps is None else "epochs", None)
    if "task" not in found:
        raise ValueError(f"name a task: {_TASKS}; or a file with --config")
    settings = Settings(**found)
    folder = out or Path("runs") / f"train-{shared.stem(settings.task)}"
    record, page = _train(settings, folder, download, resume, checkpoint_steps, tensorboard)
    if json_:
        typer.echo(json.dumps(record))
    else:
        from rmsprop import console

        console.say(record["sentence"])
        typer.echo(f"Report: {page}")
    if record["test_loss"] is None:
        raise typer.Exit(1)


def _train(
    settings: "Settings",
    folder: Path,
    download: bool,
    resume: bool,
    checkpoint_steps: int | None,
    tensorboard: bool,
) -> tuple[dict[str, Any], Path]:
    from rmsprop import console, data, session
    from rmsprop.tasks import split_name
    from rmsprop.train import Interrupted

    if download:
        data.load(split_name(settings.task)[0], data_dir=settings.data_dir, download=True)
    with console.training() as progress:
        try:
            return session.run(
                settings,
                folder,
                command=shared.command(),
                resume=resume,
                checkpoint_steps=checkpoint_steps,
                tensorboard=tensorboard,
                callbacks=[progress],
            )
        except Interrupted as stopped:
            again = shared.command() if resume else f"{shared.command()} --resume"
            message = f"\n{stopped}; a checkpoint is in {folder}. To go on:\n  {again}"
    typer.echo(message, err=True)
    raise typer.Exit(130)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="That of a training, as runs/train-digits.")],
    part: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    data_dir: Annotated[
        Path | None, typer.Option(help="Where mnist or reviews lie now, if they have moved.")
    ] = None,
    task: Annotated[str | None, typer.Option(help=_OWN)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Measure a trained model on the test split: score, interval, confusion, each class.

    Examples: rmsprop evaluate runs/train-xor; rmsprop evaluate my/folder --part validation
    """
    from rmsprop import console, saved
    from rmsprop.evaluate import evaluate

    found = evaluate(saved.load(folder, data_dir=shared.plain(data_dir), task=task), part)
    typer.echo(json.dumps(found)) if json_ else console.show_evaluation(found)


@app.command(context_settings={"ignore_unknown_options": True})  # a number may be negative
def predict(
    folder: Annotated[Path, typer.Argument(help="That of a training, as runs/train-digits.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Each a text, a picture file, or numbers divided by commas; - reads lines."
        ),
    ],
    task: Annotated[str | None, typer.Option(help=_OWN)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Ask a trained model: the class of each input with its probability, or its value.

    Examples: rmsprop predict my/folder "A dull film."; rmsprop predict my/folder 1,0.5 2,0
    """
    from rmsprop import console, saved

    lines = [line.rstrip("\n") for line in sys.stdin] if inputs == ["-"] else inputs
    if mistyped := [line for line in lines if line.startswith("--")]:
        raise ValueError(f"no such option: {mistyped[0]}")
    answers = saved.load(folder, data=False, task=task).predict(lines)
    typer.echo(json.dumps(answers)) if json_ else console.show_answers(answers)
