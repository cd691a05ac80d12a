"""Response maps over surfaces: the bits of single runs, whatever the rule, axes, noise and threads."""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import rmsprop
import rmsprop.maps.lanes as lanes
from cases import RULES
from rmsprop import Rule
from rmsprop.entries import entries
from rmsprop.maps import Replicate, compiled_surface, run, surface_map, within
from rmsprop.schedules import named
from rmsprop.simulate import path
from rmsprop.space import Range
from rmsprop.surfaces import SURFACES, Surface, from_function

ROSENBROCK = SURFACES["rosenbrock"]
SLOW = dataclasses.replace(ROSENBROCK, jit=False)
ONES = np.ones(60)
LR, DECAY = Range("lr", 1e-3, 0.3, count=9), Range("decay", 0.5, 0.999, count=8)
RMSPROP = entries(["rmsprop"], [])


def single(
    surface: Surface, rule: Rule, one: Replicate, factors: np.ndarray
) -> tuple[float, float, float]:
    """The end of a run, its height over the last tenth and its first moment at the target, from `path`."""
    found = path(
        surface, rule, one.start, len(factors),
        learning_rate=lambda t: rule.lr * factors[t], seed=one.seed,
    )  # fmt: skip
    tail = found.losses[-max(1, len(found.losses) // 10) :] - (surface.minimum or 0.0)
    with np.errstate(all="ignore"):
        height = float(np.exp(np.log(np.maximum(tail, lanes.SMALLEST)).mean()))
    if one.target is None:
        return found.losses[-1], height, math.nan
    if surface.minimum is None:
        there = np.array([not surface.contains(x, y) for x, y in found.positions])
    else:
        there = found.losses - surface.minimum <= one.target
    return found.losses[-1], height, float(there.argmax()) if there.any() else math.nan


def assert_same(
    surface: Surface,
    rule: Rule,
    x: Any,
    y: Any,
    replicates: Any,
    factors: Any = ONES,
    cells: int = 12,
    reference: Surface | None = None,
) -> lanes.Ends:
    """A map equals the single runs of some of its cells, corners included, to the bit."""
    ends = run(surface, rule, x, y, replicates, factors)
    shape = (len(replicates), len(y[1]), len(x[1]))
    assert ends.losses.shape == shape
    drawn = np.random.default_rng(1).integers(0, shape, (cells, 3)).tolist()
    corners = [[0, i, j] for i in (0, shape[1] - 1) for j in (0, shape[2] - 1)]
    for r, i, j in [*corners, *drawn]:
        cell = rule.replace(**{x[0]: x[1][j], y[0]: y[1][i]})
        loss, height, step = single(reference or surface, cell, replicates[r], np.asarray(factors))
        np.testing.assert_array_equal(ends.losses[r, i, j], loss, err_msg=f"{cell}")
        if surface.minimum is not None and np.isfinite(loss):
            np.testing.assert_allclose(ends.heights[r, i, j], height, rtol=1e-12, err_msg=f"{cell}")
        if ends.steps is not None:
            np.testing.assert_array_equal(ends.steps[r, i, j], step, err_msg=f"{cell}")
    return ends


AXES = {
    "lr": np.geomspace(1e-4, 0.5, 11),
    "decay": np.array([0.0, 0.3, 0.9, 0.99, 0.9999]),
    "momentum": np.array([0.1, 0.5, 0.9, 0.99]),
    "eps": np.array([0.0, 1e-8, 1e-3, 1.0, 10.0]),
    "weight_decay": np.array([1e-6, 1e-3, 0.1, 1.0, 2.0]),
    "initial_scale": np.array([0.0, 0.1, 1.0, 10.0]),
    "clip_value": np.geomspace(1e-2, 1e3, 7),
    "clip_norm": np.geomspace(1e-2, 1e3, 7),
    "clip_global_norm": np.geomspace(1e-2, 1e3, 7),
}
KEPT = {  # each switch, in one rule or another, each with two axes that matter to it
    "plain": ("lr", "decay"),
    "inside": ("eps", "initial_scale"),
    "nesterov": ("lr", "momentum"),
    "nesterov-in": ("clip_value", "momentum"),
    "graves": ("decay", "momentum"),
    "centered-all": ("decay", "weight_decay"),
    "coupled": ("weight_decay", "lr"),
    "decoupled-all": ("clip_norm", "decay"),
    "corrected-all": ("decay", "momentum"),
    "clip-global-norm": ("clip_global_norm", "momentum"),
    "sgd": ("weight_decay", "momentum"),
    "adagrad-all": ("lr", "initial_scale"),
    "adam": ("lr", "decay"),
}


# Where powers and norms are Numba's own, the single run is compiled too; elsewhere Python's is the same to
# the bit, and has nothing to compile. "plain" and "graves" compare with both.
COMPILED = ("plain", "graves", "decoupled-all", "corrected-all", "clip-global-norm", "adam")


def axis(name: str) -> tuple[str, np.ndarray]:
    return name, AXES[name]


@pytest.mark.parametrize(("name", "names"), KEPT.items(), ids=KEPT)
def test_a_cell_is_the_single_run_of_its_rule_to_the_bit(name, names):
    x, y, rule = axis(names[0]), axis(names[1]), RULES[name]
    if rule.second_moment == "none":
        rule = rule.replace(lr=1e-4)  # or all diverge
    factors = np.asarray([named("cosine", 1.0, 60)(t) for t in range(60)])
    replicates = [Replicate(p) for p in ((-1.5, 2.5), (0.3, -0.4), (1.9, 1.9))]
    reference = ROSENBROCK if name in COMPILED else SLOW
    ends = assert_same(ROSENBROCK, rule, x, y, replicates, factors, reference=reference)
    if name in ("plain", "graves"):
        assert_same(ROSENBROCK, rule, x, y, replicates, factors, reference=SLOW)
    assert len(np.unique(ends.losses[0])) > ends.losses[0].size / 2
    turned = run(ROSENBROCK, rule, y, x, replicates, factors)
    np.testing.assert_array_equal(turned.losses, np.swapaxes(ends.losses, 1, 2))


@pytest.mark.parametrize(
    "rule", [Rule(), Rule(lr_in_momentum=True, decoupled_weight_decay=True)], ids=str
)
def test_a_switch_that_is_off_at_one_end_of_an_axis_changes_no_bit_there(rule):
    """Momentum and weight decay compiled in, but zero, come to the numbers of the rule without them."""
    one = Replicate(ROSENBROCK.start)
    ends = run(
        ROSENBROCK, rule, ("momentum", [0.0, 0.5]), ("weight_decay", [0.0, 0.5]), [one], ONES
    )
    assert ends.losses[0, 0, 0] == single(ROSENBROCK, rule, one, ONES)[0]
    assert len(np.unique(ends.losses)) == 4


@pytest.mark.parametrize("name", ["quadratic", "ackley", "saddle"])
def test_any_surface_and_the_steps_to_its_target(name):
    surface = SURFACES[name]
    start, goal = surface.start, 0.0
    if surface.minimum is not None:
        goal = 0.3 * (surface.value(*start) - surface.minimum)
    replicates = [Replicate(start, target=goal), Replicate((start[0] / 2, start[1]), target=goal)]
    x, y = ("lr", np.geomspace(1e-3, 3.0, 14)), axis("decay")
    ends = assert_same(surface, Rule(), x, y, replicates)
    assert ends.steps is not None
    assert np.isnan(ends.steps).any()
    assert len(np.unique(ends.steps)) > 5
    if name == "quadratic":  # one is enough: each compiles anew
        without = run(surface, Rule(), x, y, [r._replace(target=None) for r in replicates], ONES)
        assert without.steps is None
        np.testing.assert_array_equal(without.losses, ends.losses)


def test_a_start_at_the_target_takes_no_step():
    here = [Replicate((-1.5, 2.5), target=12.5), Replicate((-1.5, 2.5), target=12.49)]
    steps = run(ROSENBROCK, Rule(), ("lr", [0.1, 0.2]), ("decay", [0.9, 0.99]), here, ONES).steps
    assert steps is not None
    assert (steps[0] == 0).all()
    assert (steps[1] >= 1).all()


def test_noise_is_that_of_the_seed_and_the_same_for_all_cells():
    noisy = ROSENBROCK.with_noise(0.5)
    replicates = [Replicate(p, seed) for p in ((-1.5, 2.5), (0.5, 0.5)) for seed in (3, 0, 4)]
    ends = assert_same(noisy, Rule(momentum=0.9), axis("lr"), axis("eps"), replicates, cells=20)
    assert len(np.unique(ends.losses)) == ends.losses.size
    flat = from_function(
        lambda x, y: x + y, lambda x, y: (0.0, 0.0), name="flat", jit=True, check=False
    )
    sgd = Rule.from_dialect("sgd")
    runs = run(
        flat.with_noise(1.0),
        sgd,
        ("lr", [0.5, 1.0]),
        ("eps", [0.1, 0.2]),
        [Replicate((0, 0))],
        ONES,
    )
    np.testing.assert_allclose(runs.losses[..., 1], 2 * runs.losses[..., 0])
    one_number = SURFACES["quadratic"].with_noise(0.5)
    assert_same(one_number, Rule(), axis("lr"), axis("decay"), replicates)


@pytest.mark.parametrize(
    ("rows", "columns"), [(1, 1), (1, 65), (64, 1), (63, 3), (5, 13), (2, 128)]
)
def test_ragged_sizes(rows, columns):
    x, y = np.geomspace(1e-3, 0.5, columns), 1 - np.geomspace(1e-3, 0.7, rows)
    adam = Rule.from_dialect("adam")
    for a, b in ((("lr", x), ("decay", y)), (("decay", y), ("lr", x))):
        assert_same(ROSENBROCK, adam, a, b, [Replicate((0.5, 0.2), target=1e-2)], cells=6)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch):
    used, told = [], []

    class Pool(lanes.ThreadPoolExecutor):
        def __init__(self, workers: int):
            used.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(lanes, "ThreadPoolExecutor", Pool)
    x, y = ("lr", np.geomspace(1e-4, 1, 67)), ("decay", 1 - np.geomspace(1e-4, 0.5, 41))
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            two = [Replicate((-1.5, 2.5), target=1.0), Replicate((1, 2), target=1.0)]
            found.append(run(ROSENBROCK, Rule(), x, y, two, np.ones(200), told.append))
    finally:
        numba.set_num_threads(before)
    assert used == [2]
    assert told == [1.0, *[k / 8 for k in range(1, 9)]]
    np.testing.assert_array_equal(found[0].losses, found[1].losses)
    np.testing.assert_array_equal(found[0].steps, found[1].steps)


def test_what_progress_raises_ends_the_runs(monkeypatch):
    done = []

    def stop(share: float) -> None:
        done.append(share)
        raise KeyboardInterrupt

    x, y = ("lr", np.geomspace(1e-4, 1, 128)), ("decay", np.linspace(0, 0.99, 64))
    with pytest.raises(KeyboardInterrupt):
        run(ROSENBROCK, Rule(), x, y, [Replicate((0, 0))], np.ones(100), stop)
    assert len(done) == 1


def test_maps_run_uncompiled(tmp_path):
    """What a debugger, or a machine that cannot compile, runs: the same bits as `path` there."""
    code = """
import numpy as np
from rmsprop import Rule
from rmsprop.maps import Replicate, run
from rmsprop.simulate import path
from rmsprop.surfaces import SURFACES
surface = SURFACES["rosenbrock"].with_noise(0.1)
rule = Rule.from_dialect("adam", clip_norm=3.0)
one = [Replicate((-1.0, 2.0), 4, target=9.0)]
x, y = ("lr", [0.01, 0.1, 0.3]), ("decay", [0.9, 0.99])
ends = run(surface, rule, x, y, one, np.ones(30))
for i, j in np.ndindex(2, 3):
    found = path(surface, rule.replace(lr=x[1][j], decay=y[1][i]), (-1.0, 2.0), 30, seed=4)
    assert ends.losses[0, i, j] == found.losses[-1]
    there = found.losses <= 9.0
    assert ends.steps[0, i, j] == there.argmax() if there.any() else np.isnan(ends.steps[0, i, j])
try:
    run(surface, rule, ("lr", np.linspace(0.1, 1, 200)), ("eps", np.linspace(0, 1, 200)), one, np.ones(600))
except ValueError as error:
    print(error)
"""
    environment = os.environ | {
        "NUMBA_DISABLE_JIT": "1",
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(Path(rmsprop.__file__).parents[1]),
    }
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "24,000,000 steps in plain Python" in done.stdout
    assert "unset NUMBA_DISABLE_JIT" in done.stdout
    assert not list(tmp_path.rglob("*.nb*")), "nothing was compiled"


# A user's own function


def test_a_function_of_ones_own_is_compiled_where_numba_can():
    def bowl(x, y):
        return x**2 + 3 * y**2 + x * y

    mine = from_function(bowl, name="sphere", minima=[(0, 0)])
    compiled = compiled_surface(mine)
    assert not mine.jit
    assert compiled.jit
    assert compiled_surface(mine) is compiled
    assert math.isnan(compiled.value(math.inf, 0.0))
    given = compiled_surface(from_function(bowl, lambda x, y: [2 * x + y, 6 * y + x], name="bowl"))
    assert given.jit
    assert given.gradient(1, 2) == (4.0, 13.0)
    assert compiled_surface(from_function(math.hypot, name="cone")).jit
    ends = assert_same(
        compiled, Rule(), axis("lr"), axis("decay"), [Replicate((2.0, 1.0))], cells=6
    )
    # Python's x**2 and differences round otherwise
    loss, *_ = single(mine, Rule(lr=AXES["lr"][3], decay=0.9), Replicate((2.0, 1.0)), ONES)
    assert ends.losses[0, 2, 3] == pytest.approx(loss, rel=1e-6)


def test_a_function_that_numba_cannot_compile_runs_in_python_or_is_refused():
    table = {"a": [3.0, 4.0]}

    def odd(x, y):
        return table["a"][0] * x * x + sum(map(abs, [y, 0.5 * y]))

    mine = from_function(odd, name="odd")
    assert compiled_surface(mine) is mine
    x, y = ("lr", [0.01, 0.1, 0.5]), ("decay", [0.9, 0.99])
    assert_same(
        mine, Rule(momentum=0.5), x, y, [Replicate((2.0, 1.0), target=0.5)], ONES[:20], cells=4
    )
    wide = ("lr", np.geomspace(1e-4, 1, 300))
    with pytest.raises(
        ValueError, match=r"30,000,000 steps in plain Python take about 2 minutes.*`math`"
    ):
        run(
            mine,
            Rule(),
            wide,
            ("decay", np.linspace(0, 0.9, 100)),
            [Replicate((1, 1))],
            np.ones(1000),
        )


def test_a_function_that_numba_would_compute_otherwise_stays_in_python():
    def whole(x, y):
        return x * x + float(3**50 * 10 // 3**50) * y * y  # beyond 64 bits

    def later(x, y, n=45):
        return x * x + y * y + float(int(n) ** 15 % 7)

    for f in (whole, later):
        mine = from_function(f, name="whole")
        stayed = compiled_surface(mine)
        assert stayed.value(1.0, 2.0) == mine.value(1.0, 2.0)


# Refused


@pytest.mark.parametrize(
    ("rule", "x", "y", "message"),
    [
        (Rule(), ("lr", [0.1]), ("lr", [0.2]), "two numbers of the rule; got lr for both"),
        (Rule(), ("rate", [0.1]), ("lr", [0.2]), "no number of a rule is named 'rate'"),
        (Rule(), ("centered", [0.1]), ("lr", [0.2]), "no number of a rule is named 'centered'"),
        (Rule(), ("decay", [0.5, 1.0]), ("lr", [0.2]), r"decay must be a number in \[0, 1\)"),
        (
            Rule(nesterov=True, momentum=0.9),
            ("momentum", [0, 0.9]),
            ("lr", [1]),
            "nesterov=True needs mom",
        ),
        (Rule(), ("clip_norm", [0.0, 1.0]), ("lr", [0.2]), "clip_norm must be a number above 0"),
        (Rule(), ("clip_norm", [1.0]), ("clip_value", [1.0]), "one clip at a time"),
        (Rule(clip_value=1.0), ("clip_norm", [1.0]), ("lr", [1.0]), "one clip at a time"),
    ],
)
def test_axes_that_a_rule_cannot_take(rule, x, y, message):
    with pytest.raises(ValueError, match=message):
        run(ROSENBROCK, rule, x, y, [Replicate((0, 0))], ONES)


def test_replicates_have_a_target_all_or_none():
    x, y = axis("lr"), axis("decay")
    for replicates in ([], [Replicate((0, 0), target=1.0), Replicate((0, 0))]):
        with pytest.raises(
            ValueError, match="one replicate or more, all with a target or all without"
        ):
            run(ROSENBROCK, Rule(), x, y, replicates, ONES)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"y": Range("lr", 0.1, 1)}, ValueError, "two numbers of the rule; got lr for both"),
    ({"y": Range("beta", 0.1, 1)}, ValueError, "beta"),
    ({"y": Range("centered", 0.1, 1)}, ValueError, "centered is a switch"),
    (
        {"y": Range("momentum", 0.1, 1.5, "linear")},
        ValueError,
        r"momentum must be a number in \[0, 1\]",
    ),
    ({"outcome": "speed"}, ValueError, "outcome must be one of loss, final, steps; got 'speed'"),
    ({"target": 0.0}, ValueError, "target must be a height above 0"),
    ({"target": math.nan}, ValueError, "target must be finite"),
    ({"steps": 0}, ValueError, "steps must be 1 or more"),
    ({"steps": 2.5}, TypeError, "steps must be a whole number; got 2.5"),
    ({"seeds": 2}, ValueError, "seeds are draws of the noise"),
    ({"seeds": 0, "surface": ROSENBROCK.with_noise(1)}, ValueError, "seeds must be 1 or more"),
    ({"schedule": "zigzag"}, ValueError, "schedule must be one of"),
    ({"starts": 0}, ValueError, "starts must be 1 or more, or points; got 0"),
    ({"starts": []}, ValueError, "starts must be 1 or more; got none"),
    ({"starts": 1.5}, TypeError, "starts must be points or how many; got 1.5"),
    ({"starts": [(1.0, math.nan)]}, ValueError, "two finite numbers"),
    ({"starts": [(1.0, 1.0)]}, ValueError, "must start above the minimum of rosenbrock"),
    (
        {"starts": 100_000},
        ValueError,
        "a map has at most 4,000,000 runs; got 9 x 8 cells of 100000 starts",
    ),
    ({"surface": SURFACES["saddle"], "outcome": "loss"}, ValueError, "take outcome='steps'"),
    (
        {"surface": SURFACES["saddle"], "target": 1.0},
        ValueError,
        "the target is to leave the domain",
    ),
    ({"competitors": []}, ValueError, "name at least one optimizer"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD, ids=[b[2][:40] for b in BAD])
