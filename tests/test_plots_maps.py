"""The picture of a map shows its arrays, and its files hold them."""

import copy
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from PIL import Image

from rmsprop import plots_maps, report_maps
from rmsprop.entries import entries
from rmsprop.maps import surface_map
from rmsprop.maps.cells import within
from rmsprop.maps.tasks import task_map
from rmsprop.plots_scales import ticks
from rmsprop.space import Range
from rmsprop.surfaces import SURFACES
from rmsprop.tasks import Task
from test_plots import data

Study = dict[str, Any]
LR = Range("lr", 1e-4, 10, count=11)
DECAY = Range("decay", 0.5, 0.9995, count=9)
COMMAND = "rmsprop map rosenbrock"


def surface_study(name: str = "rosenbrock", x: Range = LR, y: Range = DECAY, **more: Any) -> Study:
    names = more.pop("names", ["rmsprop", "adam:decay=0.99"])
    options: dict[str, Any] = {"steps": 100} | more
    return surface_map(SURFACES[name], entries(names, []), x, y, **options)


@pytest.fixture(scope="module")
def study() -> Study:
    return surface_study()


@pytest.fixture(scope="module")
def diverging() -> Study:
    """SGD runs away from where its rate is large."""
    return surface_study(
        "booth", Range("momentum", 0.0, 0.9, count=4), LR, names=["sgd", "rmsprop"]
    )


@pytest.fixture(scope="module")
def trained() -> Study:
    return task_map(
        Task.of("linear", epochs=2),
        entries(["rmsprop", "adam"], []),
        Range("lr", 1e-3, 1e3, count=5),
        Range("decay", 0.9, 0.99, count=3),
    )


_DRAWN: list[tuple[Study, Figure]] = []


def drawn(study: Study) -> tuple[Figure, list[Axes]]:
    """The picture, and its panels; of a study that several tests look at it is made once."""
    figure = next((figure for known, figure in _DRAWN if known is study), None)
    if figure is None:
        figure = plots_maps.response_map(study)
        figure.savefig(io.BytesIO(), format="png", dpi=50)
        _DRAWN.append((study, figure))
    return figure, figure.axes[: len(study["maps"])]


