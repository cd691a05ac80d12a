"""`rmsprop tune` and `rmsprop.tune`, from the command to the report; and comparisons that tune."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import needs
import rmsprop as package
from rmsprop.entries import entry
from rmsprop.rule import Rule
from rmsprop.search.splits import alone, single_splits
from rmsprop.settings import read
from rmsprop.space import parse
from rmsprop.tasks import Task
from rmsprop.train import train
from trained import rmsprop

needs.package("optuna")

FUNCTIONS = """
import sys
calls = 0

def bowl(config, report):
    for step in range(3):
        report(step, config["x"] ** 2 + 1 / (step + 1))
    return (config["x"] - 0.3) ** 2 + 0.001 * config["seed"]

def raises(config, report):
    return 1 / 0

def lost(config, report):
    return float("nan")

def sometimes(config, report):
    print("noise on standard output")
    if config["x"] > 0.5:
        raise RuntimeError("too far")
    return config["x"]

def one_argument(config):
    return 0.0

def make_task():
    from rmsprop.tasks import Task
    return Task.of("xor", epochs=2)
"""
XOR = ("tune", "xor", "--epochs", "4", "--jobs", "1", "--seeds", "3")


@pytest.fixture
def functions(tmp_path: Path) -> str:
    path = tmp_path / "functions.py"
    path.write_text(FUNCTIONS)
    return str(path)


@pytest.fixture(scope="module")
def xor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small search on a task, with all that it writes."""
    folder = tmp_path_factory.mktemp("search") / "xor"
    result = rmsprop(*XOR, "--trials", "12", "--method", "random", "--out", str(folder))
    assert result.code == 0, result.err
    assert "tuned RMSprop" in result.out
    return folder


def kept(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_the_record_has_the_trials_the_finalists_and_a_winner_chosen_on_validation(xor):
    study = kept(xor)
    assert len(study["trials"]) == 12
    assert len(study["finalists"]) == 5
    best = max(study["finalists"], key=lambda row: row["value"]["mean"])
    assert study["winner"]["config"] == best["config"]
    assert [run["seed"] for run in best["runs"]] == [0, 1, 2]
    paired = [
        a["test"] - b["test"] for a, b in zip(best["runs"], study["defaults"]["runs"], strict=True)
    ]
    assert study["gain"]["mean"] == pytest.approx(math.fsum(paired) / 3)
    assert ("cannot be told apart" in study["sentence"]) == (
        study["gain"]["low"] <= 0 <= study["gain"]["high"]
    )


def test_a_final_run_is_what_train_says(xor):
    study = kept(xor)
    rule, run = Rule.from_dict(study["winner"]["rule"]), study["finalists"][0]["runs"][1]
    config = study["finalists"][0]["config"]
    alone = train(Task.of("xor", epochs=4), rule.replace(**config), seed=1, schedule="cosine")
    assert alone.test_score == pytest.approx(run["test"])
    assert alone.validation_score[-1] == pytest.approx(run["value"])


def test_the_winners_toml_trains_and_its_line_of_python_is_the_rule(xor, tmp_path):
    study = kept(xor)
    settings = read(xor / "winner.toml")
    assert settings["epochs"] == 4
    assert eval(study["winner"]["python"], {"Rule": Rule}) == Rule.from_dict(
        study["winner"]["rule"]
    )
    result = rmsprop("train", "--config", str(xor / "winner.toml"), "--out", str(tmp_path / "run"))
    assert result.code == 0, result.err
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert Rule.from_dict(run["rule"]) == Rule.from_dict(study["winner"]["rule"])


def test_the_same_command_goes_on_and_a_larger_budget_adds(xor):
    before = kept(xor)["trials"]
    for trials in (12, 14):
        result = rmsprop(*XOR, "--trials", str(trials), "--method", "random", "--out", str(xor))
        assert result.code == 0, result.err
        study = kept(xor)
        assert len(study["trials"]) == trials
        assert study["trials"][:12] == before


def test_a_study_of_another_space_or_task_is_refused(xor):
    for words, said in (
        (("lr=1e-3:1",), "has the space"),
        (("--optimizer", "adam"), "has the space"),
        (("--schedule", "constant"), "was begun with schedule"),
        (("--epochs", "5"), "was begun with"),
        (("--method", "tpe"), "has the method"),
    ):
        base = [*XOR, "--trials", "12", "--study", "xor RMSprop", "--out", str(xor)]
        options = base if "--method" in words else [*base, "--method", "random"]
        if "--epochs" in words:
            options[3] = "5"
            words = ()
        result = rmsprop(*options, *words)
        assert result.code == 2, words
        assert said in result.err
        assert "--study" in result.err


def test_show_prints_the_ranking_and_knows_its_storage(xor, tmp_path):
    result = rmsprop("tune", "show", str(xor))
    assert result.code == 0
    assert "trials have ended" in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines())
    shown = json.loads(rmsprop("tune", "show", str(xor), "--json").out)
    values = [trial["value"] for trial in shown["ranking"]]
    assert values == sorted(values, reverse=True)
    named = rmsprop("tune", "show", "xor RMSprop", "--storage", str(xor / "study.db"), "--json")
    assert json.loads(named.out)["ranking"] == shown["ranking"]
    assert (
        "no study is named" in rmsprop("tune", "show", "xr", "--storage", str(xor / "study.db")).err
    )
    assert "There is no study in" in rmsprop("tune", "show", str(tmp_path)).err


