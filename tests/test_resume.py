"""Going on with a run that was stopped or damaged: the same bits as if nothing had happened."""

import contextlib
import json
import random
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import needs
from rmsprop import Rule, tasks
from rmsprop.tasks import Task
from rmsprop.train import Interrupted, Moment, Run, train

HEAVY = Rule(lr=0.005, momentum=0.9, centered=True)  # every slot there is
MOONS = Task.of("moons", epochs=4)  # 19 updates an epoch
RULES = {
    "heavy": HEAVY,
    "plain": Rule(lr=0.01),
    "adam": Rule.from_dialect("adam", lr=0.01),  # counts its steps
    "adagrad": Rule.from_dialect("adagrad", lr=0.05),
    "sgd": Rule.from_dialect("sgd", lr=0.1),  # has no state
}


def arrays_in(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = safetensors.numpy.load_file(folder / "model.safetensors")
    assert found
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in found.items()}


def untimed(run: Run | dict[str, Any]) -> dict[str, Any]:
    """What must be the same: all that a run says but the seconds."""
    record = run if isinstance(run, dict) else run.to_dict()
    return {key: value for key, value in json.loads(json.dumps(record)).items() if key != "seconds"}


def steps_kept(folder: Path) -> list[int]:
    return sorted(int(p.stem.split("-")[1]) for p in (folder / "checkpoints").glob("step-*"))


def newest_file(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("step-*"))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stopped_at(
    step: int, task: Task, rule: Rule, folder: Path, *, by: int = signal.SIGINT, **options: Any
) -> Interrupted:
    """Press Ctrl-C as the step is made; what `train` raises then."""
    pressed: list[int] = []

    def press(moment: Moment) -> None:
        if moment.step == step and not pressed:
            pressed.append(step)
            signal.raise_signal(by)

    with pytest.raises(Interrupted) as caught:
        train(task, rule, folder=folder, callbacks=[press], **options)
    assert pressed == [step]
    return caught.value


def assert_same(run: Run, folder: Path, whole: Run, whole_folder: Path) -> None:
    assert untimed(run) == untimed(whole)
    assert arrays_in(folder) == arrays_in(whole_folder)
    assert len(run.seconds) == len(run.steps)
    assert run.seconds == sorted(run.seconds)  # the clock goes on too


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[..., tuple[Run, Path]]:
    """Runs that nothing happens to, made once for each kind."""
    known: dict[str, tuple[Run, Path]] = {}

    def make(task: Task = MOONS, rule: Rule = HEAVY, **options: Any) -> tuple[Run, Path]:
        key = repr((task, rule, sorted(options.items())))
        if key not in known:
            folder = tmp_path_factory.mktemp("whole")
            known[key] = train(task, rule, folder=folder, **options), folder
        return known[key]

    return make


# Bit for bit


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, whole, name, schedule):
    rule, options = RULES[name], {"schedule": schedule, "seed": 3, "warm_up": 10}
    stopped_at(25, MOONS, rule, tmp_path, **options)
    assert steps_kept(tmp_path)[-1] == 25
    assert not (tmp_path / "model.safetensors").exists()
    run = train(MOONS, rule, folder=tmp_path, resume=True, **options)
    assert_same(run, tmp_path, *whole(MOONS, rule, **options))


@pytest.mark.parametrize("step", [1, 2, 18, 19, 20, 37, 38, 39, 57, 75, 76])
def test_it_may_stop_at_any_place_within_an_epoch(tmp_path, whole, step):
    """At the first step, in the middle, just before an epoch's end, at it, just after it, at the very end."""
    stopped_at(step, MOONS, HEAVY, tmp_path)
    run = train(MOONS, HEAVY, folder=tmp_path, resume=True)
    assert_same(run, tmp_path, *whole())