def mesh(ax: Axes) -> QuadMesh:
    (found,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    return found


def shown(ax: Axes) -> np.ma.MaskedArray[Any, Any]:
    """The numbers behind the colours of a panel."""
    return np.ma.masked_array(mesh(ax).get_array())


def star(ax: Axes) -> list[np.ndarray]:
    return [data(line)[0] for line in ax.lines if line.get_marker() == "*"]


# The picture


def test_the_panels_show_the_cells_on_one_scale_of_colours(study, trained):
    for found in (study, trained):
        figure, panels = drawn(found)
        assert len(figure.axes) == len(found["maps"]) + 1, "one scale for all"
        norms = {id(mesh(ax).norm) for ax in panels}
        assert len(norms) == 1
        for ax, one in zip(panels, found["maps"], strict=True):
            numbers = shown(ax).filled(np.nan)
            np.testing.assert_array_equal(numbers.reshape(one["loss"].shape), one[one["outcome"]])
            assert ax.get_title() == one["label"]


def test_a_cell_stands_at_its_values_and_the_best_is_starred(study, trained):
    for found in (study, trained):
        x, y = Range(**found["x"]), Range(**found["y"])
        for ax, one in zip(drawn(found)[1], found["maps"], strict=True):
            best = one["best"]
            (at,) = star(ax)
            assert at == pytest.approx([x.place(best["x"]), y.place(best["y"])])
            corners = np.asarray(mesh(ax).get_coordinates())
            middle = (corners[:-1, :-1] + corners[1:, 1:]) / 2
            np.testing.assert_allclose(middle[best["row"], best["column"]], at, atol=1e-9)
            words = ax.texts[0].get_text()
            assert plots_maps.outcome_text(found, best["outcome"]) in words
            assert f"{plots_maps.share(one['tunability'])} of the map" in words


def test_what_is_better_is_brighter(study, trained):
    for found, better in ((study, np.nanmin), (trained, np.nanmax)):
        ax = drawn(found)[1][0]
        one = found["maps"][0]
        cells = one[one["outcome"]]
        other = {np.nanmin: np.nanmax, np.nanmax: np.nanmin}[better]
        bright, dark = (sum(mesh(ax).cmap(mesh(ax).norm(f(cells)))[:3]) for f in (better, other))
        assert bright > dark + 0.5


def test_the_outline_goes_around_the_cells_within_reach_of_the_best():
    found = surface_study("booth", names=["rmsprop"], steps=40)
    one = found["maps"][0]
    mask = within(one)
    assert 1 < mask.sum() < mask.size
    ax = drawn(found)[1][0]
    (outline,) = (
        c
        for c in ax.collections
        if isinstance(c, QuadContourSet) and np.allclose(c.get_edgecolor()[0], (0, 0, 0, 1))
    )
    # It lies between two neighbours where one is within reach and the other is not, and nowhere else.
    x, y = (np.linspace(0, 1, n) for n in mask.shape[::-1])
    for i, j in np.ndindex(mask.shape):
        for k, m in ((i + 1, j), (i, j + 1)):
            if k < len(y) and m < len(x):
                way = Outline([(x[j], y[i]), (x[m], y[k])])
                crossed = any(p.intersects_path(way, filled=False) for p in outline.get_paths())
                assert crossed == (mask[i, j] != mask[k, m]), (i, j, k, m)


def test_diverged_cells_are_hatched_and_left_without_colour(diverging):
    figure, panels = drawn(diverging)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "diverged" in labels
    sgd, ours = panels
    lost = diverging["maps"][0]["diverged"] > 0
    assert lost.any()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown(sgd)).reshape(lost.shape), lost)

    def hatched(ax: Axes) -> bool:
        return any(isinstance(c, QuadContourSet) and any(c.hatches) for c in ax.collections)

    assert hatched(sgd)
    assert not hatched(ours)


def test_a_map_on_which_nothing_arrives_or_all_diverges_is_drawn_and_told():
    none = surface_study(outcome="steps", steps=2)
    panels = drawn(none)[1]
    assert all("no cell arrives" in ax.texts[0].get_text() for ax in panels)
    assert report_maps.sentence(none).count("reaches the target in no cell") == 2
    lost = surface_study("booth", Range("lr", 1e3, 1e5, count=3), Range("momentum", 0.5, 0.9, count=2),
                         names=["momentum"], steps=2000)  # fmt: skip
    assert "every cell diverged" in drawn(lost)[1][0].texts[0].get_text()
    assert "diverges in every cell" in report_maps.sentence(lost)


def test_runs_that_ran_away_do_not_take_all_colours(diverging):
    panels = drawn(diverging)[1]
    norm = mesh(panels[0]).norm
    start = diverging["maps"][0]["start"]
    assert isinstance(norm, LogNorm)
    highest = max(np.nanmax(one["loss"]) for one in diverging["maps"])
    assert norm.vmax == min(highest, 10 * start)
    least = min(np.nanmin(one["loss"]) for one in diverging["maps"])
    assert norm.vmin == max(least, 1e-16 * start)


# Where the frameworks' defaults lie