def test_a_study_that_cannot_be_is_refused(change, error, message):
    given = {"surface": ROSENBROCK, "competitors": RMSPROP, "x": LR, "y": DECAY} | change
    first = [given.pop(name) for name in ("surface", "competitors", "x", "y")]
    with pytest.raises(error, match=message):
        surface_map(*first, **given)


# The study


def test_a_study_sums_up_the_runs_of_each_cell():
    noisy, told = ROSENBROCK.with_noise(0.2), []
    study = surface_map(
        noisy, entries(["rmsprop", "adam"], []), LR, DECAY, starts=3, steps=60, seeds=2,
        schedule="cosine", target=0.5, progress=told.append,
    )  # fmt: skip
    points = study["settings"]["starts"]
    assert points[0] == [-1.5, 2.5]
    assert all(ROSENBROCK.contains(*point) for point in points)
    assert len({tuple(point) for point in points}) == 3
    assert told[-1] == 1.0
    assert told == sorted(told)
    assert study["steps_done"] == 2 * 9 * 8 * 6 * 60
    assert study["x"] == {"name": "lr", "low": 1e-3, "high": 0.3, "scale": "log", "count": 9}
    assert (study["kind"], study["settings"]["targets"]) == ("map", [0.5] * 3)
    assert study["versions"]["numba"]
    schedule = np.array([named("cosine", 1.0, 60)(t) for t in range(60)])
    for found, e in zip(study["maps"], entries(["rmsprop", "adam"], []), strict=True):
        assert (found["label"], found["rule"]) == (e.label, e.rule.to_dict())
        for i, j in ((0, 0), (7, 8), (3, 4)):
            rule = e.rule.replace(lr=LR.values()[j], decay=DECAY.values()[i])
            runs = [
                single(noisy, rule, Replicate((p[0], p[1]), seed, 0.5), schedule)
                for p in points
                for seed in (0, 1)
            ]
            losses, heights, steps = np.transpose(runs)
            for name, values in (("final", losses), ("loss", heights)):
                expected = np.exp(np.log(values).mean())
                np.testing.assert_allclose(found[name][i, j], expected, rtol=1e-12)
            np.testing.assert_allclose(found["steps"][i, j], steps.mean(), rtol=1e-14)


