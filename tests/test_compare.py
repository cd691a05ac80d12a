"""Comparisons: fair by construction, summed up rightly, resumed without a difference, honest where they fail.

Other files of tests borrow the studies from here: each is made once.
"""

import copy
import dataclasses
import datetime
import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rmsprop import DIALECTS, Rule, compare, tasks, verdict
from rmsprop.compare import compare_task
from rmsprop.compare_surfaces import compare_surface
from rmsprop.entries import Entry, entries, entry, fixed_entries, learning_rates
from rmsprop.environment import describe
from rmsprop.ledger import Interrupted, Ledger
from rmsprop.schedules import Cosine
from rmsprop.simulate import path
from rmsprop.surfaces import SURFACES, Surface
from rmsprop.tasks import Task
from rmsprop.train import Run, train
from test_tasks import write_csv

Study = dict[str, Any]
XOR = Task.of("xor", epochs=2)
TWO = entries(["rmsprop", "sgd"], [])
SMALL: dict[str, Any] = {"seeds": 2, "search_seeds": 1, "budget": 3}


@functools.cache
def digits_study() -> Study:
    """RMSprop in two dialects, SGD, and Adam at a rate that was given."""
    return compare_task(
        Task.of("digits", epochs=4),
        entries(["rmsprop", "sgd", "adam:lr=0.003"], ["keras"]),
        seeds=4,
        search_seeds=2,
        budget=5,
    )


@functools.cache
def surface_study() -> Study:
    return compare_surface(
        SURFACES["rosenbrock"], entries(["rmsprop", "sgd", "adam"], []), steps=400, budget=11
    )


@functools.cache
def noisy_study() -> Study:
    return compare_surface(
        SURFACES["rosenbrock"].with_noise(5.0),
        entries(["rmsprop", "sgd:lr=0.0005"], []),
        steps=200,
        budget=7,
        seeds=6,
    )


def lasting(x: Any) -> Any:
    """A study without what differs from one time to the next."""
    if isinstance(x, dict):
        gone = ("created", "processes", "caveats")
        return {k: lasting(v) for k, v in x.items() if "seconds" not in k and k not in gone}
    return [lasting(v) for v in x] if isinstance(x, list) else x


@pytest.fixture
def trained(monkeypatch) -> list[tuple[Rule, int, str, bool]]:
    """The (rule, seed, schedule, details) that a comparison in this process trains."""
    made: list[tuple[Rule, int, str, bool]] = []

    def recorded(task: Task, rule: Rule, *, seed: int, schedule: str, details: bool) -> Run:
        made.append((rule, seed, schedule, details))
        return train(task, rule, seed=seed, schedule=schedule, details=details)

    monkeypatch.setattr(compare, "train", recorded)
    return made


Scores = Callable[[Rule, int], tuple[float, float, float] | None]


@pytest.fixture
def pretend(monkeypatch) -> Callable[[Scores], list[tuple[Rule, int]]]:
    """Have runs end with a (validation score, its loss, test score), or None for divergence."""

    def install(scores: Scores) -> list[tuple[Rule, int]]:
        made: list[tuple[Rule, int]] = []

        def made_up(task: Task, rule: Rule, *, seed: int, schedule: str, details: bool) -> Run:
            made.append((rule, seed))
            run, found = Run(task.name, rule.to_dict(), schedule, seed), scores(rule, seed)
            run.steps, run.seconds = [0, 10, 20], [0.0, 1.0, 2.0]
            run.train_loss, run.validation_loss = [1.0, 0.5, 0.4], [1.0, 0.5, None]
            run.validation_score = [0.1, 0.2, None]
            run.diverged = found is None
            if found is not None:
                run.validation_score[2], run.validation_loss[2], run.test_score = found
                run.test_loss = found[1]
            return run

        monkeypatch.setattr(compare, "train", made_up)
        return made

    return install


# Fairness


def test_every_searched_optimizer_chooses_from_the_same_rates():
    study = digits_study()
    grids = [[row["lr"] for row in e["search"]] for e in study["entries"] if not e["fixed"]]
    assert len(grids) == 3
    assert grids[0] == grids[1] == grids[2]
    np.testing.assert_allclose(grids[0], np.geomspace(1e-4, 10**0.5, 5), rtol=1e-5)
    assert all(len(row["scores"]) == 2 for e in study["entries"] for row in e["search"])


def test_every_optimizer_gets_the_same_seeds_and_the_search_other_ones(trained):
    study = compare_task(XOR, TWO, seeds=3, search_seeds=2, budget=4, schedule="constant")
    final = [(rule, seed) for rule, seed, _, _ in trained[-6:]]
    search = [(rule, seed) for rule, seed, _, _ in trained[:-6]]
    assert len(search) == 2 * 4 * 2
    for e, competitor in zip(study["entries"], TWO, strict=True):
        rules = [competitor.rule.replace(lr=row["lr"]) for row in e["search"]]
        assert [[s for r, s in search if r == rule] for rule in rules] == [
            sorted({s for _, s in search})
        ] * 4
        assert [s for r, s in final if r == competitor.rule.replace(lr=e["lr"])] == [0, 1, 2]
        assert [run["seed"] for run in e["runs"]] == [0, 1, 2]
    assert not {s for _, s in search} & {s for _, s in final}
    assert {schedule for _, _, schedule, _ in trained} == {"constant"}
    assert [seed for _, seed, _, details in trained if details] == [0, 0]