def test_the_slides_grid_is_one_batch_ranked_over_splits(tmp_path):
    words = ("lr=0.001,0.01,0.1", "decay=0.9,0.99", "eps=1e-8,1e-7", "--method", "grid",
             "--search-seeds", "6", "--splits", "--epochs", "10", "--batch-size", "1000",
             "--schedule", "constant", "--seeds", "2",
             "--finalists", "2")  # fmt: skip
    result = rmsprop("tune", "linear", *words, "--out", str(tmp_path))
    assert result.code == 0, result.err
    study = kept(tmp_path)
    configs = {tuple(t["config"].values()) for t in study["trials"]}
    assert len(configs) == 12
    assert study["ranking"][0]["config"]["lr"] == 0.1
    splits = study["splits"]
    assert splits["seeds"] == 6
    assert sum(splits["named"].values()) + splits["ties"] == 6
    assert 0 < splits["alone"] < 1
    # One trial again, alone: the mean over six splits of the data, each with a seed of its own.
    trial = study["ranking"][3]
    rule = entry("rmsprop").rule.replace(**trial["config"])
    for k, score in enumerate(trial["scores"]):
        task = Task.of("linear", epochs=10, batch_size=1000, split_seed=1000 + k)
        run = train(task, rule, seed=1000 + k)
        assert run.validation_score[-1] == pytest.approx(score, abs=1e-5)
    parts = [Task.of("linear", split_seed=k).dataset for k in (0, 1)]
    rows = [
        np.sort(np.concatenate([d.train.y, d.validation.y, d.test.y]), axis=None) for d in parts
    ]
    assert len(rows[0]) == len(rows[1])


def test_what_single_splits_say():
    order = [{"number": 7, "scores": [3.0, 1.0, 3.0]}, {"number": 2, "scores": [2.0, 2.0, 2.0]}]
    found = single_splits(order)
    assert found is not None
    assert found["same"] == 2
    assert found["named"] == {7: 2, 2: 1}
    assert found["alone"] == pytest.approx(2 / 3)
    assert found["rows"][1]["behind"]["mean"] == pytest.approx(1 / 3)
    assert single_splits([{"number": 1, "scores": [1.0]}]) is None


def test_the_chance_that_one_score_each_names_the_best_is_what_drawing_says():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, (4, 6)).astype(float)  # with ties
    scores[0] += 1
    drawn = np.stack([rng.choice(row, 40_000) for row in scores])
    top = drawn == drawn.max(axis=0)
    assert alone(scores.tolist()) == pytest.approx(np.mean(top[0] / top.sum(axis=0)), abs=0.01)


@pytest.mark.long
def test_a_function_in_a_file_is_searched_in_processes(functions, tmp_path):
    words = (
        "x=0:1",
        "--trials",
        "15",
        "--seeds",
        "2",
        "--jobs",
        "2",
        "--out",
        str(tmp_path / "out"),
        "--json",
    )
    result = rmsprop("tune", f"{functions}:bowl", *words)
    assert result.code == 0, result.err
    study = json.loads(result.out)
    assert abs(study["winner"]["config"]["x"] - 0.3) < 0.2
    assert study["winner"]["validation"]["n"] == 2
    assert study["task"] is None
    assert (tmp_path / "out" / "winner.toml").read_text().startswith("x = ")


@pytest.mark.long
def test_what_an_objective_does_wrong_is_told(functions, tmp_path):
    for name, said in (("raises", "ZeroDivisionError"), ("lost", "it returned nan")):
        out = str(tmp_path / name)
        result = rmsprop(
            "tune", f"{functions}:{name}", "x=0:1", "--trials", "9", "--jobs", "1", "--out", out
        )
        assert result.code == 2
        assert "the first 5 trials all failed" in result.err
        assert said in result.err
    words = (
        "x=0:1",
        "--trials",
        "8",
        "--jobs",
        "1",
        "--seeds",
        "1",
        "--json",
        "--out",
        str(tmp_path / "s"),
    )
    result = rmsprop("tune", f"{functions}:sometimes", *words)
    study = json.loads(result.out)
    assert study["failures"]
    assert all("too far" in failure["why"] for failure in study["failures"])
    assert len(study["trials"]) == 8


