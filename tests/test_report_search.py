"""The page of a search: its numbers are those of run.json, its lines run, its pictures show the trials."""

import copy
import itertools
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

import needs
from rmsprop import Rule, plots_search, report_search
from rmsprop.plots_scales import places
from rmsprop.report_words import caveats, numpy_lines, single_split, torch_lines
from rmsprop.settings import Settings, make_entry, make_task, read
from rmsprop.space import space_of
from rmsprop.tasks import Task
from test_plots import data, labelled
from test_plots import render as draw
from test_report import HOSTILE, Page, assert_needs_nothing, pictures

needs.package("optuna")
from rmsprop.search import tune  # noqa: E402

Study = dict[str, Any]
COMMAND = "rmsprop tune xor --trials 12"
SPACE = "lr=1e-3:1 decay=0.9:0.999 eps=1e-10:1e-2 momentum=0,0.5 centered=true,false"


@pytest.fixture(scope="module")
def task_study() -> Study:
    return tune(Task.of("xor", epochs=4), SPACE, trials=12, finalists=2, seeds=3, prune=False)


@pytest.fixture(scope="module")
def split_study() -> Study:
    task = Task.of("linear", epochs=2)
    space = "lr=0.001,0.01,0.1 decay=0.9,0.99"
    return tune(
        task, space, method="grid", search_seeds=5, splits=True, finalists=1, seeds=2,
        schedule="constant",
    )  # fmt: skip


@pytest.fixture
def unrendered(monkeypatch) -> None:
    """Pictures of one pixel, for tests of the words around them."""

    def pixel(self: Figure, target: Any, **options: Any) -> None:
        Image.new("RGB", (1, 1)).save(target, format="png")

    monkeypatch.setattr(Figure, "savefig", pixel)


def objective(config: dict[str, Any], report: Any) -> float:
    """Fails for large x, is pruned where it is slow, else a parabola whose seed moves it a little."""
    if config["x"] > 0.9:
        raise ValueError(f"no luck with {HOSTILE}")
    for step in range(3):
        report(step, config["x"])
    return (config["x"] - 0.3) ** 2 + 0.01 * (config["seed"] % 1000)


@pytest.fixture(scope="module")
def function_study() -> Study:
    return tune(objective, {"x": (0.0, 1.0), HOSTILE: ["$a", "$b$", HOSTILE]}, trials=30, seeds=2)


def lost_study() -> Study:
    return tune(Task.of("linear", epochs=1), "lr=1e250:1e300", trials=3)