def test_the_search_has_seeds_of_its_own_however_many_runs_follow(trained, monkeypatch):
    monkeypatch.setattr(compare, "FIRST_SEARCH_SEED", 1)
    compare_task(XOR, TWO, seeds=3, search_seeds=2, budget=2)
    assert not {seed for _, seed, _, _ in trained[:-6]} & {seed for _, seed, _, _ in trained[-6:]}


def test_the_rate_chosen_has_the_best_mean_validation_score():
    for e in digits_study()["entries"]:
        if e["fixed"]:
            continue
        for row in e["search"]:
            if row["eligible"]:
                assert row["mean"] == pytest.approx(np.mean(row["scores"]))
                assert row["diverged"] == 0
            else:
                assert row["diverged"] > 0
        best = max((row for row in e["search"] if row["eligible"]), key=lambda row: row["mean"])
        chosen = next(row for row in e["search"] if row["lr"] == e["lr"])
        assert chosen["eligible"]
        assert chosen["mean"] == best["mean"]
        assert e["search_runs"] == 10
        assert e["search_diverged"] == sum(row["diverged"] for row in e["search"])


def test_the_scores_of_the_search_are_of_the_validation_split_and_the_final_ones_of_the_test_split():
    study, task = digits_study(), Task.of("digits", epochs=4)
    e = study["entries"][0]
    for row in e["search"][1:3]:
        runs = [train(task, Rule(lr=row["lr"]), seed=s, schedule="cosine") for s in (1000, 1001)]
        assert row["scores"] == [run.validation_score[-1] for run in runs]
        assert row["scores"] != [run.test_score for run in runs]
        assert row["loss"] == pytest.approx(
            np.mean([float(run.validation_loss[-1] or 0) for run in runs])
        )
    run = train(task, Rule(lr=e["lr"]), seed=2, schedule="cosine")
    assert e["runs"][2]["test_score"] == run.test_score != run.validation_score[-1]
    assert e["runs"][2]["validation_loss"] == run.validation_loss


def test_a_rate_at_which_a_run_diverged_is_not_chosen_however_good_the_others(pretend):
    pretend(lambda rule, seed: None if rule.lr == 1 and seed == 1001 else (rule.lr, 0.5, 0.9))
    study = compare_task(XOR, TWO, seeds=2, search_seeds=3, budget=3, lr_range=(0.01, 1.0))
    e = study["entries"][0]
    assert [row["eligible"] for row in e["search"]] == [True, True, False]
    assert [row["diverged"] for row in e["search"]] == [0, 0, 1]
    assert e["search"][2]["scores"] == [1.0, None, 1.0]
    assert e["lr"] == 0.1
    assert not e["at_edge"]


def test_the_choice_looks_at_validation_alone_and_the_loss_breaks_ties(pretend):
    table = {0.01: (0.9, 0.4, 0.99), 0.1: (0.9, 0.2, 0.5), 1.0: (0.8, 0.1, 1.0)}
    pretend(lambda rule, seed: table[rule.lr])
    study = compare_task(XOR, TWO, seeds=2, search_seeds=2, budget=3, lr_range=(0.01, 1.0))
    assert [e["lr"] for e in study["entries"]] == [0.1, 0.1]
    assert study["entries"][0]["test_score"]["mean"] == 0.5


@pytest.mark.parametrize(
    ("scores", "low", "high", "edge"),
    [
        ([0.5, 0.895, 0.9, 0.8905, 0.88], 0.1, 10.0, False),
        ([0.9, 0.8, 0.895, 0.7, 0.1], 0.01, 0.01, True),  # the second hill does not count
        ([0.1, 0.2, 0.3, 0.895, 0.9], 10.0, 100.0, True),
        ([0.895, 0.9, 0.897, 0.3, 0.1], 0.01, 1.0, False),  # down to the lowest that was tried
    ],
)
def test_good_rates_are_the_unbroken_range_around_the_best(pretend, scores, low, high, edge):
    table = dict(zip([0.01, 0.1, 1.0, 10.0, 100.0], scores, strict=True))
    pretend(lambda rule, seed: (table[rule.lr], 0.5, 0.9))
    study = compare_task(XOR, TWO[:1], seeds=1, search_seeds=1, budget=5, lr_range=(0.01, 100.0))
    e = study["entries"][0]
    good = [lr for lr in table if low <= lr <= high]
    assert e["good_lrs"] == {"low": low, "high": high, "count": len(good)}
    assert e["at_edge"] is edge
    assert any("edge" in caveat for caveat in study["caveats"]) is edge


def test_what_counts_as_rmsprop():
    """An average of squares divides, and momentum stands after it: Adam's stands before."""
    known = {
        e.label: e.is_rmsprop for e in entries(["rmsprop", "adam", "adagrad", "sgd"], ["keras"])
    }
    assert len(known) >= 4
    assert {label for label, ours in known.items() if ours} == {
        label for label in known if "rmsprop" in label.lower() or "keras" in label.lower()
    }
    assert any(known.values())