def test_defaults_are_points_and_where_there_is_no_rate_lines(study):
    ours, adam = drawn(study)[1]
    points = {tuple(np.round(data(line)[0], 9)) for line in ours.lines if line.get_marker() == "o"}
    expected = {(LR.place(lr), DECAY.place(decay)) for lr, decay in ((0.01, 0.99), (0.001, 0.9))}
    assert points == {tuple(np.round(p, 9)) for p in expected}
    (dashed,) = (line for line in ours.lines if line.get_linestyle() == "--")
    assert data(dashed)[0, 1] == pytest.approx(DECAY.place(0.9))
    texts = {text.get_text() for text in ours.texts[1:]}
    assert texts == {"PyTorch", "Keras", "Optax, TensorFlow 1"}
    assert len(adam.texts) == 1, "they are RMSprop's"


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (LR, DECAY),
        (DECAY, LR),
        (LR, Range("eps", 1e-12, 1e-2, count=8)),
        (Range("eps", 1e-10, 1e-7, count=8), Range("lr", 1e-3, 1e-2, count=8)),
        (DECAY, Range("momentum", 0.0, 0.9, count=8)),
        (Range("momentum", 0.0, 0.9, count=8), LR),
    ],
    ids=["lr-decay", "decay-lr", "lr-eps", "ends", "decay-momentum", "momentum-lr"],
)
def test_labels_lie_apart_and_inside_the_panel(x, y):
    found = surface_study("booth", x, y, names=["rmsprop", "rmsprop-keras"], steps=20)
    figure = plots_maps.response_map(found)
    figure.draw_without_rendering()
    for ax in figure.axes[:2]:
        boxes = [text.get_window_extent() for text in ax.texts[1:]]
        assert boxes
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        room = ax.get_window_extent().padded(3)
        for box in boxes:
            assert room.contains(box.x0, box.y0)
            assert room.contains(box.x1, box.y1)


