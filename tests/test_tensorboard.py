"""TensorBoard's own reader finds the run in the event files."""

import sys
from pathlib import Path
from typing import Any

import pytest

import needs
from rmsprop import Rule
from rmsprop.run import Moment
from rmsprop.tasks import Task
from rmsprop.tensorboard import EVERY, TensorBoard
from rmsprop.train import Interrupted, Run, train
from trained import rmsprop

RULE = Rule(lr=0.01, momentum=0.5)
LOSSES, RATES = "loss/batch", "learning_rate"
MEASURED = {
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "score/validation": "validation_score",
}


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each tag's steps and values, as TensorBoard shows them."""
    needs.package("tensorboard")
    accumulator = needs.package("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def age(folder: Path) -> None:
    """Date event files back by their names: readers order two of the same second as text, 10 before 9."""
    for path in folder.iterdir():
        kind, _, rest = path.name.partition("tfevents.")
        second, _, rest = rest.partition(".")
        path.rename(path.with_name(f"{kind}tfevents.{int(second) - 10}.{rest}"))


def board(folder: Path) -> TensorBoard:
    needs.package("tensorboard")
    return TensorBoard(folder)


def trained(
    events: Path, *others: Any, epochs: int = 3, watch: TensorBoard | None = None, **options: Any
) -> tuple[Run, list[Moment]]:
    """A run, with what its callbacks were told of each update."""
    told: list[Moment] = []

    def note(moment: Moment) -> None:
        if not moment.measured:
            told.append(moment)

    task, watch = Task.of("moons", epochs=epochs), watch or board(events)
    run = train(task, RULE, schedule="cosine", callbacks=(watch, note, *others), **options)
    return run, told


def assert_told(found: dict[str, list[tuple[int, float]]], run: Run, told: list[Moment]) -> None:
    """Every point is of the run, and every one that is due is there, once and in order."""
    assert set(found) == {LOSSES, RATES, *MEASURED}
    for tag, name in MEASURED.items():
        assert [step for step, _ in found[tag]] == run.steps[1:]
        assert [y for _, y in found[tag]] == pytest.approx(getattr(run, name)[1:], rel=1e-6)
    due = [m for m in told if m.step == 1 or m.step % EVERY == 0]
    for tag, name in ((LOSSES, "loss"), (RATES, "lr")):
        assert [step for step, _ in found[tag]] == [m.step for m in due]
        assert [y for _, y in found[tag]] == pytest.approx(
            [getattr(m, name) for m in due], rel=1e-6
        )


def test_what_is_read_back_is_the_run(tmp_path):
    run, told = trained(tmp_path)
    found = points(tmp_path)
    assert_told(found, run, told)
    assert found[RATES][0][1] == pytest.approx(0.01, rel=1e-6)
    assert found[RATES][-1][1] < 0.001  # the cosine has come down


def test_it_changes_nothing_of_the_run(tmp_path):
    run, _ = trained(tmp_path)
    alone = train(Task.of("moons", epochs=3), RULE, schedule="cosine")
    assert run.train_loss == alone.train_loss
    assert run.test_score == alone.test_score


@pytest.mark.parametrize("stop", [25, 38, 40])
def test_a_run_that_is_gone_on_with_shows_each_point_once(tmp_path, stop):
    """Stopped a while after its last checkpoint, as by a crash: those points are trained again."""
    whole, told = trained(tmp_path / "whole")
    events, folder = tmp_path / "events", tmp_path / "run"

    def crash(moment: Moment) -> None:
        if moment.step == stop and not moment.measured:
            raise RuntimeError("power cut")

    watch = board(events)
    with pytest.raises(RuntimeError, match="power cut"):
        trained(events, crash, watch=watch, folder=folder)
    watch._writer.close()  # or its thread, which a power cut ends, would write after all
    age(events)
    run, _ = trained(events, folder=folder, resume=True)
    assert run.train_loss == whole.train_loss
    assert len(list(events.iterdir())) == 2
    assert_told(points(events), whole, told)


def test_a_run_that_was_interrupted_shows_what_it_has_done(tmp_path):
    def stop(moment: Moment) -> None:
        if moment.step == 30 and not moment.measured:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        trained(tmp_path / "events", stop, folder=tmp_path / "run")
    found = points(tmp_path / "events")
    assert [step for step, _ in found["loss/validation"]] == [19]


def test_a_run_that_ends_early_or_diverges_is_all_there(tmp_path):
    run, _ = trained(tmp_path / "early", lambda moment: moment.step == 23)
    assert run.stopped == "callback"
    found = points(tmp_path / "early")
    assert [step for step, _ in found["loss/validation"]] == run.steps[1:] == [19, 23]
    task = Task.of("linear", epochs=30)
    events = tmp_path / "diverged"
    lost = train(task, Rule.from_dialect("sgd", lr=100.0), callbacks=(board(events),))
    assert lost.diverged
    assert not lost.finite
    assert [step for step, _ in points(events)[LOSSES]] == [
        1
    ]  # it stops at the loss that is not finite


def test_without_a_score_there_is_none(tmp_path):
    run = Run("x", {}, "constant", 0)
    run.add(0, 0.0, 2.0, 2.0, None)
    run.add(4, 0.1, 1.0, 1.5, None)
    writer = board(tmp_path)
    moment = Moment(4, 4, 1.0, 0.1, True, run, None)  # type: ignore[arg-type]
    writer(moment)
    assert points(tmp_path) == {"loss/train": [(4, 1.0)], "loss/validation": [(4, 1.5)]}


def test_the_command_writes_them_where_it_is_asked(tmp_path):
    needs.package("tensorboard")
    words = ("train", "xor", "--epochs", "2", "--out", str(tmp_path / "run"))
    assert rmsprop(*words).code == 0
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert rmsprop(*words, "--tensorboard").code == 0
    found = points(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in found["score/validation"]] == [19, 38]


def test_a_new_run_in_the_same_folder_does_not_mix_with_the_old(tmp_path):
    needs.package("tensorboard")
    words = ("train", "xor", "--out", str(tmp_path / "run"), "--tensorboard")
    assert rmsprop(*words, "--epochs", "3").code == 0
    age(tmp_path / "run" / "tensorboard")
    assert rmsprop(*words, "--epochs", "2", "--seed", "1").code == 0
    found = points(tmp_path / "run" / "tensorboard")
    assert [step for step, _ in found["score/validation"]] == [19, 38]


def test_a_finished_run_that_is_resumed_stays_as_it_was(tmp_path):
    needs.package("tensorboard")
    words = ("train", "xor", "--epochs", "2", "--out", str(tmp_path / "run"), "--tensorboard")
    assert rmsprop(*words).code == 0
    age(tmp_path / "run" / "tensorboard")
    before = points(tmp_path / "run" / "tensorboard")
    assert rmsprop(*words, "--resume").code == 0
    assert points(tmp_path / "run" / "tensorboard") == before


@pytest.mark.parametrize("missing", ["tensorboard", "tensorboard.summary.writer.event_file_writer"])
def test_without_the_package_it_says_how_to_get_it(monkeypatch, tmp_path, missing):
    if "." in missing:
        needs.package("tensorboard")
    for name in [n for n in sys.modules if n.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rmsprop\[tensorboard\]'"):
        TensorBoard(tmp_path / "events")
    result = rmsprop("train", "xor", "--tensorboard", "--out", str(tmp_path / "run"))
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "rmsprop[tensorboard]" in result.err
    assert not (tmp_path / "run").exists()