def test_fixed_rates_are_not_searched_and_that_is_said(trained):
    study = compare_task(XOR, entries(["rmsprop:lr=0.05", "sgd"], []), **SMALL)
    ours, sgd = study["entries"]
    assert (ours["fixed"], ours["lr"], ours["search"], ours["good_lrs"]) == (True, 0.05, [], None)
    assert not ours["at_edge"]
    assert len(sgd["search"]) == 3
    assert sum(rule.second_moment == "ema" for rule, *_ in trained) == 2
    assert any("given and others searched" in caveat for caveat in study["caveats"])
    both = compare_task(XOR, entries(["rmsprop:lr=0.05", "sgd:lr=0.1"], []), seeds=1)
    assert not any("given" in caveat for caveat in both["caveats"])


def test_dialects_are_competitors_of_their_own():
    study = compare_task(XOR, entries(["rmsprop"], ["keras", "torch"]), **SMALL)
    labels = [e["label"] for e in study["entries"]]
    assert labels == ["RMSprop", "RMSprop (keras)", "RMSprop (torch)"]
    assert all(e["is_rmsprop"] for e in study["entries"])
    for e, dialect in zip(study["entries"], ("hinton", "keras", "torch"), strict=True):
        assert Rule.from_dict(e["rule"]) == Rule.from_dialect(dialect, lr=e["lr"])
        assert e["equations"] == Rule.from_dialect(dialect, lr=e["lr"]).equations()
        assert all(Rule.from_dict(run["rule"]) == Rule.from_dict(e["rule"]) for run in e["runs"])


# Sums


def test_every_summary_is_that_of_the_runs():
    study = digits_study()
    assert [e["label"] for e in study["entries"]] == ["RMSprop", "SGD", "Adam", "RMSprop (keras)"]
    for e in study["entries"]:
        runs = e["runs"]
        assert len(runs) == 4
        assert e["final_diverged"] == sum(run["diverged"] for run in runs) == 0
        for name, values in (
            ("test_score", [run["test_score"] for run in runs]),
            ("test_loss", [run["test_loss"] for run in runs]),
            ("validation_score", [run["validation_score"][-1] for run in runs]),
        ):
            low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
            assert e[name] == pytest.approx(
                {"mean": np.mean(values), "low": low, "high": high, "n": 4}
            )
        assert e["seconds"] == pytest.approx(np.median([run["seconds"][-1] for run in runs]))


def test_the_first_reach_of_the_target_is_the_median_of_the_runs():
    study = digits_study()
    target = study["settings"]["target"]
    best = max(np.mean([r["validation_score"][-1] for r in e["runs"]]) for e in study["entries"])
    assert target == pytest.approx(0.99 * best, abs=1e-4)
    reached = []
    for e in study["entries"]:
        steps, seconds = [], []
        for run in e["runs"]:
            k = next((k for k, s in enumerate(run["validation_score"]) if s >= target), None)
            if k is not None:
                steps.append(run["steps"][k])
                seconds.append(run["seconds"][k])
        assert e["reached"] == len(steps)
        assert e["steps_to_target"] == (np.median(steps) if steps else None)
        assert e["seconds_to_target"] == (np.median(seconds) if steps else None)
        reached.append(len(steps))
    assert max(reached) == 4


def test_a_target_can_be_given(pretend):
    pretend(lambda rule, seed: (0.9, 0.5, 0.9))
    easy = compare_task(XOR, TWO, **SMALL, target=0.15)["entries"][0]
    assert (easy["reached"], easy["steps_to_target"], easy["seconds_to_target"]) == (2, 10.0, 1.0)
    never = compare_task(XOR, TWO, **SMALL, target=0.95)["entries"][0]
    assert (never["reached"], never["steps_to_target"], never["seconds_to_target"]) == (
        0,
        None,
        None,
    )


def test_a_study_is_json_without_nan_and_says_how_it_was_made():
    for study in (digits_study(), surface_study(), noisy_study()):
        again = json.loads(json.dumps(study, allow_nan=False))
        assert again["settings"]["budget"] == study["settings"]["budget"]
        assert datetime.datetime.fromisoformat(again["created"]).utcoffset() == datetime.timedelta(
            0
        )
        assert again["versions"]["numpy"] == np.__version__
        assert again["machine"]["cores"] >= 1
        assert again["seconds"] > 0
        assert again["kind"] in ("task", "surface")


def test_the_environment_names_what_is_there_and_nothing_else():
    found = describe(("numpy", "no-such-package"))
    assert set(found["versions"]) == {"python", "numpy"}
    built: Any = np.show_config(mode="dicts")
    blas = built["Build Dependencies"]["blas"]
    if "openblas" in blas["name"]:  # SciPy's, which is loaded too, may be of another version
        assert f"openblas {blas['version']}" in found["machine"]["blas"]


