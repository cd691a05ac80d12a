"""rmsprop train, rmsprop evaluate, rmsprop predict."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmsprop.cli import shared
from rmsprop.cli.shared import app

if TYPE_CHECKING:
    from rmsprop.entries import Entry
    from rmsprop.settings import Settings

_TASKS = "mnist-mlp, mnist-cnn, digits-rnn, reviews-rnn, style, ..., data of your own, or file.py:make_task"


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
    from rmsprop.settings import Settings, read

    flags: dict[str, Any] = {
        "task": task, "optimizer": optimizer, "lr": lr, "schedule": schedule, "warm_up": warm_up,
        "clip_norm": clip_norm, "epochs": epochs, "steps": steps, "batch_size": batch_size,
        "patience": patience, "seed": seed, "network": network, "framework": framework,
        "hidden": shared.widths(hidden), "activation": activation, "embedding": embedding,
        "pool": pool, "dropout": dropout, "words": words, "longest": longest,
        "split_seed": split_seed, "data_dir": shared.text(data_dir), "content": shared.text(content),
        "style": shared.text(style), "size": size, "scales": scales, "features": features,
        "weights": shared.text(weights), "pooling": pooling, "content_weight": content_weight,
        "style_weight": style_weight, "tv_weight": tv_weight, "recolour": recolour, "start": start,
    }  # fmt: skip
    found = (read(config) if config else {}) | shared.given(flags)
    if "task" not in found:
        raise ValueError(f"name a task: {_TASKS}; or a file with --config")
    settings = Settings(**found)
    folder = out or Path("runs") / f"train-{shared.stem(settings.task)}"
    page, record = _train(
        settings,
        folder,
        resume=resume,
        checkpoint_steps=checkpoint_steps,
        tensorboard=tensorboard,
        download=download,
    )
    if json_:
        typer.echo(json.dumps(record))
    else:
        from rmsprop import console

        console.say(record["sentence"])
        typer.echo(f"Report: {page}")


def _train(
    settings: "Settings",
    folder: Path,
    *,
    resume: bool,
    checkpoint_steps: int | None,
    tensorboard: bool,
    download: bool,
) -> tuple[Path, dict[str, Any]]:
    from rmsprop import console, data, files
    from rmsprop.settings import make_entry, make_task, resolved, to_toml
    from rmsprop.tasks import split_name
    from rmsprop.train import Interrupted, train

    if download:
        data.load(split_name(settings.task)[0], data_dir=settings.data_dir, download=True)
    task = make_task(settings)
    entry = make_entry(settings, task)
    settings = resolved(settings, task, entry.rule)
    files.write_text(folder / "run.toml", to_toml(settings))
    with console.training() as progress:
        callbacks: list[Any] = [progress]
        if tensorboard:
            from rmsprop.tensorboard import TensorBoard

            callbacks.append(TensorBoard(folder / "tensorboard"))
        if settings.is_style:
            from rmsprop.style import Pictures

            callbacks.append(Pictures(folder))
        try:
            run = train(
                task,
                entry.rule,
                seed=settings.seed,
                schedule=settings.schedule,
                warm_up=settings.warm_up,
                steps=None if settings.is_style else settings.steps,
                patience=settings.patience,
                details=not settings.is_style,
                folder=folder,
                resume=resume,
                checkpoint_steps=checkpoint_steps,
                callbacks=callbacks,
            )
        except Interrupted as stopped:
            again = shared.command() if resume else f"{shared.command()} --resume"
            message = f"\n{stopped}; a checkpoint is in {folder}. To go on:\n  {again}"
        else:
            record = run.to_dict() | _about(settings, task, entry)
            report = _report_style if settings.is_style else _report
            return report(task, record, folder)
    typer.echo(message, err=True)
    raise typer.Exit(130)


def _about(settings: "Settings", task: Any, entry: "Entry") -> dict[str, Any]:
    from rmsprop.environment import PACKAGES, WITH_TORCH, describe
    from rmsprop.settings import to_toml

    return describe(WITH_TORCH if "torch" in sys.modules else PACKAGES) | {
        "label": entry.label,
        "metric": task.metric,
        "equations": entry.rule.equations(),
        "toml": to_toml(settings),
        "command": shared.command(),
    }


def _report(task: Any, record: dict[str, Any], folder: Path) -> tuple[Path, dict[str, Any]]:
    """Measure what was trained, and write its page."""
    from rmsprop import report_run, saved
    from rmsprop.evaluate import evaluate

    model = saved.load(folder)
    record["evaluation"] = None if record["diverged"] else evaluate(model)
    record["sentence"] = report_run.sentence(record)
    return report_run.write(record, folder, model.dataset), record


def _report_style(task: Any, record: dict[str, Any], folder: Path) -> tuple[Path, dict[str, Any]]:
    from rmsprop import report_style

    record["sentence"] = report_style.sentence(record)
    return report_style.write(record, folder, task), record


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="That of a training, as runs/train-digits.")],
    part: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    data_dir: Annotated[
        Path | None, typer.Option(help="Where mnist or reviews lie now, if they have moved.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Measure a trained model on the test split: score, interval, confusion, each class.

    Examples: rmsprop evaluate runs/train-xor; rmsprop evaluate my/folder --part validation
    """
    from rmsprop import console, saved
    from rmsprop.evaluate import evaluate

    found = evaluate(saved.load(folder, data_dir=shared.text(data_dir)), part)
    typer.echo(json.dumps(found)) if json_ else console.show_evaluation(found)


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(help="That of a training, as runs/train-digits.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Each a text, a picture file, or numbers divided by commas; - reads lines."
        ),
    ],
    json_: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Ask a trained model: the class of each input with its probability, or its value.

    Examples: rmsprop predict my/folder "A dull film."; rmsprop predict my/folder 1,0.5 2,0
    """
    from rmsprop import console, saved

    lines = [line.rstrip("\n") for line in sys.stdin] if inputs == ["-"] else inputs
    answers = saved.load(folder, data=False).predict(lines)
    typer.echo(json.dumps(answers)) if json_ else console.show_answers(answers)
