"""Settings of a training: the TOML file that says them all, what is wrong in one, and the run it repeats."""

import math
import tomllib
import typing
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

import needs
from rmsprop import cli, settings
from rmsprop.settings import Settings, make_entry, make_task
from rmsprop.tasks import Task

NAMES = [field.name for field in fields(Settings)]


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read_back(folder: Path, found: Settings) -> Settings:
    return Settings(**settings.read(written(folder, settings.to_toml(found))))


def kind_of(name: str) -> Any:
    """int, float, str or tuple."""
    kind = typing.get_type_hints(Settings)[name]
    plain = next(k for k in typing.get_args(kind) or (kind,) if k is not type(None))
    return tuple if typing.get_origin(kind) is tuple or typing.get_origin(plain) else plain


# A value of each type, which no setting has by default.
VALUES: dict[Any, Any] = {
    int: 7,
    float: 0.0625,
    str: 'a "word" \\ ä\t',
    tuple: (3, 2, 1),
    bool: True,
}


# There and back


def test_a_file_of_every_setting_comes_back_with_its_types(tmp_path):
    found = Settings(**{name: VALUES[kind_of(name)] for name in NAMES})
    again = read_back(tmp_path, found)
    assert again == found
    for name in NAMES:
        assert type(getattr(again, name)) is kind_of(name), name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "task"])
def test_each_setting_comes_back_alone_and_the_others_have_their_defaults(tmp_path, name):
    found = Settings("digits", **{name: VALUES[kind_of(name)]})
    assert read_back(tmp_path, found) == found != Settings("digits")


def test_what_has_its_default_is_left_out_and_still_comes_back(tmp_path):
    text = settings.to_toml(Settings("digits"))
    assert "epochs" not in text
    assert "None" not in text
    assert "null" not in text
    assert read_back(tmp_path, Settings("digits")) == Settings("digits")


@given(
    numbers=st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3),
    counts=st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 3),
    texts=st.tuples(*[st.text(st.characters(codec="utf-8"), max_size=20)] * 3),
    hidden=st.lists(st.integers(0, 2**40), max_size=4),
)
def test_any_values_come_back_bit_for_bit(tmp_path_factory, numbers, counts, texts, hidden):
    found = Settings(
        task=texts[0], optimizer=texts[1], data_dir=texts[2], lr=numbers[0], dropout=numbers[1],
        clip_norm=numbers[2], seed=counts[0], epochs=counts[1], warm_up=counts[2],
        hidden=tuple(hidden),
    )  # fmt: skip
    again = read_back(tmp_path_factory.mktemp("any"), found)
    assert again == found
    assert math.copysign(1, again.lr or 0.0) == math.copysign(1, found.lr or 0.0)


@pytest.mark.parametrize(
    "lr", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 1e-7, 1e16, 3.0, 1e22, 123456789.123]
)
def test_a_learning_rate_comes_back_bit_for_bit(tmp_path, lr):
    assert read_back(tmp_path, Settings("digits", lr=lr)).lr == lr


@pytest.mark.parametrize("text", ["\x7f", "\u2028", "\x00", "a\nb\r\n", "\U0001f600", "'", "#x"])
def test_odd_characters_in_a_path_come_back(tmp_path, text):
    found = Settings(task=f"{text}.csv", data_dir=f"/{text}/")
    assert read_back(tmp_path, found) == found


def test_the_text_is_toml_that_others_can_read():
    text = settings.to_toml(Settings("mnist-cnn", lr=1e-3, hidden=(128,), epochs=3))
    found = tomllib.loads(text)
    assert found["task"] == "mnist-cnn"
    assert found["lr"] == 0.001
    assert found["hidden"] == [128]
    assert found["epochs"] == 3
    assert text.endswith("\n")


def test_a_whole_number_is_a_number_where_one_is_wanted(tmp_path):
    found = settings.read(written(tmp_path, 'task = "moons"\nlr = 1\nclip_norm = 0\nseed = 3\n'))
    assert found == {"task": "moons", "lr": 1.0, "clip_norm": 0.0, "seed": 3}
    assert type(found["lr"]) is float
    assert type(found["seed"]) is int


def test_only_what_the_file_says_is_given(tmp_path):
    """So that a flag, or the task's own default, stands for the rest."""
    assert settings.read(written(tmp_path, "")) == {}
    text = "# mine\nepochs = 3 # few\n"
    assert settings.read(written(tmp_path, text)) == {"epochs": 3}