def test_decays_in_nines_are_evenly_spaced():
    decay = Range("decay", 0.9, 0.9999, count=7)
    ax = drawn(surface_study("booth", LR, decay, steps=10))[1][0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["0.9", "0.99", "0.999", "0.9999"]
    np.testing.assert_allclose(np.diff(ax.get_yticks()), 1 / 3)


@pytest.mark.parametrize(
    "d",
    [
        Range("lr", 1e-12, 1.0), Range("lr", 0.011, 0.014), Range("lr", 0.3, 4.0), Range("lr", 1e-3, 2e-3),
        Range("momentum", 0.0, 0.99), Range("decay", 0.97, 0.98), Range("decay", 0.5, 0.9999999),
        Range("decay", -1.0, 0.5, "log1m"), Range("x", -3.0, 7.0), Range("x", 1e-9, 1e9, "log"),
    ],
    ids=str,
)  # fmt: skip
def test_ticks_are_few_lie_inside_and_their_labels_are_the_values(d):
    found = ticks(d)
    assert 2 <= len(found) <= 13
    assert found == sorted(set(found))
    places = np.array([d.place(value) for value in found])
    assert places.min() > -1e-5
    assert places.max() < 1 + 1e-5
    assert np.diff(places).min() > 0.02


# The files


def test_the_files_hold_the_study(study, trained, tmp_path):
    for found in (study, trained):
        paths = report_maps.write(found, tmp_path, command=COMMAND)
        assert [path.name for path in paths] == ["map.png", "map.svg", "map.npz", "run.json"]
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(p.name for p in paths)
        with np.load(tmp_path / "map.npz", allow_pickle=False) as kept:
            np.testing.assert_array_equal(kept["x"], Range(**found["x"]).values())
            np.testing.assert_array_equal(kept["y"], Range(**found["y"]).values())
            names = {"x", "y"}
            for k, one in enumerate(found["maps"]):
                for name in ("score", "loss", "final", "steps", "diverged"):
                    if one.get(name) is not None:
                        names.add(f"{k}/{name}")
                        np.testing.assert_array_equal(kept[f"{k}/{name}"], one[name])
            assert set(kept) == names
        record = strict(tmp_path / "run.json")
        assert record["command"] == COMMAND
        for one, of in zip(record["maps"], found["maps"], strict=True):
            assert not any(
                one.get(name) for name in ("loss", "final", "steps", "diverged", "score")
            )
            assert one["best"] == of["best"]
            assert one["tunability"] == of["tunability"]
            assert one["rule"] == of["rule"]
        with Image.open(tmp_path / "map.png") as image:
            assert image.width > 1000
        svg = (tmp_path / "map.svg").read_text("utf-8")
        assert svg.count("<image") >= len(found["maps"])


def strict(path: Path) -> Study:
    def refused(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(path.read_text("utf-8"), parse_constant=refused)


def test_what_is_not_finite_is_none_in_run_json(study, tmp_path):
    odd = copy.copy(study) | {"seconds": math.nan}
    report_maps.write(odd, tmp_path, command=COMMAND, formats=["png"])
    assert strict(tmp_path / "run.json")["seconds"] is None


def test_a_large_map_is_a_small_svg(tmp_path):
    lr, decay = Range("lr", 1e-4, 10, count=200), Range("decay", 0.5, 0.9995, count=200)
    found = surface_study("rosenbrock", lr, decay, names=["rmsprop"], steps=50)
    report_maps.write(found, tmp_path, command=COMMAND, formats=["svg"])
    assert (tmp_path / "map.svg").stat().st_size < 500_000, "40,000 cells as paths are 10 MB"


def test_another_format_is_refused_before_anything_is_written(study, tmp_path):
    with pytest.raises(ValueError, match=r"\.png, \.svg, \.pdf; got 'map\.bmp'"):
        report_maps.write(study, tmp_path, command=COMMAND, formats=["png", "bmp"])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_keeps_what_was_there(study, tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(OSError, match=r"run\.json"):
        report_maps.write(study, tmp_path, command=COMMAND, formats=["png"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.npz", "map.png", "run.json"]


# The sentence


def test_the_sentence_names_the_best_and_the_default_at_its_cell():
    lr, decay = Range("lr", 1e-3, 0.1, count=5), Range("decay", 0.9, 0.999, count=3)
    found = surface_study("rosenbrock", lr, decay)
    text = report_maps.sentence(found)
    ours, adam = found["maps"]
    assert text.startswith("On rosenbrock, RMSprop comes within ")
    # lr 0.01, decay 0.99 exactly; all else is the same in this dialect
    at_default = plots_maps.outcome_text(found, ours["loss"][1, 2])
    said = f"With PyTorch's defaults (lr 0.01, decay 0.99) it comes within {at_default} of the minimum."
    assert said in text
    assert text.count("PyTorch") == 1
    best = plots_maps.outcome_text(found, adam["best"]["outcome"])
    assert f"Adam (decay=0.99) comes within {best} of the minimum at lr " in text


def test_the_sentence_of_a_task_says_scores(trained):
    text = report_maps.sentence(trained)
    best = trained["maps"][0]["best"]["outcome"]
    assert f"RMSprop comes to {best:.4f} validation R^2 at lr " in text
    counted = copy.deepcopy(trained)
    counted["settings"] |= {"outcome": "steps", "target": 0.5}
    for one in counted["maps"]:
        one["outcome"] = "steps"
        one["best"] |= {"outcome": 38.0}
    text = report_maps.sentence(counted)
    assert "RMSprop reaches 0.5000 validation R^2 after 38 steps at lr " in text
    drawn(counted)


def test_the_last_step_alone_is_named_as_such():
    found = surface_study(outcome="final", names=["rmsprop"])
    figure, (ax,) = drawn(found)
    assert figure.axes[-1].get_ylabel() == "height above the minimum after the last step"
    np.testing.assert_array_equal(shown(ax).ravel(), found["maps"][0]["final"].ravel())
    assert isinstance(mesh(ax).norm, LogNorm)
    assert " of the minimum at lr " in report_maps.sentence(found)


def test_the_sentence_of_a_saddle_counts_steps():
    saddle = next(name for name, s in SURFACES.items() if s.minimum is None)
    found = surface_study(saddle, names=["rmsprop"])
    best = found["maps"][0]["best"]["outcome"]
    assert f"leaves the domain after {best:,.0f} steps at lr" in report_maps.sentence(found)
    bar = drawn(found)[0].axes[-1]
    assert bar.get_ylabel() == "steps to leave the domain"
