"""The pictures, by what is drawn on them: Matplotlib's own artists, and the files that come out."""

import io
import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from rmsprop import plots
from rmsprop.compare_surfaces import compare_surface
from rmsprop.entries import entries, fixed_entries
from rmsprop.simulate import path
from rmsprop.surfaces import SURFACES, Surface, from_function
from rmsprop.tasks import Task
from test_compare import digits_study, noisy_study, slow, surface_study

ROSENBROCK = SURFACES["rosenbrock"]
B9_B13 = ["rmsprop:lr=0.01", "sgd:lr=0.001", "adam:lr=0.01"]
A9 = ["rmsprop:lr=0.01", "adagrad:lr=0.01", "adam:lr=0.01"]


def study(surface: Surface, names: list[str], **options: Any) -> list[dict[str, Any]]:
    return compare_surface(surface, fixed_entries(names), **options)["entries"]


def axes_of(surface: Surface, found: Any, **options: Any) -> Axes:
    ax = Figure().subplots()
    plots.draw_paths(ax, surface, found, **options)
    return ax


def labelled(ax: Axes, label: str) -> Line2D:
    lines = [line for line in ax.lines if line.get_label() == label]
    assert len(lines) == 1, label
    return lines[0]


def data(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xydata(), dtype=float)


def render(figure: Figure) -> None:
    """Draw all of it, small: what Matplotlib cannot draw, it says only now."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)


# Surfaces: what the slides A9, B9 and B13 meant to draw


@pytest.mark.parametrize(
    ("names", "start"), [(B9_B13, (-1.5, 2.5)), (A9, (-1.0, 2.0))], ids=["B9-B13", "A9"]
)
def test_the_slides_trajectories_are_on_the_contours(names, start):
    competitors = fixed_entries(names)
    found = compare_surface(ROSENBROCK, competitors, start=start, steps=1000)["entries"]
    figure = plots.surface_overview(ROSENBROCK, found)
    ax, heights, rates, averages, bar = figure.axes
    for e in competitors:
        walked = path(ROSENBROCK, e.rule, start, 1000)
        drawn = data(labelled(ax, e.label))
        assert drawn.shape == (1001, 2)
        assert drawn[0].tolist() == list(start)
        np.testing.assert_allclose(drawn, walked.positions, rtol=1e-6)
        drawn = data(labelled(heights, e.label))
        np.testing.assert_array_equal(drawn[:, 0], np.arange(1001))
        np.testing.assert_allclose(drawn[:, 1], walked.losses, rtol=1e-6)
        expected = [walked.rates[:, 0], walked.rates[:, 1]]
        lines = [np.asarray(line.get_ydata(), float) for line in rates.lines]
        for curve in expected:
            assert any(np.allclose(curve, line, rtol=1e-6) for line in lines)
    assert heights.get_yscale() == rates.get_yscale() == averages.get_yscale() == "log"
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "minimum", *(e.label for e in competitors)
    }  # fmt: skip
    assert bar.get_ylabel() == "f"


def test_the_contours_are_log_spaced_with_a_bar_that_belongs_to_them():
    ax = axes_of(ROSENBROCK, study(ROSENBROCK, B9_B13, steps=5))
    (contours,) = (c for c in ax.collections if isinstance(c, QuadContourSet))
    ratios = np.diff(np.log(np.asarray(contours.levels, float)))
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)
    assert len(ratios) >= 15
    assert max(contours.levels) == pytest.approx(
        max(ROSENBROCK.value(x, y) for x in (-2, 2) for y in (-1, 3))
    )
    assert isinstance(contours.norm, colors.LogNorm)
    assert contours.colorbar is not None
    assert contours.colorbar.mappable is contours
    assert (ax.get_xlim(), ax.get_ylim()) == ROSENBROCK.domain
    for level, lines in zip(contours.levels, contours.allsegs, strict=True):
        for x, y in (
            np.concatenate(lines)[::20] if level > 10 else []
        ):  # the valley is narrower than the grid
            assert ROSENBROCK.value(x, y) == pytest.approx(level, rel=0.1)


@pytest.mark.parametrize("name", ["rosenbrock", "himmelblau", "goldstein-price"])
def test_every_minimum_is_marked(name):
    surface = slow(name)
    ax = axes_of(surface, study(surface, ["rmsprop"], steps=5))
    stars = [data(line)[0].tolist() for line in ax.lines if line.get_marker() == "*"]
    assert stars == [list(point) for point in surface.minima]
    assert labelled(ax, "minimum").get_zorder() > labelled(ax, "RMSprop").get_zorder()


def test_competitors_can_be_told_apart_and_the_first_lies_on_top():
    names = ["rmsprop", "sgd:lr=1e-4", "adam", "adagrad", "momentum:lr=1e-5", "nesterov:lr=1e-5",
             "adamw", "rmsprop-keras", "rmsprop-torch", "rmsprop-tf1"]  # fmt: skip
    ax = axes_of(ROSENBROCK, study(ROSENBROCK, names, steps=3))
    lines = [line for line in ax.lines if len(data(line)) == 4]
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(lines) == len(looks) == 10
    assert [line.get_zorder() for line in lines] == sorted(
        (x.get_zorder() for x in lines), reverse=True
    )


@pytest.mark.parametrize("ends", [True, False])
def test_ends_are_marked_unless_the_paths_still_grow(ends):
    found = study(ROSENBROCK, ["rmsprop"], steps=20)
    ax = axes_of(ROSENBROCK, found, ends=ends)
    end = found[0]["path"]["positions"][-1]
    assert any(data(line).tolist() == [end] for line in ax.lines) == ends


def test_one_dimension_is_a_curve_with_the_path_on_it():
    quadratic = SURFACES["quadratic"]
    found = study(quadratic, ["sgd:lr=0.9"], start=(4.0, 0.0), steps=50)
    ax = axes_of(quadratic, found)
    drawn = data(labelled(ax, "SGD"))
    np.testing.assert_allclose(drawn[:, 0], 4 * (-0.8) ** np.arange(51), rtol=1e-6)
    np.testing.assert_allclose(drawn[:, 1], drawn[:, 0] ** 2)
    curve = data(ax.lines[0])
    np.testing.assert_allclose(curve[:, 1], curve[:, 0] ** 2)
    assert (curve[0, 0], curve[-1, 0]) == (-5.0, 5.0)


def test_the_minimum_of_a_curve_lies_on_the_curve():
    lifted = Surface(
        "lifted", lambda x, y: (x - 1.0) ** 2 + 3.0, lambda x, y: (2.0 * (x - 1.0), 0.0),
        ((-5, 5), (-5, 5)), (-4, 0), ((1, 0),), 3.0, "(x - 1)^2 + 3", dim=1, jit=False,
    )  # fmt: skip
    ax = axes_of(lifted, study(lifted, ["rmsprop"], steps=5))
    assert data(labelled(ax, "minimum")).tolist() == [[1.0, 3.0]]


@pytest.mark.parametrize(
    ("name", "optimizers", "steps"),
    [
        ("rosenbrock", ["sgd:lr=1", "rmsprop"], 100),
        ("quadratic", ["sgd:lr=1.5", "rmsprop"], 3000),
        ("monkey-saddle", ["sgd:lr=1"], 60),
        ("sphere", ["rmsprop"], 1),
    ],
)
def test_paths_that_diverge_or_end_at_once_are_drawn_without_a_warning(name, optimizers, steps):
    found = study(slow(name), optimizers, steps=steps)
    if steps > 1:
        assert None in found[0]["path"]["heights"][0]
    render(plots.surface_overview(slow(name), found))


def test_a_competitor_without_a_path_is_left_out():
    options: dict[str, Any] = {"steps": 50, "lr_range": (1.0, 10.0), "budget": 3}
    found = compare_surface(ROSENBROCK, entries(["rmsprop", "sgd"], []), **options)["entries"]
    assert found[1]["path"] is None
    figure = plots.surface_overview(ROSENBROCK, found)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["RMSprop", "minimum"]
    render(figure)
    render(plots.sensitivity(found, "height", log=True))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: math.log(x) + y * y if x > 0 else math.nan,
        lambda x, y: 1 / (x * x) if x else math.inf,
        lambda x, y: 2.0,
        lambda x, y: -1e6 + x,
    ],
    ids=["undefined in half", "infinite on a line", "flat", "a slope"],
)
def test_a_function_of_ones_own_is_drawn_where_it_is_defined(function):
    mine = from_function(function, name="mine", start=(2.0, 1.0))
    with warnings.catch_warnings():
        # Of a flat function there is nothing that a log axis could show.
        warnings.filterwarnings("ignore", "Data has no positive values")
        render(plots.surface_overview(mine, study(mine, ["rmsprop"], steps=20)))


# Tasks


def test_loss_curves_are_medians_in_a_band_over_all_seeds():
    found = digits_study()["entries"]
    figure = plots.loss_curves(found)
    for ax, name in zip(figure.axes, ("train_loss", "validation_loss"), strict=True):
        assert ax.get_yscale() == "log"
        for e, band in zip(found, ax.collections, strict=True):
            values = np.array([run[name] for run in e["runs"]])
            drawn = data(labelled(ax, e["label"]))
            np.testing.assert_array_equal(drawn[:, 0], e["runs"][0]["steps"])
            np.testing.assert_allclose(drawn[:, 1], np.median(values, axis=0))
            corners = band.get_paths()[0].vertices
            assert np.min(corners[:, 1]) == pytest.approx(values.min())  # type: ignore[index]
            assert np.max(corners[:, 1]) == pytest.approx(values.max())  # type: ignore[index]
    assert len(figure.legends[0].get_texts()) == 4


def test_runs_that_diverged_are_not_in_the_curves():
    first = digits_study()["entries"][0]
    lost = first["runs"][0] | {"diverged": True, "train_loss": [1.0, None], "steps": [0, 1]}
    figure = plots.loss_curves(
        [first | {"runs": [lost, *first["runs"][1:]]}, first | {"runs": [lost]}]
    )
    drawn = data(labelled(figure.axes[0], "RMSprop"))
    expected = np.median([run["train_loss"] for run in first["runs"][1:]], axis=0)
    np.testing.assert_allclose(drawn[:, 1], expected)


def test_score_curves_mark_the_target():
    found = digits_study()["entries"]
    for target, lines in ((0.95, 1), (None, 0)):
        for ax in plots.score_curves(found, "accuracy", target).axes:
            marks = [line for line in ax.lines if line.get_label() == "target"]
            assert len(marks) == lines
            assert all(set(np.asarray(mark.get_ydata())) == {target} for mark in marks)
            drawn = data(labelled(ax, "SGD"))[:, 1]
            expected = np.median([run["validation_score"] for run in found[1]["runs"]], axis=0)
            np.testing.assert_allclose(drawn, expected)


def test_sensitivity_shows_every_rate_rings_the_chosen_and_crosses_the_lost():
    found = surface_study()["entries"]
    (ax,) = plots.sensitivity(found, "height", log=True).axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    rings = [data(line)[0].tolist() for line in ax.lines if line.get_markersize() == 10]
    crosses = [data(line)[:, 0].tolist() for line in ax.lines if line.get_marker() == "x"]
    for k, e in enumerate(found):
        rows = [row for row in e["search"] if row["mean"] is not None]
        drawn = data(labelled(ax, e["label"])).tolist()
        assert drawn == [[row["lr"], row["mean"]] for row in rows]
        assert rings[k] == [e["lr"], next(row["mean"] for row in rows if row["lr"] == e["lr"])]
        assert crosses[k] == [row["lr"] for row in e["search"] if row["diverged"]]
    assert crosses[1]  # SGD does diverge


def test_effective_rates_have_a_panel_for_each_array_of_weights():
    found = digits_study()["entries"]
    figure = plots.effective_rates(found)
    assert figure is not None
    assert [ax.get_title() for ax in figure.axes] == ["w1", "b1", "w2", "b2"]
    for ax in figure.axes:
        assert ax.get_yscale() == "log"
        labels = [line.get_label() for line in ax.lines]
        assert labels == ["RMSprop", "Adam", "RMSprop (keras)"]  # SGD has none
        run = found[0]["runs"][0]
        drawn = data(labelled(ax, "RMSprop"))
        np.testing.assert_array_equal(drawn[:, 0], run["steps"][1:])
        np.testing.assert_allclose(drawn[:, 1], [row[1] for row in run["rates"][ax.get_title()]])
    assert plots.effective_rates(found[1:2]) is None


def test_predictions_show_the_rows_they_name_and_colour_the_mistakes():
    dataset, run = Task.of("digits").dataset, digits_study()["entries"][0]["runs"][0]
    figure = plots.predictions(dataset.images, dataset.test.y, dataset.classes, run["examples"])
    assert len(run["examples"]) > 10
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == len(run["examples"])
    for ax, (k, says) in zip(shown, run["examples"], strict=True):
        assert dataset.images is not None
        np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), dataset.images[k])
        right = dataset.test.y[k] == says
        assert ax.get_title() == (str(says) if right else f"{says}, not {dataset.test.y[k]}")
        assert (ax.title.get_color() == "#B00020") == (not right)


# Files


@pytest.fixture(scope="module")
def figure() -> Figure:
    drawn = Figure(figsize=(2, 2))
    drawn.subplots().plot([0, 1], [0, 1])
    return drawn


@pytest.mark.parametrize(
    ("ending", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_figure_is_saved_as_its_ending_says(figure, tmp_path, ending, head):
    file = tmp_path / "new" / f"a.{ending}"
    plots.save(figure, file)
    assert file.read_bytes().startswith(head)
    assert [f.name for f in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.gif", ".png", "a.png.txt"])
def test_other_endings_are_refused(figure, tmp_path, name):
    with pytest.raises(ValueError, match=r"a picture ends in \.png, \.svg, \.pdf; got"):
        plots.save(figure, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_fails_leaves_the_old_one(figure, tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    file.write_bytes(b"old")

    def full(self: Figure, target: Any, **options: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        plots.save(figure, file)
    assert file.read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["rosenbrock", "quadratic"])
def test_an_animation_moves_from_the_start_to_the_end(tmp_path, name):
    surface, file = SURFACES[name], tmp_path / "a.gif"
    found = study(surface, ["rmsprop:lr=0.1", "sgd:lr=1e-4"], steps=40)
    plots.animation(surface, found, file, frames=5)
    with Image.open(file) as gif:
        assert getattr(gif, "n_frames", 1) == 5
        frames = []
        for k in range(5):
            gif.seek(k)
            frames.append(np.asarray(gif.convert("RGB"), dtype=int))
    assert all(np.abs(a - b).max() > 50 for a, b in itertools.pairwise(frames))
    assert [f.name for f in tmp_path.iterdir()] == ["a.gif"]


def test_noise_is_a_band_of_heights_about_their_median():
    study = noisy_study()
    figure = plots.surface_overview(ROSENBROCK, study["entries"])
    heights = figure.axes[1]
    values = np.array(study["entries"][0]["path"]["heights"])
    drawn = data(labelled(heights, "RMSprop"))[:, 1]
    np.testing.assert_allclose(drawn, np.median(values, axis=0))
    assert len(heights.collections) == 2