def test_it_may_stop_before_every_step(tmp_path, whole):
    task = Task.of("moons", epochs=2)
    for step in range(1, 39):
        stopped_at(step, task, HEAVY, tmp_path, resume=True)
        assert steps_kept(tmp_path) == sorted({max(step - 1, 1), step})
    run = train(task, HEAVY, folder=tmp_path, resume=True)
    assert_same(run, tmp_path, *whole(task))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("digits", {"epochs": 2}),
        ("linear", {"epochs": 3}),
        ("xor", {"epochs": 3, "activation": "tanh"}),
        ("digits-rnn", {"epochs": 1, "dropout": 0.3, "hidden": (16,)}),
        ("digits-gru", {"epochs": 1, "dropout": 0.3, "hidden": (8,), "pool": "mean"}),
    ],
)
def test_other_tasks_go_on_too(tmp_path, whole, name, settings):
    """Dropout draws from a generator of its own, which must go on where it was."""
    task = Task.of(name, **settings)
    for step in (task.steps_per_epoch // 2, task.steps_per_epoch * task.epochs - 3):
        stopped_at(step, task, HEAVY, tmp_path, seed=1, resume=True)
    run = train(task, HEAVY, folder=tmp_path, seed=1, resume=True)
    assert_same(run, tmp_path, *whole(task, seed=1))


@pytest.mark.parametrize("network", ["cnn", "rnn", "lstm"])
def test_networks_of_pytorch_go_on_too(tmp_path, whole, network):
    torch = needs.package("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        hidden = (16,)
        task = Task.of(f"digits-{network}", framework="torch", epochs=1, dropout=0.3, hidden=hidden)
        for step in (5, 20):
            stopped_at(step, task, HEAVY, tmp_path, resume=True, schedule="cosine")
            torch.manual_seed(step)  # what others draw must not matter
        run = train(task, HEAVY, folder=tmp_path, resume=True, schedule="cosine")
        assert_same(run, tmp_path, *whole(task, schedule="cosine"))
    finally:
        torch.set_num_threads(before)


def test_the_folder_changes_nothing_of_the_run(whole):
    each: list[dict[str, Any]] = [{}, {"details": True}, {"patience": 2}]
    for options in each:
        assert untimed(train(MOONS, HEAVY, **options)) == untimed(whole(**options)[0])


def test_checkpoints_change_nothing_of_the_run(tmp_path, whole):
    run = train(MOONS, HEAVY, folder=tmp_path, checkpoint_steps=1)
    assert_same(run, tmp_path, *whole())


def test_details_go_on_too(tmp_path, whole):
    task = Task.of("digits", epochs=3)
    stopped_at(80, task, HEAVY, tmp_path, details=True)
    run = train(task, HEAVY, folder=tmp_path, resume=True, details=True)
    expected, folder = whole(task, details=True)
    assert_same(run, tmp_path, expected, folder)
    assert run.rates is not None
    assert len(run.rates["w1"]) == 3
    assert run.examples


def test_a_checkpoint_may_lie_anywhere_in_an_epoch(tmp_path, whole):
    """Every 7 updates of 19: what is left is what a kill leaves, without the last words of Ctrl-C."""
    copies = tmp_path / "copies"

    def copy(moment: Moment) -> None:
        if not moment.measured and moment.step % 5 == 3 and moment.step > 7:
            shutil.copytree(tmp_path / "a", copies / str(moment.step), dirs_exist_ok=True)

    train(MOONS, HEAVY, folder=tmp_path / "a", checkpoint_steps=7, callbacks=[copy])
    places = set()
    for folder in copies.iterdir():
        places.add(steps_kept(folder)[-1] % 19)
        run = train(MOONS, HEAVY, folder=folder, resume=True, checkpoint_steps=7)
        assert_same(run, folder, *whole())
    assert len(places) > 5  # of the 19 there are: 7 does not divide them


def test_a_run_that_diverges_diverges_again(tmp_path):
    task, rule = Task.of("digits", epochs=4), Rule.from_dialect("sgd", lr=1e6)
    run = train(task, rule, folder=tmp_path / "whole")
    assert run.diverged
    stopped_at(3, task, rule, tmp_path / "stopped")
    again = train(task, rule, folder=tmp_path / "stopped", resume=True)
    assert untimed(again) == untimed(run)
    json.loads((tmp_path / "stopped" / "run.json").read_text(), parse_constant=pytest.fail)


def test_steps_may_end_a_run_within_an_epoch(tmp_path, whole):
    stopped_at(22, MOONS, HEAVY, tmp_path, steps=30, schedule="cosine")
    run = train(MOONS, HEAVY, folder=tmp_path, resume=True, steps=30, schedule="cosine")
    assert run.steps == [0, 19, 30]
    assert_same(run, tmp_path, *whole(steps=30, schedule="cosine"))


# Patience


PATIENT = Task.of("digits", epochs=40, hidden=(16,))
RESTLESS = Rule(lr=0.02, momentum=0.9, centered=True)


def test_patience_stops_and_puts_the_best_back(whole):
    run, folder = whole(PATIENT, RESTLESS, patience=3)
    scores = run.validation_score
    assert run.best == int(np.argmax(np.array(scores, float)))
    assert run.stopped == "early"
    assert len(scores) == run.best + 4  # three in vain
    assert len(scores) < 41
    model = PATIENT.model(0)
    saved = safetensors.numpy.load_file(folder / "model.safetensors")
    for name, p in model.params.items():
        p[...] = saved.get(name, saved.get(f"params/{name}"))
    data = PATIENT.dataset
    assert model.score(data.validation.x, data.validation.y) == scores[run.best]
    assert model.score(data.test.x, data.test.y) == run.test_score


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_patience_goes_on_too(tmp_path, whole, after):
    """Before the best epoch, and after it, when the parameters to put back are older than the rest."""
    expected, folder = whole(PATIENT, RESTLESS, patience=3)
    assert expected.best is not None
    step = expected.steps[expected.best + after] - 11
    stopped_at(step, PATIENT, RESTLESS, tmp_path, patience=3)
    run = train(PATIENT, RESTLESS, folder=tmp_path, resume=True, patience=3)
    assert_same(run, tmp_path, expected, folder)


# What is kept, and when


def test_a_run_leaves_its_record_its_parameters_and_two_checkpoints(tmp_path, whole):
    run, folder = whole()
    assert len(steps_kept(folder)) == 2
    assert steps_kept(folder)[-1] == 76
    assert untimed(run).items() <= json.loads((folder / "run.json").read_text()).items()
    model = MOONS.model(0)
    assert {name.removeprefix("params/") for name in arrays_in(folder)} == set(model.params)
    assert not list(folder.rglob(".*"))


def test_the_record_is_there_after_each_epoch_and_the_parameters_at_the_end(tmp_path):
    seen = []

    def look(moment: Moment) -> None:
        if not moment.measured and moment.step % 19 == 1 and moment.step > 1:
            record = json.loads((tmp_path / "run.json").read_text())
            seen.append(record["steps"][-1])
            assert not (tmp_path / "model.safetensors").exists()

    train(MOONS, HEAVY, folder=tmp_path, callbacks=[look])
    assert seen == [19, 38, 57]


def kept_after(folder: Path, **options: Any) -> dict[int, list[int]]:
    """By the step: the checkpoints that lie there just before the next."""
    found: dict[int, list[int]] = {}

    def look(moment: Moment) -> None:
        if not moment.measured:
            found[moment.step - 1] = steps_kept(folder)

    train(MOONS, HEAVY, folder=folder, callbacks=[look], **options)
    return found


def test_one_checkpoint_an_epoch_where_time_is_not_up(tmp_path):
    found = kept_after(tmp_path, checkpoint_seconds=1e9)
    assert [found[step][-1:] for step in (18, 19, 37, 38, 57, 75)] == [
        [], [19], [19], [38], [57], [57]
    ]  # fmt: skip


def test_a_checkpoint_every_so_many_steps_besides(tmp_path):
    found = kept_after(tmp_path, checkpoint_seconds=1e9, checkpoint_steps=7)
    assert found[7] == [7]
    assert found[14] == [7, 14]
    assert found[19][-1] == 19
    assert max(len(steps) for steps in found.values()) == 2
    assert all(a <= step for step, steps in found.items() for a in steps)
    gaps = [step - steps[-1] for step, steps in found.items() if step >= 7]
    assert max(gaps) < 7


def test_every_step_can_be_kept(tmp_path):
    found = kept_after(tmp_path, checkpoint_steps=1)
    assert all(found[step][-1] == step for step in range(1, 76))


def test_callbacks_see_each_step_once_and_each_measurement(tmp_path):
    def moments(**options: Any) -> list[tuple[int, bool]]:
        seen: list[tuple[int, bool]] = []

        def look(moment: Moment) -> None:
            seen.append((moment.step, moment.measured))
            assert moment.steps == 76
            assert moment.lr == 0.005
            assert np.isfinite(moment.loss)
            assert not moment.measured or moment.run.steps[-1] == moment.step

        with contextlib.suppress(Interrupted):
            train(MOONS, HEAVY, callbacks=[look, *options.pop("more", [])], **options)
        return seen

    whole = moments()
    assert [step for step, measured in whole if not measured] == list(range(1, 77))
    assert [step for step, measured in whole if measured] == [19, 38, 57, 76]
    assert whole == sorted(whole)

    def press(moment: Moment) -> None:
        if moment.step == 30:
            signal.raise_signal(signal.SIGINT)

    first = moments(folder=tmp_path, more=[press])
    assert first == [m for m in whole if m[0] <= 30]
    assert moments(folder=tmp_path, resume=True) == [m for m in whole if m[0] > 30]


def test_a_callback_may_end_the_run(tmp_path):
    run = train(MOONS, HEAVY, folder=tmp_path, callbacks=[lambda moment: moment.step == 25])
    assert run.steps == [0, 19, 25]
    assert run.stopped == "callback"
    assert run.test_score is not None
    assert arrays_in(tmp_path)
    ended = train(MOONS, HEAVY, callbacks=[lambda moment: moment.measured])
    assert ended.steps == [0, 19]


def test_a_mistake_in_a_callback_is_told_and_what_was_kept_is_good(tmp_path, whole):
    def fail(moment: Moment) -> None:
        if moment.step == 50:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        train(MOONS, HEAVY, folder=tmp_path, callbacks=[fail])
    run = train(MOONS, HEAVY, folder=tmp_path, resume=True)
    assert_same(run, tmp_path, *whole())


def test_a_finished_run_is_not_run_again(tmp_path, whole):
    train(MOONS, HEAVY, folder=tmp_path)
    before, made = arrays_in(tmp_path), []
    run = train(MOONS, HEAVY, folder=tmp_path, resume=True, callbacks=[made.append])
    assert made == []
    assert_same(run, tmp_path, *whole())
    assert run.test_score is not None
    assert arrays_in(tmp_path) == before


def test_what_was_lost_of_a_finished_run_but_its_checkpoints_is_written_again(tmp_path, whole):
    train(MOONS, HEAVY, folder=tmp_path)
    for name in ("model.safetensors", "run.json"):
        (tmp_path / name).unlink()
    run = train(MOONS, HEAVY, folder=tmp_path, resume=True)
    assert_same(run, tmp_path, *whole())
    assert (tmp_path / "run.json").exists()


def test_resume_where_there_is_nothing_begins(tmp_path, whole):
    run = train(MOONS, HEAVY, folder=tmp_path / "new" / "deep", resume=True)
    assert_same(run, tmp_path / "new" / "deep", *whole())


def test_resume_needs_a_folder():
    with pytest.raises(ValueError, match="resume needs the folder"):
        train(MOONS, HEAVY, resume=True)


def test_without_resume_the_old_checkpoints_are_put_aside(tmp_path, whole):
    stopped_at(30, MOONS, HEAVY, tmp_path, seed=9)
    aside = tmp_path / "checkpoints.bak"
    old = {p.name: p.read_bytes() for p in (tmp_path / "checkpoints").iterdir()}
    run = train(MOONS, HEAVY, folder=tmp_path)
    assert_same(run, tmp_path, *whole())
    assert {p.name: p.read_bytes() for p in aside.glob("step-*")} == old
    train(MOONS, HEAVY, folder=tmp_path)  # and once more, over the ones aside
    names = {p.name for p in aside.glob("step-*")}
    assert names == {p.name for p in (whole()[1] / "checkpoints").iterdir()}
    assert_same(train(MOONS, HEAVY, folder=tmp_path, resume=True), tmp_path, *whole())


@pytest.mark.parametrize(
    "mistake",
    [{"schedule": "cosin"}, {"steps": 0}, {"patience": 0}, {"checkpoint_steps": 0}, {"warm_up": -1},
     {"checkpoint_seconds": -1.0}, {"checkpoint_seconds": float("nan")}, {"steps": 2.5},
     {"patience": True}, {"checkpoint_steps": "7"}, {"seed": -1}],
    ids=str,
)  # fmt: skip
def test_a_mistake_is_told_before_anything_in_the_folder_is_touched(tmp_path, mistake):
    stopped_at(30, MOONS, HEAVY, tmp_path)
    before = files_in(tmp_path)
    with pytest.raises((ValueError, TypeError), match=next(iter(mistake))):
        train(MOONS, HEAVY, folder=tmp_path, **mistake)
    assert files_in(tmp_path) == before


def test_a_new_run_that_is_stopped_leaves_no_old_result(tmp_path):
    """Else the parameters of one run would lie beside the checkpoints of another."""
    train(MOONS, HEAVY, folder=tmp_path)
    old = arrays_in(tmp_path)
    stopped_at(3, MOONS, HEAVY, tmp_path, seed=5)
    assert not (tmp_path / "model.safetensors").exists() or arrays_in(tmp_path) != old


# Other runs' checkpoints


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": Task.of("xor", epochs=4)}, ["moons", "xor"]),
        ({"task": replace(MOONS, hidden=(8,))}, ["hidden", "16", "8"]),
        ({"task": replace(MOONS, batch_size=16)}, ["batch_size", "32", "16"]),
        ({"task": replace(MOONS, split_seed=1)}, ["split_seed", "0", "1"]),
        ({"task": replace(MOONS, activation="tanh")}, ["activation", "relu", "tanh"]),
        ({"rule": HEAVY.replace(momentum=0.8)}, ["momentum", "0.9", "0.8"]),
        ({"rule": HEAVY.replace(lr=0.006)}, ["lr", "0.005", "0.006"]),
        ({"rule": HEAVY.replace(centered=False)}, ["centered", "true", "false"]),
        ({"rule": Rule.from_dialect("sgd", lr=0.1)}, ["second_moment", "ema", "none"]),
        ({"seed": 1}, ["seed", "0", "1"]),
        ({"schedule": "cosine"}, ["schedule", "constant", "cosine"]),
        ({"warm_up": 5}, ["warm_up", "0", "5"]),
        ({"patience": 3}, ["patience", "3"]),
        ({"steps": 50}, ["steps", "76", "50"]),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, list) else "",
)
def test_a_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path, change, words):
    stopped_at(30, MOONS, HEAVY, tmp_path)
    before = files_in(tmp_path)
    given = {"task": MOONS, "rule": HEAVY} | change
    with pytest.raises(ValueError, match="checkpoint") as caught:
        train(given.pop("task"), given.pop("rule"), folder=tmp_path, resume=True, **given)
    said = str(caught.value)
    assert all(word.lower() in said.lower() for word in words), said
    assert str(tmp_path) in said
    assert len(said) < 1000
    assert files_in(tmp_path) == before


