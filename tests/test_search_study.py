"""What a search keeps: draws, failures, reports, and what goes on with what."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import needs

needs.package("optuna")

import optuna  # noqa: E402
from optuna.storages import BaseStorage  # noqa: E402

from rmsprop.search import tune  # noqa: E402
from rmsprop.search.loop import AllFailed, failures  # noqa: E402
from rmsprop.search.storage import open_storage  # noqa: E402
from rmsprop.space import Range  # noqa: E402
from studies import GRID, assert_grid_once, at, configs, opener, run, score  # noqa: E402


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], BaseStorage]]:
    with opener(tmp_path / "s.db") as found:
        yield found


@pytest.fixture
def kept(opened: Callable[[], BaseStorage]) -> BaseStorage:
    return opened()


# What goes on with what


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"space": "a=0:2:linear:4 b=x,y"},
            "has the space a=0:3:linear b=x,y, not a=0:2:linear b=x,y",
        ),
        ({"direction": "maximize"}, "has the direction minimize, not maximize"),
        ({"method": "random"}, "has the method grid, not random"),
        ({"about": {"task": "other"}}, "was begun with task 'one', not 'other'"),
    ],
)
def test_a_study_of_something_else_is_refused(
    kept: BaseStorage, changed: dict[str, Any], said: str
) -> None:
    at(kept, about={"task": "one"})
    with pytest.raises(ValueError, match=f"{said}.*take another name"):
        at(kept, **({"space": GRID, "about": {"task": "one"}} | changed))


def test_a_study_of_another_program_is_refused(kept: BaseStorage) -> None:
    optuna.create_study(storage=kept, study_name="s").add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(ValueError, match="was not made by rmsprop tune"):
        at(kept)


def test_an_empty_study_that_runs_the_other_way_is_refused(kept: BaseStorage) -> None:
    optuna.create_study(storage=kept, study_name="s", direction="maximize")
    with pytest.raises(ValueError, match="was not made by rmsprop tune"):
        at(kept)


def test_an_unknown_method_suggests_the_near_one(kept: BaseStorage) -> None:
    with pytest.raises(ValueError, match="no method is named 'gird'; did you mean 'grid'"):
        at(kept, method="gird")


# Values


SPACES = [
    "lr=1e-5:1 decay=0.5:0.9999 x=-3:7 n=1,2,3 flag=true,false word=p,q",
    "decay=0.9:0.99999999 eps=1e-300:1e300 x=-1e300:1e300",
    "x=1000:1000.5 lr=1.0001:1.0002 decay=0.9:0.90001 y=-1e-9:1e-9 z=1e15:1000000000000001",
]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", ["random", "tpe", "grid"])
@pytest.mark.parametrize("where", ["memory", "sqlite"])
def test_what_is_kept_is_what_the_objective_was_given(
    kept: BaseStorage, space: str, method: str, where: str
) -> None:
    given: list[dict[str, Any]] = []

    def objective(config: dict[str, Any], report: Any) -> float:
        given.append(config)
        return float(len(given))

    dimensions = [f"{d}:2" if ":" in d and method == "grid" else d for d in space.split()]
    found = at(kept if where == "sqlite" else None, " ".join(dimensions), method=method)
    run(found, objective, 14 if found.grid is None else min(14, len(found.grid)))
    assert configs(found) == given
    assert [list(map(type, c.values())) for c in configs(found)] == [
        list(map(type, c.values())) for c in given
    ]
    for config, d in itertools.product(given, found.space):
        if isinstance(d, Range):
            assert d.low <= config[d.name] <= d.high


@pytest.mark.parametrize(
    "space",
    ["x=1000:1000.5", "x=-5:1e-3", "lr=1.0001:1.0002", "decay=0.9:0.90001", "decay=0.9:0.99999999"],
)
def test_a_narrow_range_has_as_many_values_as_a_wide_one(space: str) -> None:
    found = at(None, space, method="random")
    run(found, score, 40)
    values = [next(iter(config.values())) for config in configs(found)]
    assert len(set(values)) > 35
    d = found.space[0]
    assert isinstance(d, Range)
    places = sorted(d.place(x) for x in values)
    assert places[5] < 0.4
    assert places[-5] > 0.6


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_a_search_that_was_interrupted_draws_what_it_would_have_drawn(method: str) -> None:
    whole = at(None, SPACES[0], method=method)

    def smooth(config: dict[str, Any], report: Any) -> float:
        return config["lr"] + config["x"] ** 2 + config["n"]

    run(whole, smooth, 16)
    memory = open_storage(None)
    calls = itertools.count(1)

    def cut(config: dict[str, Any], report: Any) -> float:
        if next(calls) % 4 == 0:
            raise KeyboardInterrupt
        return smooth(config, report)

    found = at(memory, SPACES[0], method=method)
    for _ in range(40):
        with contextlib.suppress(KeyboardInterrupt):
            run(at(memory, SPACES[0], method=method), cut, 16)
            break
    assert next(calls) > 20  # it was cut
    assert configs(found) == configs(whole)
    assert len({str(config) for config in configs(found)}) == 16


def test_tpe_learns_from_what_it_has_seen() -> None:
    def bowl(config: dict[str, Any], report: Any) -> float:
        return (config["x"] - 0.3) ** 2 + (config["y"] + 0.4) ** 2

    late = {}
    for method in ("random", "tpe"):
        found = at(None, "x=-1:1 y=-1:1", method=method)
        run(found, bowl, 40)
        late[method] = sorted(t.values[0] for t in found.trials()[20:])[10]
    assert late["tpe"] < late["random"] / 4


def test_another_seed_draws_something_else() -> None:
    found = [at(None, SPACES[0], method="random", seed=seed) for seed in (0, 1)]
    for one in found:
        run(one, lambda config, report: 1.0, 5)
    assert not {str(c) for c in configs(found[0])} & {str(c) for c in configs(found[1])}


# Failures


def test_a_config_that_fails_is_tried_once_and_the_rest_of_the_grid_too(kept: BaseStorage) -> None:
    given: list[dict[str, Any]] = []

    def objective(config: dict[str, Any], report: Any) -> float:
        given.append(config)
        if config["a"] == 0.0 or len(given) == 5:
            raise RuntimeError(f"cannot do {config['a']}")
        return score(config, report)

    found = at(kept)
    run(found, objective)
    assert given == found.grid
    assert [f["number"] for f in failures(found)] == [0, 1, 4]
    assert failures(found)[0]["why"].startswith("RuntimeError: cannot do 0.0 (test_search_study.py")
    run(at(kept), objective)
    assert len(given) == 8


@pytest.mark.parametrize(("budget", "tries"), [(8, 5), (3, 3)])
def test_a_search_that_only_fails_ends_and_begins_anew(
    kept: BaseStorage, budget: int, tries: int
) -> None:
    calls: list[Any] = []

    def broken(config: dict[str, Any], report: Any) -> float:
        calls.append(config)
        return float("nan")

    with pytest.raises(AllFailed, match=f"{tries} trials (all )?failed; the last: it returned nan"):
        run(at(kept), broken, budget)
    assert len(calls) == tries
    mended = at(kept)
    run(mended, score)
    assert_grid_once(mended)
    assert_grid_once(at(kept))
    assert failures(mended) == []


# Pruning


def test_pruning_stops_what_is_worse_than_the_median_and_keeps_what_was_reported() -> None:
    steps: list[int] = []

    def objective(config: dict[str, Any], report: Any) -> float:
        for step in range(10):
            report(step, config["a"])
            report(step, 100.0)  # the first of a step counts
            steps.append(step)
        return config["a"]

    found = at(None, "a=1,2,3,4,5,0,9,8")
    run(found, objective, 8, pruner=optuna.pruners.MedianPruner(5, 2))
    states = [t.state.name for t in found.trials()]
    assert states == ["COMPLETE"] * 6 + ["PRUNED"] * 2
    assert len(steps) == 6 * 10 + 2 * 2  # a warm-up of two steps
    pruned = found.trials()[-1]
    assert pruned.values == [8.0]
    assert set(pruned.intermediate_values.values()) == {8.0}


def test_a_report_that_is_not_finite_is_kept_and_prunes_nothing_good() -> None:
    def objective(config: dict[str, Any], report: Any) -> float:
        for step, value in enumerate((float("nan"), float("inf"), config["a"])):
            report(step, value)
        return config["a"]

    found = at(None, "a=1,2,3,4,5,0,9,8")
    run(found, objective, 8)
    assert [t.values for t in found.trials()] == [[x] for x in (1, 2, 3, 4, 5, 0, 9, 8)]


# From the outside


def test_tune_goes_on_and_refuses_another_objective(tmp_path: Path) -> None:
    calls = []

    def objective(config: dict[str, Any], report: Any) -> float:
        calls.append(config)
        return (config["x"] - 0.3) ** 2

    options: dict[str, Any] = {"storage": tmp_path / "s.db", "study": "s", "finalists": 0}
    tune(objective, {"x": (0.0, 1.0)}, trials=6, **options)
    found = tune(objective, {"x": (0.0, 1.0)}, trials=9, **options)
    assert len(calls) == 9
    assert len(found["trials"]) == 9
    with pytest.raises(ValueError, match=r"was begun with objective 'objective', not 'score'"):
        tune(score, {"x": (0.0, 1.0)}, trials=9, **options)
    with pytest.raises(ValueError, match="has the space"):
        tune(objective, {"x": (0.0, 2.0)}, trials=9, **options)