def test_a_file_may_make_a_task_instead(functions, tmp_path):
    words = (
        "lr=1e-3:0.1",
        "--trials",
        "3",
        "--method",
        "random",
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "own"),
    )
    result = rmsprop("tune", f"{functions}:make_task", *words)
    assert result.code == 0, result.err
    assert kept(tmp_path / "own")["task"]["name"] == "xor"
    assert "functions.py:make_task" in (tmp_path / "own" / "winner.toml").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("digits", "lr=1:1e-3"), "must run from low to a higher end"),
        (("digits", "lr="), "write name=low:high"),
        (("digits", "lr=0:1"), "must begin above 0"),
        (("digits", "decay=0.5:1"), "must end below 1"),
        (("digits", "learning_rate=1e-3:1"), "the rule has no 'learning_rate'"),
        (("digits", "mometum=0.1:0.9"), "did you mean 'momentum'"),
        (("digits", "centered=0:1"), "centered is a switch"),
        (("digits", "lr=0.1:1", "lr=1:2"), "lr stands twice"),
        (("digits", "nesterov=true"), "nesterov=True needs momentum"),
        (("digits", "--method", "tpee"), "method must be one of"),
        (("digits", "--optimizer", "adm"), "no optimizer is named 'adm'"),
        (("digits", "--storage", "mysql://u:hidden@h/d"), "a storage is a file"),
        (("digits", "--storage", "postgresql://u:hidden@localhost:1/d"), "cannot be opened"),
        (("digits", "--direction", "maximize"), "direction is for functions"),
        (("digts",), "did you mean 'digits'"),
        (("rosenbrock",), "is a surface"),
        (("show",), "name one study"),
        (("digits", "--time-limit", "0"), "time_limit must be seconds above 0"),
    ],
)  # fmt: skip
def test_bad_input_is_told_in_a_line_and_leaves_nothing(words, said, tmp_path):
    result = rmsprop("tune", *words, "--out", str(tmp_path / "out"))
    assert result.code == 2
    assert said in result.err
    assert "hidden" not in result.err + result.out
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "report.html").exists()


def test_a_function_needs_a_space_and_two_arguments(functions, tmp_path):
    result = rmsprop("tune", f"{functions}:bowl", "--out", str(tmp_path))
    assert "name what is searched" in result.err
    result = rmsprop("tune", f"{functions}:one_argument", "x=0:1", "--out", str(tmp_path))
    assert "must take two arguments" in result.err
    result = rmsprop("tune", f"{functions}:bowl", "x=0:1", "--epochs", "3", "--out", str(tmp_path))
    assert "does not take --epochs" in result.err
    result = rmsprop("tune", f"{functions}:bow", "x=0:1", "--out", str(tmp_path))
    assert "bowl" in result.err


def test_from_python_a_function_a_closure_and_a_task():
    offset = 0.25
    found = package.tune(
        lambda config, report: (config["x"] - offset) ** 2, "x=0:1", trials=25, seeds=1
    )
    assert abs(found["winner"]["config"]["x"] - offset) < 0.15
    best = max(
        package.tune(
            lambda config, report: config["n"] * 1.0, {"n": [1, 5, 3]}, method="grid", direction="maximize",
            seeds=1,
        )["ranking"],
        key=lambda trial: trial["value"],
    )  # fmt: skip
    assert best["config"] == {"n": 5}
    task = Task.of("xor", epochs=2)
    found = package.tune(
        task, [parse("lr=1e-3:0.1")], trials=3, seeds=2, finalists=1, optimizer="adam"
    )
    assert found["optimizer"] == "Adam"
    assert set(found["winner"]["config"]) == {"lr"}
    with pytest.raises(TypeError, match="must be a task or a function"):
        package.tune(object())
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        package.tune(lambda config, report: 0.0, "x=0:1", jobs=2)


def test_random_trials_do_not_depend_on_how_they_are_run():
    task = Task.of("xor", epochs=2)
    options: dict = {"method": "random", "trials": 6, "seeds": 1, "finalists": 1, "prune": False}
    one = package.tune(task, **options)
    other = package.tune(task, stack=False, **options)
    assert [t["config"] for t in one["trials"]] == [t["config"] for t in other["trials"]]
    for a, b in zip(one["trials"], other["trials"], strict=True):
        assert a["state"] == b["state"]
        assert (a["value"] is None) == (b["value"] is None)
        assert a["value"] is None or a["value"] == pytest.approx(b["value"], abs=0.02)