def test_cells_that_diverge_count_and_do_not_win():
    sgd = entries(["sgd"], [])
    decay = Range("weight_decay", 0.0, 0.1, "linear", count=3)
    lr = Range("lr", 1e-4, 1.0, count=25)
    study = surface_map(
        ROSENBROCK, sgd, lr, decay, starts=[(-1.5, 2.5), (1.1, 1.1)], outcome="steps"
    )
    found = study["maps"][0]
    assert set(np.unique(found["diverged"])) == {0.0, 0.5, 1.0}
    assert np.isnan(found["loss"][found["diverged"] > 0]).all()
    assert np.isnan(found["steps"][found["diverged"] > 0]).all()
    assert np.isfinite(found["loss"][found["diverged"] == 0]).all()
    assert found["diverged"][:, -1].all()
    hot = Range("lr", 1e3, 1e4, count=3)
    lost = surface_map(ROSENBROCK, sgd, hot, decay)["maps"][0]
    assert (lost["best"], lost["tunability"]) == (None, 0.0)
    assert (lost["diverged"] == 1).all()


def test_the_best_cell_and_the_share_of_those_as_good():
    entry = entries(["rmsprop"], [])
    start = 12.5
    for outcome in ("loss", "steps"):
        found = surface_map(
            ROSENBROCK, entry, Range("lr", 1e-4, 1, count=40), DECAY, steps=2000, outcome=outcome
        )["maps"][0]
        cells, best = found[outcome], found["best"]
        assert best["outcome"] == np.nanmin(cells) == cells[best["row"], best["column"]]
        assert best["y"] == DECAY.values()[best["row"]]
        assert best["at_edge"] == (best["row"] in (0, 7) or best["column"] in (0, 39))
        count = 0
        for cell in cells.ravel():
            if outcome == "steps":
                count += cell == cell and 1 / cell >= 0.95 / best["outcome"]
            else:
                most = min(math.log10(start / best["outcome"]), 16)
                count += cell == cell and min(math.log10(start / cell), 16) >= 0.95 * most
        assert 0 < count < cells.size
        assert found["tunability"] == count / cells.size == within(found).mean()