def written(study: Study, folder: Path) -> tuple[Study, Page]:
    path = report_search.write(study, folder, command=COMMAND)
    assert path == folder / "report.html"

    def refused(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    kept = json.loads((folder / "run.json").read_text("utf-8"), parse_constant=refused)
    page = assert_needs_nothing(path.read_text("utf-8"))
    assert COMMAND in page.text
    assert kept["command"] == COMMAND
    return kept, page


def render(figure: Figure) -> Figure:
    draw(figure)
    return figure


def xs(line: Line2D) -> list[float]:
    return data(line)[:, 0].tolist()


def ys(line: Line2D) -> list[float]:
    return data(line)[:, 1].tolist()


def percent(found: Study) -> str:
    mean, low, high = (f"{100 * found[key]:.2f}%" for key in ("mean", "low", "high"))
    return f"{mean} {low} to {high}"


# The page


def test_every_number_of_a_tasks_tables_is_that_of_run_json(task_study, tmp_path):
    study, page = written(task_study, tmp_path)
    ranking = study["ranking"]
    top = page.rows[1 : 1 + min(10, len(ranking))]
    for k, (row, t) in enumerate(zip(top, ranking, strict=False)):
        assert row[:3] == [str(k + 1), str(t["number"]), f"{100 * t['value']:.2f}%"]
        numbers = [float(x) for x in row[3:6]]
        assert numbers == pytest.approx([t["config"][n] for n in ("lr", "decay", "eps")], rel=1e-3)
        assert row[7] == str(t["config"]["centered"]).lower()
    *chosen, own = page.rows[len(top) + 2 :]
    assert len(chosen) == len(study["finalists"]) == 2
    for row, f in zip(chosen, study["finalists"], strict=True):
        assert row[1:3] == [percent(f["value"]), percent(f["test"])]
        paired = [
            100 * (a["test"] - b["test"])
            for a, b in zip(f["runs"], study["defaults"]["runs"], strict=True)
        ]
        assert row[3].startswith(f"{np.mean(paired):.2f} points ")
    assert own[0].startswith("defaults: lr 0.01")
    assert own[1:] == [percent(study["defaults"]["value"]), percent(study["defaults"]["test"]), ""]
    assert page.texts["p"][0] == study["sentence"]
    assert study["winner"]["equations"] in page.texts["pre"][0]
    for caveat in caveats(study):
        assert caveat in page.text
    shaded = [a for tag, a in page.elements if tag == "tr" and a.get("class") == "ours"]
    assert len(shaded) == 2, "the winner, in both tables"
    assert len(pictures(page)) == 5
    assert all(image.width > 500 for image in pictures(page))


def test_the_lines_of_the_page_make_the_winners_optimizer(
    task_study, split_study, tmp_path, unrendered
):
    for study in (task_study, split_study):
        page = written(study, tmp_path)[1]
        assert numpy_lines(study) in page.texts["pre"]
        assert torch_lines(study) in page.texts["pre"]
        found: dict[str, Any] = {}
        exec(numpy_lines(study), found)  # as whoever pastes it
        rule = Rule(**study["winner"]["rule"])
        assert found["optimizer"].rule == rule
        params = {"w": np.ones(4)}
        found["optimizer"].update(params, {"w": np.full(4, 0.5)})
        assert (params["w"] < 1).all()


def test_the_lines_for_pytorch_make_the_winners_optimizer(task_study, split_study):
    torch = needs.package("torch")
    for study, scheduled in ((task_study, True), (split_study, False)):
        found: dict[str, Any] = {"model": torch.nn.Linear(3, 2)}
        exec(torch_lines(study), found)
        group, rule = found["optimizer"].param_groups[0], study["winner"]["rule"]
        assert group["lr"] == rule["lr"]
        assert group["alpha"] == rule["decay"]
        assert group["eps"] == rule["eps"]
        assert group["momentum"] == rule["momentum"]
        assert ("scheduler" in found) == scheduled
        before = found["model"].weight.detach().clone()
        found["model"](torch.ones(5, 3)).square().mean().backward()
        found["optimizer"].step()
        assert not torch.equal(before, found["model"].weight)
        if scheduled:
            steps = study["task"]["epochs"] * study["task"]["steps_per_epoch"]
            for _ in range(steps // 2):
                found["optimizer"].step()
                found["scheduler"].step()
            assert group["lr"] == pytest.approx(rule["lr"] / 2, rel=0.02), "half of a cosine"


def test_the_toml_trains_the_winner(task_study, tmp_path, unrendered):
    study, page = written(task_study, tmp_path)
    settings = Settings(**read(tmp_path / "winner.toml"))
    task = make_task(settings)
    assert task.epochs == study["task"]["epochs"]
    assert make_entry(settings, task).rule == Rule(**study["winner"]["rule"])
    shown = next(text for text in page.texts["pre"] if "--config" in text)
    command, toml = shown.split("\n\n", 1)
    assert command == "rmsprop train --config winner.toml"
    assert tomllib.loads(toml) == tomllib.loads((tmp_path / "winner.toml").read_text("utf-8"))


def test_a_function_has_its_values_and_no_test_split(tmp_path, unrendered):
    found = tune(objective, {"x": (0.0, 0.8), "kind": [HOSTILE, "b"], "n": [1, 2]}, trials=8)
    study, page = written(found, tmp_path)
    winner = study["winner"]
    assert tomllib.loads((tmp_path / "winner.toml").read_text("utf-8")) == winner["config"]
    assert f"config = {winner['python']}" in page.texts["pre"]
    assert "test split" not in page.text
    assert "rmsprop train" not in page.text
    assert [row[1] for row in page.rows[1:4]] == [str(t["number"]) for t in study["ranking"][:3]]


def test_failures_are_told_with_their_reasons_and_nothing_on_the_page_is_markup(
    function_study, tmp_path, unrendered
):
    study, page = written(function_study, tmp_path)
    failed = {str(f["number"]): f["why"] for f in study["failures"]}
    assert failed, "no x above 0.9 was drawn"
    told = {row[0]: row[1] for row in page.rows[-len(failed) :]}
    assert told == failed
    assert HOSTILE in page.rows[0], "the name of what was searched"
    hostile = copy.deepcopy(study) | {"label": HOSTILE, "sentence": HOSTILE}
    page = assert_needs_nothing(report_search.html(hostile))
    assert page.texts["p"][0] == HOSTILE
    assert not any("x.example" in str(a) for _, a in page.elements)


def test_a_search_without_a_winner_says_so_and_leaves_no_old_settings(tmp_path, unrendered):
    (tmp_path / "winner.toml").write_text("lr = 1\n")
    study, page = written(lost_study(), tmp_path)
    assert study["winner"] is None
    assert "None of 3 trials" in page.text
    assert "3 of 3 trials diverged" in page.text
    assert not (tmp_path / "winner.toml").exists()
    assert report_search.table(study) == [["rank", "trial", "value", "lr"]]


def test_one_trial_without_finalists(tmp_path):
    study, page = written(
        tune(Task.of("xor", epochs=1), "lr=0.01", trials=1, finalists=0), tmp_path
    )
    assert study["finalists"] == []
    assert study["importance"] is None
    assert page.rows[1][:2] == ["1", "0"]
    assert "no final runs" in page.text
    assert len(pictures(page)) == 2


def test_what_is_not_finite_is_none_in_run_json(function_study, tmp_path, unrendered):
    study = copy.deepcopy(function_study)
    study["trials"][0]["more"] = [math.nan, math.inf]
    kept, _ = written(study, tmp_path)
    assert kept["trials"][0]["more"] == [None, None]


def test_a_folder_that_cannot_be_written_keeps_what_was_there(task_study, tmp_path, unrendered):
    path = report_search.write(task_study, tmp_path, command=COMMAND)
    before = path.read_bytes()
    blocked = tmp_path / "run.json"
    blocked.unlink()
    blocked.mkdir()
    with pytest.raises(OSError, match=r"run\.json"):
        report_search.write(task_study, tmp_path, command="another")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "run.json", "winner.toml"]


# What single splits would have said


def test_what_single_splits_say_is_counted_from_the_scores(split_study, tmp_path, unrendered):
    study, page = written(split_study, tmp_path)
    scores = np.array([t["scores"] for t in study["ranking"]])
    assert scores.shape == (6, 5)
    first = int((scores.argmax(axis=0) == 0).sum())
    alone = np.mean(
        [
            (np.array(draw) == max(draw))[0] / np.sum(np.array(draw) == max(draw))
            for draw in itertools.product(*scores)
        ]
    )
    told = single_split(study)
    assert f"in {first} of 5 cases, another in {5 - first}" in told[0]
    assert f"with a chance of {100 * alone:.0f}%;" in told[1]
    assert all(text in page.text for text in told)
    differences = scores[0] - scores[1:]
    half = 2.7764 * differences.std(axis=1, ddof=1) / math.sqrt(5)
    tied = int((abs(differences.mean(axis=1)) <= half).sum())
    assert told[2].startswith(f"{tied} of the other 5" if tied else "All others")
    assert "Splits of one data set overlap" in page.text


def test_the_picture_of_the_splits_marks_those_that_cannot_be_told_apart(split_study):
    ax = render(plots_search.splits(split_study)).axes[0]
    rows = split_study["splits"]["rows"]
    means = [line for line in ax.lines if line.get_marker() == "|"]
    assert [xs(line)[0] for line in means] == [row["interval"]["mean"] for row in rows]
    for line, row in zip(means[1:], rows[1:], strict=True):
        tied = row["behind"]["low"] <= 0 <= row["behind"]["high"]
        assert (to_hex(line.get_color()) == to_hex(plots_search.OTHER)) == tied
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[0].startswith("lr ")


def test_a_choice_of_numbers_has_its_values_as_ticks(split_study):
    ax = render(plots_search.sensitivity(split_study)).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    np.testing.assert_allclose(ax.get_xticks(), [0.0, 0.5, 1.0], atol=1e-9)


def test_a_task_of_ones_own_need_not_say_how_long_it_is(task_study):
    own = copy.deepcopy(task_study)
    own["task"] = {"name": "mine", "metric": "score", "kind": "none"}
    found: dict[str, Any] = {}
    exec(numpy_lines(own), found)
    assert found["optimizer"].rule == Rule(**own["winner"]["rule"])
    page = Page(report_search.html(own | {"command": COMMAND}))
    assert numpy_lines(own) in page.texts["pre"]
    assert torch_lines(own) in page.texts["pre"]


# The terminal


def test_the_table_fits_a_terminal_and_drops_what_matters_least(task_study):
    rows = report_search.table(task_study)
    assert rows[0] == ["rank", "trial", "value", "lr", "decay", "eps", "momentum", "centered"]
    assert [row[1] for row in rows[1:]] == [str(t["number"]) for t in task_study["ranking"][:10]]
    wide = copy.deepcopy(task_study)
    order = sorted(wide["importance"], key=lambda name: -wide["importance"][name])
    for t in wide["ranking"]:
        t["config"]["a_name_of_many_letters_that_needs_room"] = "and a value of many letters, too"
    wide["space"].append({"name": "a_name_of_many_letters_that_needs_room", "values": ["x"]})
    for width in (80, 50, 40):
        rows = report_search.table(wide, width=width)
        widest = [
            max(len(line) for row in rows for line in row[k].split("\n"))
            for k in range(len(rows[0]))
        ]
        assert sum(widest) + 2 * (len(widest) - 1) <= width
        shown = rows[0][3:]
        assert set(shown) == set(order[: len(shown)])
    assert len(shown) < len(order)


# The pictures


def test_the_best_so_far_is_the_running_best_and_lost_trials_are_marked(function_study):
    ax = render(plots_search.best_so_far(function_study)).axes[0]
    ended = [t for t in function_study["trials"] if t["state"] == "complete"]
    best = np.minimum.accumulate([t["value"] for t in ended])
    drawn = ys(labelled(ax, "best so far"))
    np.testing.assert_allclose(drawn, [*best, best[-1]])
    dots = labelled(ax, "trial")
    np.testing.assert_array_equal(xs(dots), [t["number"] for t in ended])
    for state, label in (("pruned", "pruned"), ("fail", "failed")):
        numbers = [t["number"] for t in function_study["trials"] if t["state"] == state]
        assert numbers, f"no trial was {label}"
        np.testing.assert_array_equal(xs(labelled(ax, label)), numbers)
        _, height = labelled(ax, label).get_transform().transform((0, ys(labelled(ax, label))[0]))
        values = ax.transData.transform(data(dots))[:, 1]
        assert height < values.min() - 5, "or they would be read as values"


def test_values_far_behind_are_at_the_end_of_the_axis(task_study):
    study = copy.deepcopy(task_study)
    ended = [t for t in study["trials"] if t["state"] == "complete"]
    for k, t in enumerate(ended):
        t["value"] = 0.9 + 0.001 * k
    ended[0]["value"] = 0.1
    ax = render(plots_search.best_so_far(study)).axes[0]
    beyond = labelled(ax, "beyond the axis")
    assert xs(beyond) == [ended[0]["number"]]
    low, high = ax.get_ylim()
    assert low <= ys(beyond)[0] < 90.1
    assert low > 80
    assert high > 90 + 0.1 * (len(ended) - 1)


def test_the_winner_is_ringed_at_its_learning_rate_and_the_default_marked(task_study):
    ax = render(plots_search.sensitivity(task_study)).axes[0]
    lr = task_study["winner"]["config"]["lr"]
    (at,) = xs(labelled(ax, "winner"))
    assert at == pytest.approx(math.log10(lr / 1e-3) / 3)
    assert xs(labelled(ax, "the optimizer's default"))[0] == pytest.approx(1 / 3)
    ticks = {
        label.get_text(): x for label, x in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)
    }
    assert ticks["0.01"] == pytest.approx(1 / 3)
    assert ticks["1"] == pytest.approx(1.0)