def test_large_data_get_fewer_seeds_unless_told_otherwise(trained, monkeypatch):
    monkeypatch.setattr(compare, "LARGE", 600)
    study = compare_task(XOR, TWO[:1], budget=2)
    assert (study["settings"]["seeds"], study["settings"]["search_seeds"]) == (5, 1)
    monkeypatch.setattr(compare, "LARGE", 601)
    study = compare_task(XOR, TWO[:1], budget=2)
    assert (study["settings"]["seeds"], study["settings"]["search_seeds"]) == (10, 3)
    assert len(trained) == 2 + 5 + 6 + 10


# Runs elsewhere, and again


@pytest.mark.long
def test_processes_change_nothing_but_the_time():
    task = Task.of("digits", epochs=2)
    alone, two = (compare_task(task, TWO, **SMALL, processes=n) for n in (1, 2))
    assert lasting(alone) == lasting(two)
    assert two["settings"]["processes"] == 2


def test_a_resumed_comparison_does_what_is_missing_and_says_the_same(
    tmp_path, trained, monkeypatch
):
    file = tmp_path / "runs.jsonl"
    whole = compare_task(XOR, TWO, **SMALL)
    assert len(trained) == 10
    for stop in (3, 8):  # in the search, and in the final runs
        file.unlink(missing_ok=True)
        trained.clear()
        progress: list[tuple[int, int, str]] = []

        def interrupt(done: int, total: int, what: str, stop: int = stop) -> None:
            if len(trained) == stop:
                raise KeyboardInterrupt

        def tell(done: int, total: int, what: str, to: Any = progress) -> None:
            to.append((done, total, what))

        with pytest.raises(Interrupted):
            compare_task(XOR, TWO, **SMALL, ledger=Ledger(file), progress=interrupt)
        assert len(file.read_text().splitlines()) == len(trained) == stop
        trained.clear()
        again = compare_task(XOR, TWO, **SMALL, ledger=Ledger(file, resume=True), progress=tell)
        assert len(trained) == 10 - stop
        assert lasting(again) == lasting(whole)
        assert progress[0] == (min(stop, 6), 6, "learning rates")


def test_a_line_that_was_cut_short_is_done_again(tmp_path, trained):
    file = tmp_path / "runs.jsonl"
    whole = compare_task(XOR, TWO, **SMALL, ledger=Ledger(file))
    text = file.read_text()
    file.write_text(text[: text.rindex("\n", 0, -1) + 200])
    trained.clear()
    again = compare_task(XOR, TWO, **SMALL, ledger=Ledger(file, resume=True))
    assert [seed for _, seed, _, _ in trained] == [1]
    assert lasting(again) == lasting(whole)
    assert sorted(file.read_text().splitlines())[0].startswith('{"key"')


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 3},
        {"batch_size": 16},
        {"hidden": (9,)},
        {"activation": "tanh"},
        {"split_seed": 1},
    ],
    ids=str,
)
def test_runs_of_another_task_are_not_taken_from_the_ledger(tmp_path, trained, changed):
    ledger = Ledger(tmp_path / "runs.jsonl")
    compare_task(XOR, TWO, **SMALL, ledger=ledger)
    trained.clear()
    task = Task.of("xor", **{"epochs": 2} | changed)
    again = compare_task(task, TWO, **SMALL, ledger=ledger)
    assert len(trained) == 10
    assert lasting(again) == lasting(compare_task(task, TWO, **SMALL))


def test_runs_of_another_rule_or_schedule_are_not_taken_and_those_of_the_same_are(
    tmp_path, trained
):
    ledger = Ledger(tmp_path / "runs.jsonl")
    compare_task(XOR, TWO, **SMALL, ledger=ledger)
    changes: list[tuple[list[Entry], dict[str, Any], int]] = [
        (TWO, SMALL, 0),
        (TWO, SMALL | {"seeds": 3}, 2),
        (TWO, SMALL | {"search_seeds": 2}, 6),
        (entries(["rmsprop:decay=0.99", "sgd"], []), SMALL, 5),
        (TWO, SMALL | {"schedule": "constant"}, 10),
    ]
    for other, options, count in changes:
        trained.clear()
        compare_task(XOR, other, **options, ledger=ledger)
        assert len(trained) == count, (other, options)


def test_runs_on_a_file_that_has_changed_are_not_taken(tmp_path, trained):
    ledger, file = Ledger(), tmp_path / "rent.csv"
    for seed in (0, 1):
        trained.clear()
        task = Task.of(str(write_csv(file, seed=seed)), epochs=1, split_seed=0)
        tasks._load.cache_clear()  # as in a new process
        compare_task(task, TWO, **SMALL, ledger=ledger)
        assert len(trained) == 10


# Where it fails