def test_a_table_that_has_changed_since_is_another_task(tmp_path):
    from test_tasks import write_csv

    table = write_csv(tmp_path / "rent.csv")
    task = Task.of(str(table), epochs=3)
    stopped_at(4, task, HEAVY, tmp_path / "run")
    write_csv(table, seed=1)
    tasks._load.cache_clear()  # data are loaded once a process, and the next is another
    with pytest.raises(ValueError, match="checkpoint"):
        train(task, HEAVY, folder=tmp_path / "run", resume=True)


# Damage


@contextlib.contextmanager
def warned(*words: str) -> Iterator[None]:
    """One UserWarning, with these words."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    messages = [str(w.message) for w in told if w.category is UserWarning]
    assert len(messages) == len(told) == 1, [str(w.message) for w in told]
    assert all(word in messages[0] for word in words), messages[0]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 0.25, 0.5, 0.9, -100, -8, -1])
def test_a_checkpoint_that_is_cut_short_is_named_and_the_one_before_used(tmp_path, whole, length):
    stopped_at(30, MOONS, HEAVY, tmp_path)
    path = newest_file(tmp_path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(length * len(raw)) if isinstance(length, float) else length])
    with warned(path.name, "step-0000000019"):
        run = train(MOONS, HEAVY, folder=tmp_path, resume=True)
    assert_same(run, tmp_path, *whole())
    assert steps_kept(tmp_path)[-1] == 76
    assert_same(train(MOONS, HEAVY, folder=tmp_path, resume=True), tmp_path, *whole())


@pytest.mark.parametrize("seed", range(12))
def test_a_bit_that_flipped_is_noticed_and_the_one_before_used(tmp_path, whole, seed):
    stopped_at(30, MOONS, HEAVY, tmp_path)
    path = newest_file(tmp_path)
    raw, generator = bytearray(path.read_bytes()), random.Random(seed)
    at = generator.randrange(8 * len(raw))
    raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)
    with warned(path.name):
        run = train(MOONS, HEAVY, folder=tmp_path, resume=True)
    assert_same(run, tmp_path, *whole())


def test_where_every_checkpoint_is_damaged_it_says_what_to_do_and_that_works(tmp_path, whole):
    stopped_at(30, MOONS, HEAVY, tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:99])
    before = files_in(tmp_path)
    with pytest.raises(ValueError, match="without --resume"):
        train(MOONS, HEAVY, folder=tmp_path, resume=True)
    assert files_in(tmp_path) == before
    assert_same(train(MOONS, HEAVY, folder=tmp_path), tmp_path, *whole())


# Ctrl-C


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path, by):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    error = stopped_at(33, MOONS, HEAVY, tmp_path, by=by)
    assert isinstance(error, KeyboardInterrupt)  # so that `except Exception` does not swallow it
    assert "33 of 76" in str(error)
    assert steps_kept(tmp_path) == [19, 33]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_the_handlers_of_signals_are_the_users_again_whatever_happens(tmp_path):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    def fail(moment: Moment) -> None:
        raise RuntimeError("mine")

    train(MOONS, HEAVY, folder=tmp_path / "a")
    with pytest.raises(RuntimeError):
        train(MOONS, HEAVY, folder=tmp_path / "b", callbacks=[fail])
    with pytest.raises(ValueError, match="seed"):
        train(MOONS, HEAVY, folder=tmp_path / "a", resume=True, seed=4)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_without_a_folder_ctrl_c_is_what_it_always_is():
    def press(moment: Moment) -> None:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            train(MOONS, HEAVY, callbacks=[press])
    finally:
        signal.signal(signal.SIGINT, before)
    assert type(caught.value) is KeyboardInterrupt


def test_a_run_may_be_made_in_another_thread(tmp_path, whole):
    """Where signals cannot be caught."""
    made: list[Run] = []
    thread = threading.Thread(target=lambda: made.append(train(MOONS, HEAVY, folder=tmp_path)))
    thread.start()
    thread.join(60)
    assert_same(made[0], tmp_path, *whole())