def test_without_a_learning_rate_the_most_important_number_is_shown(function_study, task_study):
    assert plots_search.main_of(function_study) == "x"
    without = copy.deepcopy(task_study)
    without["space"] = [d for d in without["space"] if d["name"] != "lr"]
    without["importance"] = {"centered": 0.5, "eps": 0.3, "decay": 0.2}
    assert plots_search.main_of(without) == "eps"
    render(plots_search.sensitivity(without))
    without["space"] = [d for d in without["space"] if d["name"] == "centered"]
    ax = render(plots_search.sensitivity(without)).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["true", "false"]


def test_a_diverged_trial_is_a_cross_at_the_bottom(task_study):
    study = copy.deepcopy(task_study)
    study["trials"][3] |= {"state": "pruned", "diverged": True, "value": None}
    ax = render(plots_search.sensitivity(study)).axes[0]
    cross = labelled(ax, "diverged")
    assert cross.get_marker() == "x"
    lr = study["trials"][3]["config"]["lr"]
    assert xs(cross)[0] == pytest.approx(math.log10(lr / 1e-3) / 3)
    assert "1 of 12 trials diverged" in " ".join(caveats(study))


def test_the_winner_crosses_the_parallel_axes_at_its_values(task_study):
    ax = render(plots_search.parallel(task_study)).axes[0]
    space, config = space_of(SPACE), task_study["winner"]["config"]
    expected = [places(d, [config[d.name]])[0] for d in space]
    winner = [line for line in ax.lines if to_hex(line.get_color()) == to_hex(plots_search.OURS)]
    assert len(winner) == 1
    np.testing.assert_allclose(ys(winner[0]), expected)
    assert [label.get_text() for label in ax.get_xticklabels()] == [d.name for d in space]
    lines = [line for line in ax.lines if len(xs(line)) == len(space)]
    ended = [t for t in task_study["trials"] if t["state"] in ("complete", "pruned")]
    assert len(lines) == len(ended) + 1


def test_importance_and_finalists_show_what_the_study_says(task_study):
    ax = render(plots_search.importance(task_study)).axes[0]
    assert "fANOVA" in ax.get_xlabel()
    widths = sorted(bar.get_width() for bar in ax.patches if isinstance(bar, Rectangle))
    assert widths == pytest.approx(sorted(100 * x for x in task_study["importance"].values()))
    validation, test = render(plots_search.finalists(task_study)).axes
    rows = [*task_study["finalists"], task_study["defaults"]]
    for ax, key in ((validation, "value"), (test, "test")):
        means = [xs(line)[0] for line in ax.lines if line.get_marker() == "|"]
        assert means == pytest.approx([100 * row[key]["mean"] for row in rows])
        dots = [xs(line) for line in ax.lines if line.get_marker() == "o"]
        for seen, row in zip(dots, rows, strict=True):
            assert seen == pytest.approx([100 * run[key] for run in row["runs"]])