def test_an_optimizer_that_diverges_everywhere_has_no_result_and_that_is_said():
    task = Task.of("digits", epochs=1)
    study = compare_task(
        task, entries(["rmsprop:lr=0.001", "sgd"], []), **SMALL, lr_range=(1e6, 1e9)
    )
    sgd = study["entries"][1]
    assert (sgd["lr"], sgd["runs"], sgd["good_lrs"], sgd["reached"]) == (None, [], None, 0)
    assert sgd["test_score"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert sgd["search_diverged"] == sgd["search_runs"] == 3
    assert not sgd["at_edge"]
    assert study["verdict"].startswith("On digits, RMSprop reaches")
    assert any("At every learning rate some run of SGD diverged" in c for c in study["caveats"])
    json.dumps(study, allow_nan=False)


def test_where_every_optimizer_diverges_there_is_no_winner():
    study = compare_task(Task.of("digits", epochs=1), TWO[1:], **SMALL, lr_range=(1e6, 1e9))
    assert study["verdict"] == "No optimizer finished a run on digits."
    assert study["settings"]["target"] is None
    json.dumps(study, allow_nan=False)


def test_final_runs_that_diverge_are_counted_and_left_out_of_the_means(pretend):
    def scores(rule: Rule, seed: int) -> tuple[float, float, float] | None:
        lost = rule.second_moment == "none" and seed == 1
        return None if lost else (0.9, 0.5, 0.8 + seed / 100)

    pretend(scores)
    study = compare_task(XOR, TWO, seeds=4, search_seeds=1, budget=2)
    sgd = study["entries"][1]
    assert sgd["final_diverged"] == 1
    assert sgd["test_score"]["n"] == 3
    assert sgd["test_score"]["mean"] == pytest.approx((0.80 + 0.82 + 0.83) / 3)
    assert "Final runs that diverged are not in the means: SGD (1)." in study["caveats"]
    # Seed by seed the two are equal; over all seeds their means are not.
    assert "the difference is 0.00 points" in study["verdict"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be 1 or more; got 0"),
        ({"seeds": -3}, "seeds must be 1 or more; got -3"),
        ({"search_seeds": 0}, "search_seeds must be 1 or more"),
        ({"budget": 1}, "budget must be 2 learning rates or more; got 1"),
        ({"lr_range": (1.0, 0.1)}, "from a low above 0 to a higher; got 1.0:0.1"),
        ({"lr_range": (0.0, 0.1)}, "from a low above 0"),
        ({"lr_range": (0.1, math.inf)}, "from a low above 0"),
        ({"lr_range": (math.nan, 1.0)}, "from a low above 0"),
        ({"target": math.nan}, "target must be finite; got nan"),
        (
            {"schedule": "linear"},
            "schedule must be one of constant, cosine, step, exponential; got 'linear'",
        ),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        compare_task(XOR, TWO, **SMALL | options)
    if "search_seeds" not in options:
        with pytest.raises(ValueError, match=message):
            compare_surface(SURFACES["sphere"].with_noise(1.0), TWO, **{"steps": 5} | options)


# Surfaces


def slow(name: str) -> Surface:
    """A surface in plain Python, where compiling it would take longer."""
    return dataclasses.replace(SURFACES[name], jit=False)


def ends(heights: Any) -> np.ndarray:
    """The geometric mean of each path's last tenth."""
    count = max(1, heights.shape[1] // 10)
    return np.exp(np.log(np.maximum(heights[:, -count:], 1e-200)).mean(axis=1))


def geometric(values: Any) -> Any:
    return np.exp(np.mean(np.log(values)))


def test_a_surface_is_searched_alike_for_all_and_the_closest_rate_is_chosen():
    study, surface = surface_study(), SURFACES["rosenbrock"]
    assert study["settings"]["seeds"] == 1
    for e, competitor in zip(
        study["entries"], entries(["rmsprop", "sgd", "adam"], []), strict=True
    ):
        np.testing.assert_allclose(
            [r["lr"] for r in e["search"]], np.geomspace(1e-5, 10, 11), rtol=1e-5
        )
        for row in e["search"]:
            found = path(surface, competitor.rule.replace(lr=row["lr"]), surface.start, 400)
            last = ends(found.losses[None])
            assert row["eligible"] == bool(np.isfinite(last[0]))
            if row["eligible"]:
                assert row["mean"] == pytest.approx(last[0], rel=1e-6)
            else:
                assert row["diverged"] == 1
        best = min((r for r in e["search"] if r["eligible"]), key=lambda r: r["mean"])
        assert e["lr"] == best["lr"]
        assert e["final"]["mean"] == pytest.approx(best["mean"])
        assert e["final"]["low"] is None


def test_the_path_shown_is_the_one_at_the_chosen_rate():
    study, surface = surface_study(), SURFACES["rosenbrock"]
    for e in study["entries"]:
        found = path(surface, Rule.from_dict(e["rule"]), surface.start, 400)
        assert e["rule"]["lr"] == e["lr"]
        np.testing.assert_allclose(e["path"]["positions"], found.positions, rtol=1e-6)
        np.testing.assert_allclose(e["path"]["heights"][0], found.losses, rtol=1e-6)
        np.testing.assert_allclose(e["path"]["v"], found.v, rtol=1e-6)
        np.testing.assert_allclose(e["path"]["rates"], found.rates, rtol=1e-6)
        target = 1e-4 * found.losses[0]
        assert study["settings"]["target"] == pytest.approx(target)
        below = np.flatnonzero(found.losses <= target)
        assert e["steps_to_target"] == (below[0] if below.size else None)
        assert e["reached"] == bool(below.size)


def test_under_noise_the_rate_is_chosen_on_other_draws_than_those_reported():
    study, surface = noisy_study(), SURFACES["rosenbrock"].with_noise(5.0)
    starts = np.tile(surface.start, (6, 1))
    ours, sgd = study["entries"]
    for row in ours["search"]:
        on = ends(path(surface, Rule(lr=row["lr"]), starts, 200, seed=1000).losses)
        assert row["mean"] == pytest.approx(geometric(on), rel=1e-6)
    assert ours["lr"] == min(ours["search"], key=lambda row: row["mean"])["lr"]
    reported = ends(path(surface, Rule(lr=ours["lr"]), starts, 200, seed=0).losses)
    low, high = np.exp(
        stats.t.interval(0.95, 5, np.log(reported).mean(), stats.sem(np.log(reported)))
    )
    assert ours["final"] == pytest.approx(
        {"mean": geometric(reported), "low": low, "high": high, "n": 6}
    )
    assert (sgd["fixed"], sgd["lr"], sgd["search"]) == (True, 0.0005, [])
    assert len(sgd["path"]["heights"]) == 6
    assert any("the rates were chosen on others" in caveat for caveat in study["caveats"])


def test_heights_are_above_the_minimum_where_it_is_not_zero():
    surface = slow("styblinski-tang")
    study = compare_surface(surface, fixed_entries(["rmsprop"]), steps=30)
    assert study["surface"]["minimum"] == pytest.approx(-78.33233)
    heights = np.array(study["entries"][0]["path"]["heights"][0])
    positions = np.array(study["entries"][0]["path"]["positions"])
    values = [surface.value(x, y) for x, y in positions]
    np.testing.assert_allclose(heights, np.array(values) + 78.33233140754282, rtol=1e-4)


def test_start_steps_schedule_and_target_are_those_given():
    rule = fixed_entries(["sgd:lr=0.0004"])
    study = compare_surface(
        SURFACES["rosenbrock"], rule, start=(0.5, 2.0), steps=50, schedule="cosine", target=10.0
    )
    e = study["entries"][0]
    found = path(
        SURFACES["rosenbrock"], rule[0].rule, (0.5, 2.0), 50, learning_rate=Cosine(0.0004, 50)
    )
    np.testing.assert_allclose(e["path"]["positions"], found.positions, rtol=1e-6)
    assert e["steps_to_target"] == np.flatnonzero(found.losses <= 10.0)[0]


def test_a_surface_without_a_minimum_is_timed_by_its_edge():
    surface = slow("saddle")
    study = compare_surface(surface, entries(["rmsprop", "sgd", "adagrad:lr=0.5"], []), steps=400)
    for e, lr in zip(study["entries"], (0.01, 0.01, 0.5), strict=True):
        assert (e["lr"], e["search"]) == (lr, [])
        found = path(surface, Rule.from_dict(e["rule"]), surface.start, 400).positions
        left = [k for k, (x, y) in enumerate(found.tolist()) if not surface.contains(x, y)]
        assert e["steps_to_target"] == (left[0] if left else None)
    first = min((e for e in study["entries"] if e["reached"]), key=lambda e: e["steps_to_target"])
    assert (
        f"leave the domain: {first['label']} after {first['steps_to_target']:,.0f}"
        in study["verdict"]
    )


def test_paths_that_run_away_are_summed_up_without_a_failure():
    study = compare_surface(slow("saddle").with_noise(0.1), TWO, steps=10_000, seeds=3)
    assert study["entries"][1]["final"]["mean"] < -1e100
    json.dumps(study, allow_nan=False)


def test_a_surface_on_which_all_diverge_has_no_winner():
    study = compare_surface(
        SURFACES["rosenbrock"], TWO[1:], steps=100, lr_range=(1.0, 10.0), budget=3
    )
    e = study["entries"][0]
    assert (e["lr"], e["path"], e["search_diverged"]) == (None, None, 3)
    assert study["verdict"] == "No optimizer stayed finite on rosenbrock from (-1.5, 2.5)."
    json.dumps(study, allow_nan=False)


def test_paths_that_diverge_under_noise_are_told():
    surface = SURFACES["rosenbrock"].with_noise(50.0)
    study = compare_surface(surface, fixed_entries(["sgd:lr=0.0016"]), steps=500)
    e = study["entries"][0]
    found = path(surface, Rule.from_dict(e["rule"]), np.tile(surface.start, (20, 1)), 500)
    lost = int((~np.isfinite(found.losses[:, -1])).sum())
    assert 0 < lost < 20
    assert (e["final_diverged"], e["final"]["n"]) == (lost, 20 - lost)
    assert f"Final paths that diverged are not in the means: SGD ({lost})." in study["caveats"]


@pytest.mark.parametrize("start", [(1e200, 0.0), (math.nan, 0.0), (math.inf, 1.0)])
def test_a_start_without_a_height_is_refused(start):
    with pytest.raises(ValueError, match="rosenbrock must be finite at the start"):
        compare_surface(SURFACES["rosenbrock"], TWO, start=start, steps=5)


# The verdict of studies made by hand


def made_entry(
    label: str, tests: Sequence[float | None], lr: float | None = 0.01, **more: Any
) -> Study:
    there = [x for x in tests if x is not None]
    mean = float(np.mean(there)) if there else None
    low, high = None, None
    if len(there) > 1:
        low, high = stats.t.interval(0.95, len(there) - 1, mean, stats.sem(there))
    return {
        "label": label,
        "is_rmsprop": label.startswith("RMSprop"),
        "lr": lr,
        "fixed": False,
        "at_edge": False,
        "final_diverged": len(tests) - len(there),
        "test_score": {"mean": mean, "low": low, "high": high, "n": len(there)},
        "runs": [{"seed": k, "test_score": x} for k, x in enumerate(tests)],
    } | more


def told(*found: Study, kind: str = "multiclass", rows: int = 400) -> tuple[str, list[str]]:
    study = {
        "task": {"name": "digits", "kind": kind},
        "settings": {"seeds": 5, "processes": 2},
        "entries": list(found),
    }
    return verdict.of_task(copy.deepcopy(study), rows)


WORST = [0.5, 0.5, 0.5, 0.5, 0.51]
HIGH, LOW = [0.95, 0.96, 0.95, 0.96, 0.95], [0.90, 0.91, 0.92, 0.91, 0.90]
MIXED = [0.96, 0.94, 0.95, 0.97, 0.949]


def test_verdict_where_rmsprop_wins():
    text, _ = told(made_entry("RMSprop", HIGH), made_entry("Adam", LOW), made_entry("SGD", WORST))
    gaps = np.array(HIGH) - LOW
    low, high = 100 * np.array(stats.t.interval(0.95, 4, gaps.mean(), stats.sem(gaps)))
    assert text == (
        "On digits, RMSprop is best: 95.40% test accuracy, 4.60 points above Adam, the best of the others "
        f"(95% interval {low:.2f} to {high:.2f})."
    )
    assert 0 < low < 4.6 < high


def test_verdict_where_rmsprop_loses():
    text, _ = told(made_entry("Adam", HIGH), made_entry("RMSprop", LOW), made_entry("SGD", WORST))
    gaps = np.array(HIGH) - LOW
    low, high = 100 * np.array(stats.t.interval(0.95, 4, gaps.mean(), stats.sem(gaps)))
    assert text == (
        "On digits, Adam beats RMSprop: 95.40% test accuracy against 90.80%, a lead of 4.60 points "
        f"(95% interval {low:.2f} to {high:.2f})."
    )


def test_verdict_where_the_seeds_cannot_tell():
    text, _ = told(made_entry("RMSprop", HIGH), made_entry("Adam", MIXED))
    assert "cannot be told apart by 5 seeds: the difference is 0.02 points" in text
    assert "RMSprop (95.40% test accuracy)" in text
    assert "Adam (95.38%)" in text
    low, high = text.split("95% interval ")[1].split(")")[0].split(" to ")
    assert float(low) < 0 < float(high)
    assert float(low) + float(high) == pytest.approx(2 * 0.02, abs=0.011)


def test_verdict_sets_the_best_dialect_against_the_best_of_the_others():
    found = [
        ("RMSprop", LOW),
        ("SGD", WORST),
        ("RMSprop (keras)", HIGH),
        ("Adam", [0.8, 0.8, 0.81, 0.8, 0.8]),
    ]
    text, _ = told(*(made_entry(*e) for e in found))
    assert text.startswith("On digits, RMSprop (keras) is best: 95.40%")
    assert "above Adam, the best of the others" in text


def test_verdict_is_paired_by_seed():
    """Seeds differ by ten points, the optimizers by one at every seed: that can be told."""
    hard = [0.5, 0.6, 0.7, 0.8, 0.9]
    text, _ = told(
        made_entry("RMSprop", [x + 0.01 for x in hard]),
        made_entry("Adam", [x + 0.0001 * k for k, x in enumerate(hard)]),
    )
    assert "RMSprop is best" in text
    text, _ = told(made_entry("RMSprop", [0.9, None, 0.9001]), made_entry("Adam", [0.8, 0.1, 0.8]))
    assert "10.00 points above Adam" in text  # not the 33 between the means


@pytest.mark.parametrize("label", ["RMSprop", "Adam"])
def test_verdict_on_a_single_side(label):
    text, _ = told(made_entry(label, HIGH), made_entry(f"{label} (worse)", LOW))
    low, high = 100 * np.array(stats.t.interval(0.95, 4, np.mean(HIGH), stats.sem(HIGH)))
    assert text == (
        f"On digits, {label} reaches 95.40% test accuracy over 5 seeds (95% interval {low:.2f} to "
        f"{high:.2f}), with learning rate 0.01."
    )


def test_verdict_where_one_side_did_not_finish():
    text, caveats = told(made_entry("RMSprop", [], None), made_entry("Adam", HIGH))
    assert text.startswith("On digits, Adam reaches 95.40%")
    assert any("At every learning rate some run of RMSprop diverged" in c for c in caveats)
    assert told(made_entry("RMSprop", [], None)) == ("No optimizer finished a run on digits.", [])


def test_verdict_of_one_seed_claims_nothing():
    text, _ = told(made_entry("RMSprop", [0.99]), made_entry("Adam", [0.5]))
    assert "cannot be told apart" in text
    assert "one seed: no interval" in text


@pytest.mark.parametrize(("ours", "side"), [(HIGH, "RMSprop is best"), (LOW, "Adam beats RMSprop")])
def test_verdict_of_a_regression_is_not_in_per_cent(ours, side):
    theirs = LOW if ours is HIGH else HIGH
    text, caveats = told(made_entry("RMSprop", ours), made_entry("Adam", theirs), kind="regression")
    assert side in text
    assert "0.9540 test R^2" in text
    assert "0.0460" in text
    assert "%" not in text.replace("95% interval", "")
    assert not any("another draw" in caveat for caveat in caveats)


def test_caveats_say_how_far_the_test_rows_go():
    _, caveats = told(made_entry("RMSprop", HIGH), made_entry("Adam", LOW), rows=400)
    half = 196 * math.sqrt(0.954 * 0.046 / 400)
    assert any("400 rows" in c and f"about {half:.1f} points either way" in c for c in caveats)
    _, caveats = told(
        made_entry("RMSprop", HIGH, at_edge=True), made_entry("Adam", [*LOW[:4], None])
    )
    assert any("chosen for RMSprop lies at the edge" in c for c in caveats)
    assert any(c == "Final runs that diverged are not in the means: Adam (1)." for c in caveats)


def made_path(
    label: str, mean: float | None, low: float | None = None, high: float | None = None
) -> Study:
    final = {"mean": mean, "low": low, "high": high, "n": int(mean is not None)}
    ours = label.startswith("RMSprop")
    more = {"lr": 0.01, "at_edge": False, "final_diverged": 0, "steps_to_target": None}
    return {"label": label, "is_rmsprop": ours, "final": final} | more


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            [
                made_path("RMSprop", 1e-3),
                made_path("SGD", 1e-5, 1e-6, 1e-4),
                made_path("Adam", None),
            ],
            "SGD comes closest in 1,000 steps, 1e-05 above the minimum (95% interval 1e-06 to 0.0001) at "
            "learning rate 0.01; RMSprop ends 0.001 above the minimum at learning rate 0.01.",
        ),
        (
            [made_path("SGD", 0.5), made_path("RMSprop", 1e-9), made_path("Adam", 0.25)],
            "RMSprop comes closest in 1,000 steps, 1e-09 above the minimum at learning rate 0.01; next is "
            "Adam, 0.25 above the minimum at learning rate 0.01.",
        ),
    ],
    ids=["loses", "wins"],
)
def test_verdict_on_a_surface(found, text):
    study = {
        "surface": {"name": "booth", "minimum": 0.0, "noise": 0.0},
        "settings": {"start": [-8.0, -6.5], "steps": 1000, "seeds": 1},
        "entries": found,
    }
    assert verdict.of_surface(study)[0] == f"On booth from (-8, -6.5), {text}"