# What is wrong with a file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch = 3", ["epoch", "did you mean", "epochs"]),
        ("batchsize = 3", ["batchsize", "batch_size"]),
        ("batch-size = 3", ["batch-size", "batch_size"]),
        ("learning_rate = 0.1", ["learning_rate", "lr"]),
        ('optimiser = "adam"', ["optimiser", "optimizer"]),
        ("Seed = 3", ["Seed", "seed"]),
        ("zebra = 3", ["zebra", "epochs", "seed", "lr"]),
        ("[task]\nname = 'digits'", ["task", "text"]),
        ("[train]\nepochs = 3", ["train"]),
        ('epochs = "3"', ["epochs", "whole number", "'3'"]),
        ("epochs = 3.0", ["epochs", "whole number", "3.0"]),
        ("epochs = true", ["epochs", "whole number", "True"]),
        ("epochs = [3]", ["epochs", "whole number", "[3]"]),
        ("seed = 2026-01-01", ["seed", "whole number", "2026"]),
        ('lr = "0.1"', ["lr", "number", "'0.1'"]),
        ("lr = true", ["lr", "number", "True"]),
        ("task = 3", ["task", "text", "3"]),
        ('hidden = "64"', ["hidden", "list of whole numbers", "'64'"]),
        ("hidden = 64", ["hidden", "list of whole numbers", "64"]),
        ("hidden = [64.0]", ["hidden", "list of whole numbers", "[64.0]"]),
        ("hidden = [true]", ["hidden", "list of whole numbers", "True"]),
        ('hidden = ["64"]', ["hidden", "list of whole numbers", "'64'"]),
        ("epochs = 3\nepochs = 4", ["not a TOML file"]),
        ("epochs = ", ["not a TOML file"]),
        ("epochs: 3", ["not a TOML file", "line 1"]),
        ('{"epochs": 3}', ["not a TOML file"]),
        ('task = "digits', ["not a TOML file"]),
    ],
)
def test_what_is_wrong_in_a_file_is_told_by_file_key_value_and_remedy(tmp_path, text, words):
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=r"run\.toml") as caught:
        settings.read(path)
    said = str(caught.value)
    assert all(word in said for word in [str(path), *words]), said
    assert "\n" not in said


def test_a_file_that_is_not_there_or_cannot_be_read_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.toml"):
        settings.read(tmp_path / "nowhere.toml")
    with pytest.raises((ValueError, OSError), match=tmp_path.name):
        settings.read(tmp_path)
    path = tmp_path / "run.toml"
    path.write_bytes(b'task = "\xff"')
    with pytest.raises(ValueError, match="not a TOML file"):
        settings.read(path)
    path.write_bytes(b"\x93NUMPY\x01\x00" + bytes(100))
    with pytest.raises(ValueError, match="not a TOML file"):
        settings.read(path)


def test_a_file_written_on_windows_is_read(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b'task = "moons"\r\nepochs = 2\r\n')
    assert settings.read(path) == {"task": "moons", "epochs": 2}


# What they make


def test_settings_make_the_task_that_task_of_makes():
    made = make_task(Settings("digits", hidden=(32,), epochs=5, batch_size=16, split_seed=2))
    assert made == Task.of("digits", hidden=(32,), epochs=5, batch_size=16, split_seed=2)
    assert make_task(Settings("moons")) == Task.of("moons")
    assert make_task(Settings("digits-gru", dropout=0.25)).dropout == 0.25


def test_settings_make_the_rule_that_they_name():
    given = Settings("moons", optimizer="rmsprop:momentum=0.9:centered=true", lr=0.004)
    rule = make_entry(given, make_task(given)).rule
    assert (rule.lr, rule.momentum, rule.centered) == (0.004, 0.9, True)
    both = Settings("moons", optimizer="rmsprop:lr=0.5")
    assert make_entry(both, make_task(both)).rule.lr == 0.5
    over = Settings("moons", optimizer="rmsprop:lr=0.5", lr=0.25)
    assert make_entry(over, make_task(over)).rule.lr == 0.25
    clipped = Settings("moons", clip_norm=2.0)
    assert make_entry(clipped, make_task(clipped)).rule.clip_global_norm == 2.0


def test_recurrent_networks_are_clipped_unless_told_otherwise():
    for clip, expected in ((None, 1.0), (0.0, None), (0.5, 0.5)):
        given = Settings("digits-rnn", clip_norm=clip)
        assert make_entry(given, make_task(given)).rule.clip_global_norm == expected


def test_a_preset_without_a_rate_keeps_its_own():
    given = Settings("moons", optimizer="adam")
    assert make_entry(given, make_task(given)).rule.lr == 0.001