@pytest.mark.long
def test_a_comparison_gives_each_the_same_trials(tmp_path):
    words = ("compare", "xor", "--optimizers", "rmsprop,sgd,adam:lr=0.01", "--tune", "random", "--trials",
             "5", "--seeds", "2", "--search-seeds", "2", "--epochs", "3", "--jobs", "1",
             "--out", str(tmp_path))  # fmt: skip
    result = rmsprop(*words)
    assert result.code == 0, result.err
    study = kept(tmp_path)
    tuned = {e["label"]: e for e in study["entries"]}
    assert [len(e["search"]) for e in study["entries"]] == [5, 5, 0]
    for label in ("RMSprop", "SGD"):
        best = max(tuned[label]["search"], key=lambda row: (row["mean"] or -1, -(row["loss"] or 0)))
        assert best["lr"] == tuned[label]["lr"]
        assert all(tuned[label]["rule"][name] == value for name, value in best["config"].items())
    assert "settings found" in (tmp_path / "report.html").read_text()
    assert any("5 trials" in caveat for caveat in study["caveats"])
    again = rmsprop(*words, "--resume")
    assert again.code == 0
    assert kept(tmp_path)["entries"] == study["entries"]
    for extra, said in (
        (("--lr-range", "1e-3:1"), "ranges of its own"),
        (("--tune", "grid"), "tpe or random"),
    ):
        assert said in rmsprop(*words, *extra).err
    assert "--trials is for" in rmsprop("compare", "xor", "--trials", "3").err
    assert "does not take --tune" in rmsprop("compare", "booth", "--tune", "tpe").err


def test_the_seeds_of_final_runs_are_not_those_of_the_search():
    seen: list[int] = []

    def noise(config, report):
        seen.append(config["seed"])
        return config["x"] + (config["seed"] * 7919 % 13) * 0.01

    found = package.tune(noise, "x=0:1", trials=6, finalists=2, seeds=3, method="random")
    assert seen[:6] == [1000] * 6
    assert sorted(seen[6:]) == [0, 0, 1, 1, 2, 2]
    winner = found["winner"]
    own = [noise(winner["config"] | {"seed": k}, None) for k in range(3)]
    assert winner["validation"]["mean"] == pytest.approx(math.fsum(own) / 3)
    best = found["ranking"][0]["number"] == winner["number"]
    assert ("the best, trial" in found["sentence"]) == best
    with pytest.raises(ValueError, match="must not be those of the search"):
        package.tune(noise, "x=0:1", trials=2, seeds=5, first_seed=4)


def test_finalists_differ_and_all_may_fail():
    found = package.tune(lambda config, report: config["x"] * 1.0, {"x": [1, 2, 3]}, trials=12, seeds=1,
                         method="random")  # fmt: skip
    assert [row["config"]["x"] for row in found["finalists"]] == [1, 2, 3]

    def once(config, report):
        if config["seed"] < 1000:
            raise RuntimeError("never again")
        return config["x"]

    found = package.tune(once, "x=0:1", trials=4, finalists=2, seeds=3)
    assert found["winner"]["chosen_by"] == "trial"
    assert found["winner"]["number"] == found["ranking"][0]["number"]
    assert "seeds" not in found["sentence"]


def test_ties_are_nobodys():
    order = [{"number": k, "scores": [1.0, 1.0, 2.0 if k else 1.0]} for k in (0, 1)]
    found = single_splits(order)
    assert found is not None
    assert (found["same"], found["ties"], found["named"]) == (0, 2, {1: 1})
    assert found["alone"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("digits", "lr=1e-5:1:log:400", "decay=0.5:0.9:log1m:400", "--method", "grid"), "at most 100,000"),
        (("digits", "lr=0.1,0.2", "--method", "grid", "--trials", "1"), "a grid is searched as a whole"),
        (("digits", "decay=0.5:0.9", "--optimizer", "sgd"), "decay does nothing in this optimizer"),
        (("digits", "lr=0.1,0.2", "--optimizer", "rmsprop:lr=0.1"), "set by the optimizer and searched"),
        (("digits", "x=-1e308:1e308"), "too wide for floats"),
        (("moons", "--network", "cnn"), "a cnn needs images"),
    ],
)  # fmt: skip
def test_what_would_be_done_in_vain_is_refused(words, said, tmp_path):
    result = rmsprop("tune", *words, "--out", str(tmp_path / "out"))
    assert result.code == 2
    assert said in result.err
    here = tmp_path / "file"
    here.write_text("")
    assert "is a file: name another" in rmsprop("tune", *words, "--out", str(here)).err