# Competitors by name


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_can_be_named_in_two_ways(dialect):
    lr = DIALECTS[dialect].fields.get("lr", 0.001)
    assert (
        entry(dialect).rule == entry(f"rmsprop-{dialect}").rule == Rule.from_dialect(dialect, lr=lr)
    )
    assert entry(dialect).label == f"RMSprop ({dialect})"


def test_a_name_takes_fields_and_a_rate_that_is_given_is_fixed():
    found = entry("adam:lr=0.003:momentum=0.5:eps=1e-6")
    assert found == Entry(
        "Adam (momentum=0.5, eps=1e-6)",
        Rule.from_dialect("adam", lr=0.003, momentum=0.5, eps=1e-6),
        True,
        ("lr", "momentum", "eps"),
    )
    assert entry("rmsprop:clip_norm=none:centered=true").rule == Rule(lr=0.01, centered=True)
    assert entry("rmsprop:second_moment=none").rule.second_moment == "none"
    assert not entry("rmsprop:second_moment=sum").is_rmsprop
    assert not entry("rmsprop").fixed


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("rmspropp", ValueError, "no optimizer is named 'rmspropp'"),
        ("", ValueError, "no optimizer is named ''"),
        ("adam:lr", ValueError, "write name:field=value"),
        ("adam:rate=0.1", TypeError, "no field 'rate'"),
        ("adam:lr=fast", TypeError, "lr must be a number"),
        ("adam:lr=-1", ValueError, "lr must be a number at least 0"),
        ("adam:lr=nan", ValueError, "lr must be a number"),
        ("rmsprop:nesterov=true", ValueError, "nesterov=True needs momentum"),
    ],
)
def test_a_name_that_is_wrong_is_refused_in_words(spec, error, words):
    with pytest.raises(error, match=words):
        entry(spec)


def test_labels_tell_competitors_apart():
    assert [e.label for e in entries(["sgd:lr=0.01", "sgd:lr=0.1", "adam"], ["torch"])] == [
        "SGD, lr 0.01", "SGD, lr 0.1", "Adam", "RMSprop (torch)",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="named twice: SGD"):
        entries(["sgd", "sgd"], [])
    with pytest.raises(ValueError, match="name at least one optimizer"):
        entries([], [])


def test_learning_rates_are_at_equal_ratios():
    rates = learning_rates(1e-4, 10**0.5, 10)
    assert len(rates) == 10
    np.testing.assert_allclose(np.diff(np.log(rates)), np.log(10) / 2, rtol=1e-4)
    assert (rates[0], rates[-1]) == (1e-4, 3.16228)