def up_to_training(made: Settings) -> None:
    task = make_task(made)
    make_entry(made, task)
    task.model(0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"clip_norm": -1.0}, ["clip_norm", "-1"]),
        ({"lr": math.nan}, ["lr", "nan"]),
        ({"lr": math.inf}, ["lr", "inf"]),
        ({"lr": -0.1}, ["lr", "-0.1"]),
        ({"optimizer": "rmspro"}, ["rmspro"]),
        ({"optimizer": "rmsprop:momentun=0.9"}, ["momentun"]),
        ({"task": "digit"}, ["digit", "digits"]),
        ({"epochs": 0}, ["epochs", "0"]),
        ({"batch_size": -3}, ["batch_size", "-3"]),
        ({"network": "cnnn"}, ["cnnn", "cnn"]),
        ({"content_weight": 1.0}, ["moons", "content_weight"]),
        ({"dropout": 0.5}, ["dropout"]),
        ({"embedding": 8}, ["embedding"]),
        ({"pool": "mean"}, ["pool"]),
        ({"hidden": (0,)}, ["hidden", "0"]),
        ({"task": "digits-rnn", "dropout": 1.5}, ["dropout", "1.5"]),
        ({"task": "digits-rnn", "hidden": (8, 8)}, ["hidden"]),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_before_it_begins(given, words):
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as caught:
        up_to_training(Settings(**{"task": "moons"} | given))
    assert all(word in str(caught.value) for word in words), str(caught.value)


# The command line


def test_every_setting_has_a_flag():
    command: Any = vars(typer.main.get_command(cli.app))["commands"]["train"]
    flags = {option for parameter in command.params for option in parameter.opts}
    style = set(settings.STYLE_FIELDS)
    missing = [
        name
        for name in NAMES
        if name != "task" and name not in style and "--" + name.replace("_", "-") not in flags
    ]
    assert not missing
    assert {"--config", "--resume", "--out", "--checkpoint-steps", "--json"} <= flags


def trained(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["rmsprop", "train", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_a_flag_stands_over_the_file_and_the_file_over_the_default(monkeypatch, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text('task = "moons"\nepochs = 2\nseed = 4\nlr = 0.02\nschedule = "constant"\n')
    code = trained(
        monkeypatch, "--config", str(path), "--seed", "5", "--out", str(tmp_path / "run")
    )
    assert code == 0, capsys.readouterr().err
    found = settings.read(tmp_path / "run" / "run.toml")
    wanted = {"task": "moons", "epochs": 2, "seed": 5, "lr": 0.02, "schedule": "constant"}
    assert {key: found[key] for key in wanted} == wanted


def test_a_task_on_the_command_line_stands_over_that_of_the_file(monkeypatch, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text('task = "moons"\nepochs = 1\n')
    code = trained(monkeypatch, "xor", "--config", str(path), "--out", str(tmp_path / "run"))
    assert code == 0, capsys.readouterr().err
    assert settings.read(tmp_path / "run" / "run.toml")["task"] == "xor"


def test_a_task_must_be_named(monkeypatch, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 1\n")
    for words in ((), ("--config", str(path))):
        assert trained(monkeypatch, *words) == 2
        assert "task" in capsys.readouterr().err.lower()


def test_a_mistake_in_the_file_leaves_no_folder(monkeypatch, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text('task = "moons"\nepoch = 1\n')
    assert trained(monkeypatch, "--config", str(path), "--out", str(tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert "did you mean 'epochs'" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_run_toml_says_the_whole_run(monkeypatch, tmp_path, capsys):
    """And the same file, read and written again, is the same file."""
    words = ("moons", "--epochs", "1", "--hidden", "8,4", "--optimizer", "rmsprop:momentum=0.5",
             "--lr", "0.03", "--warm-up", "4", "--patience", "3", "--out", str(tmp_path / "a"))  # fmt: skip
    assert trained(monkeypatch, *words) == 0, capsys.readouterr().err
    path = tmp_path / "a" / "run.toml"
    found = Settings(**settings.read(path))
    assert found.hidden == (8, 4)
    assert (found.lr, found.warm_up, found.patience) == (0.03, 4, 3)
    assert asdict(read_back(tmp_path, found)) == asdict(found)
    assert trained(monkeypatch, "--config", str(path), "--out", str(tmp_path / "b")) == 0
    assert (tmp_path / "b" / "run.toml").read_text() == path.read_text()
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert models[0] == models[1]


def test_clipping_is_the_settings_or_the_optimizers_own_or_the_networks():
    def clip(task, **changes):
        settings = Settings(task, **changes)
        return make_entry(settings, make_task(settings)).rule.clip_global_norm

    assert clip("digits") is None
    assert clip("digits-rnn") == 1.0
    assert clip("digits-rnn", clip_norm=0.0) is None
    assert clip("digits-rnn", optimizer="rmsprop:clip_global_norm=2") == 2.0
    assert clip("digits", optimizer="rmsprop:clip_global_norm=2") == 2.0
    assert clip("digits", optimizer="rmsprop:clip_global_norm=2", clip_norm=3.0) == 3.0
    value = Settings("digits-rnn", optimizer="rmsprop:clip_value=0.1")
    assert make_entry(value, make_task(value)).rule.clip_global_norm is None


def test_a_style_transfer_has_the_rule_that_its_package_names():
    style = needs.package("rmsprop.style")
    settings = Settings("style")
    assert make_entry(settings, make_task(settings)).rule == style.RULE
