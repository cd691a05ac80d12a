"""The page of one training: its sentence, its tables and pictures, and nothing from outside."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from rmsprop import plots_run, report_run, saved
from rmsprop.data import Dataset, from_arrays, from_texts
from rmsprop.evaluate import evaluate
from test_evaluate import Given
from test_report import HOSTILE, Page, assert_harmless, assert_needs_nothing
from test_report import pictures as pictures_of
from trained import made, rmsprop

Record = dict[str, Any]


@pytest.fixture
def unrendered(monkeypatch) -> None:
    """Pictures of one pixel, for tests of the words around them."""

    def pixel(self: Figure, target: Any, **options: Any) -> None:
        Image.new("RGB", (1, 1)).save(target, format="png")

    monkeypatch.setattr(Figure, "savefig", pixel)


def read(folder: Path) -> tuple[Record, str]:
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return record, (folder / "report.html").read_text(encoding="utf-8")


def texts_of(page: Page, tag: str) -> list[str]:
    return [" ".join(text.split()) for text in page.texts.get(tag, [])]


# The page


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("moons", ["Curves", "Confusion", "Effective learning rates"]),
        ("digits", ["Curves", "Confusion", "Worst mistakes", "Effective learning rates"]),
        ("rent", ["Curves", "Worst errors", "Effective learning rates"]),
        ("films", ["Curves", "Confusion", "Effective learning rates"]),
    ],
)
def test_the_page_needs_nothing_from_outside_and_its_pictures_are_drawn(name, titles):
    record, text = read(made(name).folder)
    page = assert_needs_nothing(text)
    assert not re.search(r"https?://|//[a-z]+\.|file:", re.sub(r"data:[^\"]*", "", text))
    assert "<svg" not in text
    found = [title for title in texts_of(page, "h2") if title in titles]
    assert found == titles
    assert [a["alt"] for tag, a in page.elements if tag == "img"] == titles
    for image in pictures_of(page):
        image.load()
        assert min(image.size) > 200
        assert np.asarray(image.convert("L")).std() > 5  # something is drawn
    assert record["sentence"] in page.text
    assert record["command"] in page.text
    assert record["equations"] in page.text
    assert record["toml"] in page.text


@pytest.mark.parametrize("name", ["moons", "digits", "films", "bars"])
def test_every_number_of_the_table_is_that_of_run_json(name):
    record, text = read(made(name).folder)
    found, page = record["evaluation"], Page(text)
    assert page.rows[0] == ["class", "rows", "recall", "precision"]
    rows = page.rows[1 : 1 + len(found["classes"])]
    assert [row[0] for row in rows] == found["classes"]
    assert [row[1] for row in rows] == [f"{sum(row):,}" for row in found["confusion"]]
    for column, name in ((2, "recall"), (3, "precision")):
        expected = ["" if share is None else f"{100 * share:.2f}%" for share in found[name]]
        assert [row[column] for row in rows] == expected


def test_a_class_that_is_never_predicted_has_no_precision(unrendered):
    moons = made("moons")
    record = copy.deepcopy(read(moons.folder)[0])
    record["evaluation"]["precision"][0] = record["evaluation"]["recall"][1] = None
    page = Page(report_run.html(record, saved.load(moons.folder).dataset))
    assert "no target" not in page.text
    assert page.rows[1][3] in ("", "-", "–", "none")


def test_the_files_are_replaced_and_json(tmp_path):
    moons = made("moons")
    record, text = read(moons.folder)
    dataset = saved.load(moons.folder).dataset
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    assert report_run.write(record, tmp_path, dataset) == tmp_path / "report.html"
    again, page = read(tmp_path)
    assert again == record
    assert page == text


def test_a_record_that_is_no_json_leaves_the_old_page(tmp_path):
    moons = made("moons")
    record = read(moons.folder)[0] | {"test_loss": float("nan")}
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        report_run.write(record, tmp_path, saved.load(moons.folder).dataset)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "old"


# The sentence


def sentence(changes: Record, evaluation: Record | None = None) -> str:
    record: Record = {
        "label": "RMSprop",
        "task": "mine",
        "rule": {"lr": 0.5},
        "diverged": False,
        "stopped": None,
        "patience": None,
        "test_loss": 0.3,
        "steps": [0, 10, 20, 1500],
        "seconds": [0.0, 1.0, 2.0, 3.21],
        "best": 2,
        "evaluation": {
            "metric": "accuracy",
            "score": 0.875,
            "interval": [0.8123, 0.92],
            "rows": 1234,
        },
    }
    record |= changes
    if evaluation is not None and record["evaluation"]:
        record["evaluation"] |= evaluation
    return report_run.sentence(record)


def test_the_sentence_of_a_run_that_went_well():
    assert sentence({}) == (
        "87.50% test accuracy (95% interval over the 1,234 rows 81.23 to 92.00) after 1,500 steps in "
        "3.2 s of training."
    )


def test_the_sentence_of_a_regression_has_no_per_cent():
    found = sentence({"evaluation": {"metric": "R^2", "score": 0.98765, "rows": 20, "rmse": 1.0}})
    assert found.startswith("0.9877 test R^2 after 1,500 steps")
    assert "%" not in found


def test_the_sentence_of_a_run_that_diverged_says_what_to_do():
    found = sentence({"diverged": True, "evaluation": None, "test_loss": None})
    assert found.startswith("RMSprop diverged on mine at learning rate 0.5: its loss is not finite")
    assert "rmsprop compare" in found


def test_the_sentence_of_a_run_that_learnt_nothing_has_the_score_and_says_so():
    found = sentence({"diverged": True})
    assert found.startswith("87.50% test accuracy")
    assert found.endswith(
        "The training loss did not fall: try another learning rate, or rmsprop compare."
    )


def test_the_sentence_of_a_learner_without_data_has_the_test_loss():
    assert sentence({"evaluation": None}) == "The test loss is 0.3 after 1,500 steps."


def test_the_sentence_of_a_run_that_stopped_early_says_what_was_kept():
    found = sentence({"patience": 3})
    assert found.endswith("These are the parameters of step 20, the best on validation.")
    assert "These are" not in sentence({"patience": 3, "best": 3})
    assert "These are" not in sentence({})


@pytest.mark.parametrize(
    ("baseline", "words"),
    [(0.93, "93.00%: better"), (0.8, "80.00%: worse"), (0.9, "90.00%: no clear difference")],
)
def test_the_sentence_is_honest_about_the_baseline(baseline, words):
    found = sentence({}, {"baseline": baseline})
    assert "A logistic regression on bags of words, fitted on the training and the" in found
    assert found.endswith(f" has {words}.")


def test_a_run_that_diverged_or_stopped_early_has_its_page(tmp_path):
    words = ("--optimizer", "sgd", "--lr", "1e30", "--epochs", "2")
    result = rmsprop("train", "moons", *words, "--out", str(tmp_path / "lost"))
    assert result.code == 1, result.err
    record, text = read(tmp_path / "lost")
    page = assert_needs_nothing(text)
    assert record["evaluation"] is None
    assert "diverged" in page.texts["p"][0]
    assert "Confusion" not in texts_of(page, "h2")
    words = ("--lr", "0.5", "--epochs", "30", "--patience", "1", "--schedule", "constant")
    result = rmsprop("train", "moons", *words, "--out", str(tmp_path / "early"))
    assert result.code == 0, result.err
    record, text = read(tmp_path / "early")
    assert record["stopped"] == "early"
    assert (
        f"These are the parameters of step {record['steps'][record['best']]:,}" in Page(text).text
    )
    kept = saved.load(tmp_path / "early")
    assert evaluate(kept, "validation")["score"] == pytest.approx(max(record["validation_score"]))


# What comes from outside


def hostile_texts() -> Dataset:
    texts = [f"{HOSTILE} film {i}" for i in range(20)]
    return from_texts(HOSTILE, (texts, [HOSTILE, "good"] * 10))


def test_texts_names_and_commands_cannot_become_markup(unrendered):
    reviews = made("films")
    data = hostile_texts()
    record = copy.deepcopy(read(reviews.folder)[0])
    for key in ("label", "task", "command", "equations", "toml", "sentence"):
        record[key] = HOSTILE
    record["machine"]["processor"] = record["versions"]["numpy"] = HOSTILE
    z = np.where(data.test.y[:, None] == 1, -2.0, 2.0).astype(np.float32)  # all wrong
    model: Any = Given(z)
    model.scores = lambda x: z
    record["evaluation"] = evaluate(saved.Saved(Path(), None, data, model))  # type: ignore[arg-type]
    assert len(record["evaluation"]["worst"]) == len(z) == 4
    text = report_run.html(record, data)
    # Four texts, six names of classes beside them, two in the table, and the record's own words.
    assert_harmless(text, times=4 + 4 + 1 + 6)
    page = Page(text)
    assert [row for row in page.rows if row[0] in data.texts] == [  # type: ignore[operator]
        [data.texts[i], data.classes[said], data.classes[true], f"{100 * p:.0f}%"]  # type: ignore[index]
        for i, said, true, p in record["evaluation"]["worst"]
    ]


def test_a_page_of_texts_shows_its_worst_mistakes_as_they_were_written(tmp_path):
    lines = ["label\ttext"]
    for i in range(40):
        lines.append(f'{"ab"[i % 2]}\t<script>alert({i})</script> & "{i}"')
    (tmp_path / "x.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ("--epochs", "1", "--hidden", "4", "--out", str(tmp_path / "run"))
    assert rmsprop("train", str(tmp_path / "x.tsv"), *words).code == 0
    record, text = read(tmp_path / "run")
    assert record["evaluation"]["worst"]
    page = assert_needs_nothing(text)
    dataset = saved.load(tmp_path / "run").dataset
    assert dataset.texts is not None
    shown = [row[0] for row in page.rows if len(row) == 4 and row[0].startswith("<script>")]
    assert shown == [dataset.texts[i] for i, *_ in record["evaluation"]["worst"]]


@pytest.mark.parametrize(
    "names",
    [("$^$", "$_{$"), ("$10-$20", "$a$"), ("x" * 300, "b"), ("\\frac", "%"), ("a\nb", "c")],
    ids=["mathtext", "dollars", "long", "backslash", "lines"],
)
def test_any_names_of_classes_are_drawn_as_they_are(tmp_path, names):
    """With warnings as errors: a name is not TeX, and does not push the picture aside."""
    rng = np.random.default_rng(0)
    y = np.array(names)[np.arange(60) % 2]
    np.savez(tmp_path / "mine.npz", x=rng.uniform(0, 255, (60, 8, 8)).astype(np.uint8), y=y)
    words = ("--epochs", "1", "--out", str(tmp_path / "run"))
    result = rmsprop("train", str(tmp_path / "mine.npz"), *words)
    assert result.code == 0, result.err
    assert "Worst mistakes" in read(tmp_path / "run")[1]


# Pictures


def drawn(figure: Figure) -> np.ndarray:
    figure.set_dpi(60)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize("classes", [2, 10, 30, 31, 40, 100])
def test_a_confusion_matrix_has_its_counts_where_there_is_room(classes):
    counts = np.random.default_rng(classes).integers(0, 30, (classes, classes))
    counts[0] = 0  # a class without rows
    names = [str(k) for k in range(classes)]
    figure = plots_run.confusion(counts.tolist(), names)
    drawn(figure)
    (ax,) = figure.axes
    shown = {tuple(map(int, t.get_position())): t.get_text() for t in ax.texts}
    if classes <= 30:
        expected = {(j, i): str(n) for (i, j), n in np.ndenumerate(counts) if n}
        assert shown == expected
    else:
        assert not shown
    assert [t.get_text() for t in ax.get_yticklabels()] == names
    assert max(figure.get_size_inches()) <= 9


def test_mistakes_are_red_and_right_ones_are_blue():
    figure = plots_run.confusion([[8, 2], [5, 5]], ["a", "b"])
    drawn(figure)
    arrays: list[Any] = [image.get_array() for image in figure.axes[0].get_images()]
    right, wrong = arrays
    np.testing.assert_allclose(np.ma.filled(right, np.nan), [[0.8, np.nan], [np.nan, 0.5]])
    np.testing.assert_allclose(np.ma.filled(wrong, np.nan), [[np.nan, 0.2], [0.5, np.nan]])


def test_without_a_mistake_nothing_is_red(unrendered):
    pixels = drawn(plots_run.confusion([[5, 0], [0, 7]], ["a", "b"]))
    reddish = (pixels[..., 0] > pixels[..., 2] + 40).mean()
    assert reddish == 0
    bluish = (pixels[..., 2] > pixels[..., 0] + 40).mean()
    assert bluish > 0.05


def test_without_a_mistake_the_page_says_nothing_of_mistakes(unrendered):
    pictures = made("bars")
    record = copy.deepcopy(read(pictures.folder)[0])
    data = saved.load(pictures.folder).dataset
    z = 9 * np.eye(3, dtype=np.float32)[data.test.y]
    model: Any = Given(z)
    model.scores = lambda x: z
    record["evaluation"] = evaluate(saved.Saved(Path(), None, data, model))  # type: ignore[arg-type]
    page = assert_needs_nothing(report_run.html(record, data))
    assert "mistakes" not in " ".join(texts_of(page, "h2"))
    assert "100.00% test accuracy" in page.text


@pytest.mark.parametrize("count", [1, 9, 10, 11, 20])
def test_each_worst_mistake_is_its_picture_with_what_was_said(count):
    images = np.random.default_rng(0).uniform(size=(30, 5, 4))
    worst = [[29 - k, k % 2, 1 - k % 2, 0.9 - k / 100] for k in range(count)]
    figure = plots_run.mistakes(images, worst, ["cat", "dog"])
    drawn(figure)
    shown = [ax for ax in figure.axes if ax.get_images()]
    assert len(shown) == count
    for ax, (row, said, true, p) in zip(shown, worst, strict=True):
        np.testing.assert_array_equal(ax.get_images()[0].get_array(), images[row])
        names = ("cat", "dog")
        assert ax.get_title() == f"{names[said]}, not {names[true]}\n{100 * p:.0f}%"


@pytest.mark.parametrize("rows", [1, 2, 20])
def test_residuals_are_predicted_over_true(rows):
    worst = [[k, 2.0 * k, 1.5 * k + 1] for k in range(rows)]
    figure = plots_run.residuals(worst)
    drawn(figure)
    x, y = figure.axes[0].lines[0].get_data()
    np.testing.assert_array_equal(x, [w[2] for w in worst])
    np.testing.assert_array_equal(y, [w[1] for w in worst])


def curve(**changes: Any) -> Record:
    return {
        "steps": [0, 5, 10],
        "train_loss": [2.0, 1.0, 0.5],
        "validation_loss": [2.1, 1.1, 0.9],
        "validation_score": [0.1, 0.8, 0.7],
        "best": 1,
    } | changes


def test_the_curves_are_those_of_the_run_and_the_best_is_ringed():
    figure = plots_run.curves(curve(), "accuracy")
    drawn(figure)
    loss, score = figure.axes
    lines = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in loss.lines}
    assert lines == {"validation": [2.1, 1.1, 0.9], "training": [2.0, 1.0, 0.5]}
    ring = score.lines[1]
    assert (np.asarray(ring.get_xdata()), np.asarray(ring.get_ydata())) == (5, 0.8)


@pytest.mark.parametrize(
    "changes",
    [
        {"train_loss": [2.0, None, None], "validation_loss": [2.1, None, None],
         "validation_score": [0.5, None, None], "best": 0},
        {"train_loss": [None] * 3, "validation_loss": [None] * 3, "validation_score": [None] * 3,
         "best": 0},
        {"train_loss": [0.0] * 3, "validation_loss": [0.0] * 3, "validation_score": [1.0] * 3},
        {"validation_score": [None] * 3},
        {"steps": [0], "train_loss": [1.0], "validation_loss": [1.0], "validation_score": [0.5],
         "best": 0},
    ],
    ids=["diverged", "nothing", "zero", "no score", "start alone"],
)  # fmt: skip
def test_any_curves_are_drawn_without_a_warning(changes):
    figure = plots_run.curves(curve(**changes), "accuracy")
    assert drawn(figure).std() > 1


def test_a_regression_on_pictures_has_its_page(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(60, 6, 6))
    np.savez(tmp_path / "mean.npz", x=x, y=x.mean(axis=(1, 2)))
    words = ("--epochs", "2", "--out", str(tmp_path / "run"))
    assert rmsprop("train", str(tmp_path / "mean.npz"), *words).code == 0
    record, text = read(tmp_path / "run")
    assert record["metric"] == "R^2"
    assert "Worst errors" in texts_of(assert_needs_nothing(text), "h2")


def test_a_data_set_of_forty_classes_has_its_page(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(400) % 40
    x = rng.normal(size=(400, 5)) + y[:, None]
    assert from_arrays("many", {"x": x, "y": y}).kind == "multiclass"
    np.savez(tmp_path / "many.npz", x=x, y=np.array([f"class {k}" for k in y]))
    words = ("--epochs", "2", "--out", str(tmp_path / "run"))
    result = rmsprop("train", str(tmp_path / "many.npz"), *words)
    assert result.code == 0, result.err
    page = assert_needs_nothing(read(tmp_path / "run")[1])
    assert len([row for row in page.rows if row[0].startswith("class ")]) == 40