def test_of_equally_good_cells_the_best_is_in_their_middle():
    momentum = Range("momentum", 0.0, 0.9, "linear", count=9)
    lr = Range("lr", 1e-3, 0.45, "linear", count=21)
    found = surface_map(SURFACES["sphere"], entries(["sgd"], []), lr, momentum, steps=6000)["maps"][
        0
    ]
    ties = np.argwhere(found["loss"] == found["loss"].min())
    assert found["loss"].min() == pytest.approx(1e-200)
    assert len(ties) > 20
    assert not found["best"]["at_edge"]
    assert found["tunability"] >= len(ties) / found["loss"].size


def test_where_the_best_is_no_better_than_the_start_none_is_good():
    cells = np.array([[20.0, 13.0], [math.nan, 500.0]])
    assert not within({"outcome": "loss", "loss": cells, "start": 12.5}).any()
    assert not within({"outcome": "loss", "loss": cells * math.nan, "start": 12.5}).any()


def test_a_saddle_is_left():
    saddle = SURFACES["saddle"]
    study = surface_map(saddle, RMSPROP, Range("lr", 1e-4, 0.1, count=12), DECAY, steps=300)
    found = study["maps"][0]
    assert study["settings"]["outcome"] == "steps"
    assert np.isnan(found["loss"]).all()
    assert found["best"]["column"] == 11
    *_, step = single(
        saddle, Rule(lr=0.1, decay=0.5), Replicate(saddle.start, target=0.0), np.ones(300)
    )
    assert found["steps"][0, 11] == step
    assert np.isnan(found["steps"][:, 0]).all()


def test_where_the_defaults_of_the_frameworks_lie():
    wide = Range("lr", 1e-5, 1, count=2)
    study = surface_map(
        ROSENBROCK,
        entries(["rmsprop", "adam"], []),
        wide,
        Range("decay", 0.5, 0.95, count=2),
        steps=2,
    )
    assert study["maps"][1]["dialects"] == []
    keras, optax, tf1 = study["maps"][0]["dialects"]  # PyTorch's decay, 0.99, is outside
    assert (keras["label"], keras["x"], keras["y"]) == ("Keras", 0.001, 0.9)
    whole = path(ROSENBROCK, Rule.from_dialect("keras"), ROSENBROCK.start, 2)
    assert keras["outcome"] == pytest.approx(whole.losses[-1], rel=1e-12)
    assert optax == {"label": "Optax", "x": None, "y": 0.9, "outcome": None}
    assert tf1 == {"label": "TensorFlow 1", "x": None, "y": 0.9, "outcome": None}
    clip = surface_map(ROSENBROCK, RMSPROP, wide, Range("clip_norm", 0.1, 1, count=2), steps=2)
    assert clip["maps"][0]["dialects"] == [
        {"label": "PyTorch", "x": 0.01, "y": None, "outcome": None},
        {"label": "Keras", "x": 0.001, "y": None, "outcome": None},
    ]
