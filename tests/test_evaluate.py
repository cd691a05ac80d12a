"""A trained model from its folder: loaded, evaluated, asked."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import needs
from rmsprop import saved
from rmsprop.data import Dataset, load
from rmsprop.data.dataset import Split
from rmsprop.data.inputs import described, description, read_inputs, read_picture
from rmsprop.evaluate import WORST, evaluate, wilson
from rmsprop.models.outputs import probabilities
from rmsprop.saved import Saved
from trained import WORDS, Made, forget, made, rmsprop, train

every = pytest.mark.parametrize("name", WORDS)


@pytest.fixture
def copy(tmp_path) -> Callable[[Made], Path]:
    """A copy of a trained folder, to spoil."""

    def copied(whole: Made) -> Path:
        return shutil.copytree(whole.folder, tmp_path / "copy")

    return copied


# Loading


@every
def test_what_is_loaded_is_what_was_trained(name):
    found = saved.load(made(name).folder)
    record = json.loads((made(name).folder / "run.json").read_text(encoding="utf-8"))
    measured = evaluate(found)
    assert measured["loss"] == pytest.approx(record["test_loss"], rel=1e-5)
    assert measured["score"] == pytest.approx(record["test_score"], abs=1e-6)
    assert record["evaluation"] == json.loads(json.dumps(measured, allow_nan=False))


@every
def test_without_the_data_the_same_model_is_loaded(name):
    whole, bare = saved.load(made(name).folder), saved.load(made(name).folder, data=False)
    assert len(bare.dataset.test) == 0
    for found, expected in zip(
        *(description(m.dataset).items() for m in (bare, whole)), strict=True
    ):
        assert found == expected
    x = whole.dataset.test.x
    np.testing.assert_array_equal(bare.scores(x), whole.scores(x))


@pytest.mark.parametrize("name", ["films", "rent", "bars"])
def test_predictions_need_no_data(name, monkeypatch, tmp_path):
    """Not even the file that the model was trained on."""
    monkeypatch.chdir(tmp_path)
    folder, data = made(name)
    assert data is not None
    away = data.with_name("away")
    data.rename(away)
    forget()
    try:
        model = saved.load(folder, data=False)
        with pytest.raises(FileNotFoundError, match=data.name):
            saved.load(folder)
    finally:
        away.rename(data)
    assert model.dataset.name == data.stem


def test_predictions_need_no_folder_of_texts_either(tmp_path):
    for label, word in (("good", "lovely"), ("bad", "dull")):
        (tmp_path / "texts" / label).mkdir(parents=True)
        for i in range(10):
            text = f"a {word} film number {i}"
            (tmp_path / "texts" / label / f"{i}.txt").write_text(text, encoding="utf-8")
    words = ("--epochs", "15", "--hidden", "8", "--lr", "0.02", "--batch-size", "8")
    folder = train(tmp_path / "run", str(tmp_path / "texts"), *words)
    expected = rmsprop("predict", str(folder), "a lovely film")
    assert expected.out.startswith("good (")
    (tmp_path / "texts").rename(tmp_path / "elsewhere")
    forget()
    assert rmsprop("predict", str(folder), "a lovely film") == expected


@pytest.mark.parametrize("name", ["run.toml", "model.safetensors"])
def test_a_folder_that_is_not_finished_says_which_file_is_missing(copy, name):
    moons = made("moons")
    folder = copy(moons)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"holds no {name}.*has made.*--resume"):
        saved.load(folder)
    for words in (("evaluate", str(folder)), ("predict", str(folder), "1,2")):
        result = rmsprop(*words)
        assert (result.code, result.out) == (2, "")
        assert len(result.err.splitlines()) == 1
        assert name in result.err


def test_a_folder_that_is_not_there_is_told(tmp_path):
    result = rmsprop("evaluate", str(tmp_path / "none"))
    assert result.code == 2
    assert "none holds no run.toml" in result.err


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other kind"])
def test_a_damaged_model_is_told(copy, damage):
    moons = made("moons")
    path = copy(moons) / "model.safetensors"
    content = path.read_bytes()
    if damage == "other kind":
        checkpoint = next((path.parent / "checkpoints").glob("*.safetensors"))
        path.write_bytes(checkpoint.read_bytes())
    else:
        path.write_bytes({"cut": content[:-9], "empty": b"", "text": b"a" * 500}[damage])
    with pytest.raises(
        ValueError, match=r"model\.safetensors (is damaged|does not hold a rmsprop model)"
    ):
        saved.load(path.parent)
    result = rmsprop("predict", str(path.parent), "1,2")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("name", ["moons", "digits-cnn"])
def test_settings_of_another_network_are_told(copy, name):
    folder = copy(made(name))
    settings = folder / "run.toml"
    text = settings.read_text(encoding="utf-8")
    changed = text.replace("hidden = [16]", "hidden = [17]")
    assert changed != text
    settings.write_text(changed, encoding="utf-8")
    with pytest.raises(ValueError, match="another network"):
        saved.load(folder)


@pytest.mark.parametrize("text", ["", "lr = 0.1\n"])
def test_settings_without_a_task_are_told(copy, text):
    moons = made("moons")
    folder = copy(moons)
    (folder / "run.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"run.toml.*task"):
        saved.load(folder)


def test_data_that_have_changed_since_are_refused_for_evaluation_alone(copy, tmp_path):
    rent = made("rent")
    assert rent.data is not None
    folder, data = copy(rent), tmp_path / "rent.csv"
    settings = folder / "run.toml"
    text = settings.read_text(encoding="utf-8").replace(str(rent.data), str(data))
    settings.write_text(text, encoding="utf-8")
    shutil.copy(rent.data, data)
    assert evaluate(saved.load(folder)) == evaluate(saved.load(rent.folder))
    data.write_text(data.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    forget()
    with pytest.raises(ValueError, match="have changed since it was trained"):
        saved.load(folder)
    assert len(saved.load(folder, data=False).predict(["1,2"])) == 1


def test_another_split_is_other_data(copy):
    moons = made("moons")
    folder = copy(moons)
    settings = folder / "run.toml"
    text = settings.read_text(encoding="utf-8")
    assert "split_seed = 0" in text
    settings.write_text(text.replace("split_seed = 0", "split_seed = 1"), encoding="utf-8")
    with pytest.raises(ValueError, match="changed"):
        saved.load(folder)


def test_data_that_have_moved_are_found_by_data_dir(tmp_path):
    """The reviews, here as a few made-up ones in the layout of the real ones."""
    first = tmp_path / "first" / "reviews"
    first.mkdir(parents=True)
    for name, rows in (("train.tsv", 60), ("test.tsv", 20)):
        lines = [f"{i % 2}\tfilm {i} is {'lovely' if i % 2 else 'dull'}" for i in range(rows)]
        (first / name).write_text("label\ttext\n" + "\n".join(lines) + "\n", encoding="utf-8")
    folder = train(
        tmp_path / "run", "reviews", "--data-dir", str(first), "--epochs", "1", "--hidden", "4"
    )
    expected = evaluate(saved.load(folder))
    assert "baseline" in expected
    second = tmp_path / "second" / "reviews"
    shutil.copytree(first, second)
    shutil.rmtree(first)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RMSPROP_DATA", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        forget()
        with pytest.raises(FileNotFoundError):
            saved.load(folder, data_dir=str(tmp_path / "nowhere"))
        assert evaluate(saved.load(folder, data_dir=str(second))) == expected
        result = rmsprop("evaluate", str(folder), "--data-dir", str(second), "--json")
    assert json.loads(result.out) == expected


def test_a_style_transfer_is_no_model(tmp_path):
    (tmp_path / "run.toml").write_text('task = "style"\n', encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"picture\.png"):
        saved.load(tmp_path)


# Evaluation


class Given:
    """A model whose scores are given: those of row i are z[i]."""

    params: ClassVar[dict[str, np.ndarray]] = {}

    def __init__(self, z: np.ndarray):
        self.z = z

    def scores(self, x: np.ndarray) -> np.ndarray:
        return self.z[x[:, 0].astype(int)]


def given(kind: str, z: np.ndarray, y: np.ndarray, classes: tuple[str, ...] = ()) -> Saved:
    x = np.arange(len(y), dtype=np.float32)[:, None]
    split = Split(x, y)
    empty = Split(x[:1], y[:1])
    data = Dataset("given", empty, empty, split, kind, classes, None, {})
    return Saved(Path(), None, data, Given(z))  # type: ignore[arg-type]


def scores_and_labels(classes: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, rows)
    z = rng.normal(size=(rows, classes)) * 2
    z[np.arange(rows), y] += 1.5
    return z.astype(np.float32), y


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_figures_of_classes_are_those_of_scikit_learn(classes):
    metrics = needs.package("sklearn.metrics")
    special = needs.package("scipy.special")
    z, y = scores_and_labels(classes)
    names = tuple("abcdefghij"[:classes])
    kind = "binary" if classes == 2 else "multiclass"
    out = z[:, 1:] - z[:, :1] if kind == "binary" else z
    found = evaluate(given(kind, out, y, names))
    p = special.softmax(z.astype(float), axis=1)
    said = p.argmax(axis=1)
    assert found["rows"] == 300
    assert found["classes"] == list(names)
    assert found["loss"] == pytest.approx(metrics.log_loss(y, p), rel=1e-6)
    assert found["score"] == metrics.accuracy_score(y, said)
    assert found["confusion"] == metrics.confusion_matrix(y, said).tolist()
    assert found["recall"] == pytest.approx(metrics.recall_score(y, said, average=None))
    assert found["precision"] == pytest.approx(metrics.precision_score(y, said, average=None))
    # The worst: every mistake is surer than those left out, the surest first.
    worst = found["worst"]
    assert len(worst) == WORST
    sure = [w[3] for w in worst]
    assert sure == sorted(sure, reverse=True)
    for row, predicted, true, probability in worst:
        assert (predicted, true) == (said[row], y[row])
        assert predicted != true
        assert probability == pytest.approx(p[row, predicted], rel=1e-5)
    left = set(np.flatnonzero(said != y)) - {w[0] for w in worst}
    assert left
    assert max(p[row, said[row]] for row in left) <= sure[-1] + 1e-6


def test_figures_of_values_are_those_of_scikit_learn():
    metrics = needs.package("sklearn.metrics")
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 1)).astype(np.float32)
    z = (y + 0.3 * rng.normal(size=(200, 1))).astype(np.float32)
    found = evaluate(given("regression", z, y))
    mse = metrics.mean_squared_error(y, z)
    assert found["score"] == pytest.approx(metrics.r2_score(y, z), rel=1e-6)
    assert found["rmse"] == pytest.approx(mse**0.5, rel=1e-6)
    assert found["loss"] == pytest.approx(mse, rel=1e-6)
    errors = [abs(predicted - true) for _, predicted, true in found["worst"]]
    assert errors == sorted(errors, reverse=True)
    assert errors == pytest.approx(np.sort(np.abs(y - z)[:, 0])[::-1][:WORST], rel=1e-5)
    for row, predicted, true in found["worst"]:
        assert (predicted, true) == (z[row, 0], y[row, 0])


@pytest.mark.parametrize(("value", "expected"), [(2.0, 1.0), (1.0, 0.0)])
def test_a_constant_target_counts_1_if_met_exactly_else_0(value, expected):
    y = np.full((5, 1), 2, np.float32)
    assert evaluate(given("regression", np.full_like(y, value), y))["score"] == expected


@pytest.mark.parametrize("n", [1, 7, 100, 10_000])
def test_wilsons_interval_is_scipys(n):
    stats = needs.package("scipy.stats")
    for right in {0, 1, n // 3, n - 1, n}:
        expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        low, high = wilson(right, n)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert 0 <= low <= right / n + 1e-15
        assert right / n - 1e-15 <= high <= 1


def test_sure_mistakes_cost_what_they_cost_and_never_infinity():
    """-log p of scores of 1000 is 1000, though p rounds to 0."""
    z = np.array([[1000.0, 0, 0], [0, 0, 0]], np.float32)
    found = evaluate(given("multiclass", z, np.array([1, 2]), ("a", "b", "c")))
    assert found["loss"] == pytest.approx((1000 + np.log(3)) / 2)
    binary = evaluate(given("binary", np.array([[-1000.0], [0.0]], np.float32), np.array([1, 0])))
    assert binary["loss"] == pytest.approx((1000 + np.log(2)) / 2)


def test_a_class_without_rows_or_never_predicted_has_no_share():
    z = np.array([[2.0, 1, 0], [2, 1, 0]], np.float32)
    found = evaluate(given("multiclass", z, np.array([0, 1]), ("a", "b", "c")))
    assert found["recall"] == [1.0, 0.0, None]
    assert found["precision"] == [0.5, None, None]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_tie_is_the_first_class_as_the_learners_have_it():
    found = evaluate(given("binary", np.zeros((4, 1), np.float32), np.array([0, 0, 0, 1])))
    assert found["score"] == 0.75


def test_without_a_mistake_there_is_no_worst():
    z = np.array([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]], np.float32)
    found = evaluate(given("multiclass", z, np.arange(3), ("a", "b", "c")))
    assert found["worst"] == []
    assert found["confusion"] == np.eye(3).tolist()


@every
def test_each_part_is_measured_on_its_own_rows(name):
    found = saved.load(made(name).folder)
    rows = found.dataset.provenance["rows"]
    for part in ("train", "validation", "test"):
        figures = evaluate(found, part)
        assert (figures["part"], figures["rows"]) == (part, rows[part])
        assert ("baseline" in figures) == (part == "test" and found.dataset.vocabulary is not None)
        json.dumps(figures, allow_nan=False)
    with pytest.raises(ValueError, match="train, validation, test; got 'tests'"):
        evaluate(found, "tests")


@every
def test_the_command_prints_the_figures(name):
    expected = evaluate(saved.load(made(name).folder), "validation")
    words = ("evaluate", str(made(name).folder), "--part", "validation")
    assert json.loads(rmsprop(*words, "--json").out) == json.loads(json.dumps(expected))
    result = rmsprop(*words)
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80
    text = " ".join(result.out.split())
    if expected["metric"] == "accuracy":
        assert f"{100 * expected['score']:.2f}% validation accuracy" in text
        for name, recall in zip(expected["classes"], expected["recall"], strict=True):
            row = next(x.split() for x in result.out.splitlines() if x.split()[:1] == [name])
            assert row[2] == f"{100 * recall:.2f}%"
    else:
        assert f"{expected['score']:.4f} validation R^2" in text
        assert f"{expected['rmse']:.4g}" in text


def test_a_model_that_diverged_gives_no_figures_that_are_not_json(tmp_path):
    words = ("--optimizer", "sgd", "--lr", "1e30", "--epochs", "1")
    folder = tmp_path / "run"
    assert rmsprop("train", "moons", *words, "--out", str(folder)).code == 1
    result = rmsprop("evaluate", str(folder), "--json")
    assert "NaN" not in result.out
    assert "Infinity" not in result.out
    if result.code:
        assert len(result.err.splitlines()) == 1
    asked = rmsprop("predict", str(folder), "1,2", "--json")
    assert "NaN" not in asked.out


# Probabilities


def test_probabilities_are_softmax_and_logistic_also_of_large_scores():
    special = needs.package("scipy.special")
    z = np.array([[1.0, 2, -3], [500, -500, 0], [-1e4, -1e4, -1e4]], np.float32)
    found = probabilities(z.astype(float))
    np.testing.assert_allclose(found, special.softmax(z.astype(float), axis=1), rtol=1e-12)
    one = np.array([[0.3], [-800.0], [800.0]], np.float32)
    found = probabilities(one.astype(float))
    np.testing.assert_allclose(found[:, 1], special.expit(one[:, 0].astype(float)), rtol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    flat = given("regression", one, one)
    with pytest.raises(ValueError, match="values, not probabilities"):
        flat.probabilities(flat.dataset.test.x)


# Predictions: texts


def test_texts_are_read_as_those_of_training():
    reviews = made("films")
    model = saved.load(reviews.folder)
    assert model.dataset.texts is not None
    texts = list(model.dataset.texts)
    x = read_inputs(described(json.loads(json.dumps(description(model.dataset)))), texts)
    np.testing.assert_array_equal(x, model.dataset.test.x[:, : x.shape[1]])
    answers = model.predict(texts)
    p = model.probabilities(model.dataset.test.x)
    names = model.dataset.classes
    for answer, row in zip(answers, p, strict=True):
        assert answer["label"] == names[row.argmax()]
        assert answer["probability"] == pytest.approx(row.max(), rel=1e-5)
        assert list(answer["classes"]) == [names[k] for k in np.argsort(-row)]
        assert sum(answer["classes"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "text", ["", "   ", "zzz qqq", "漢字", "lovely " * 500, "a\tb\nc", "-", "--"], ids=repr
)
def test_any_text_gets_an_answer(text):
    reviews = made("films")
    (answer,) = saved.load(reviews.folder, data=False).predict([text])
    assert answer["input"] == text
    assert answer["label"] in ("good", "bad", "so-so")
    assert 1 / 3 <= answer["probability"] <= 1


def test_unknown_words_alone_are_all_the_same():
    reviews = made("films")
    model = saved.load(reviews.folder, data=False)
    one, other, empty = (model.predict([t])[0]["classes"] for t in ("zzz", "qqq", ""))
    assert one == other == empty


def test_an_answer_does_not_depend_on_the_others():
    reviews = made("films")
    model = saved.load(reviews.folder, data=False)
    texts = ["lovely", "this is the film number 3, dull indeed", ""]
    together = model.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        assert model.predict([text])[0]["classes"] == pytest.approx(answer["classes"], rel=1e-5)


def test_the_command_reads_texts_lines_and_prints_json():
    reviews = made("films")
    folder = str(reviews.folder)
    one = rmsprop("predict", folder, "a lovely film, lovely indeed")
    assert one.out.startswith("good (")
    assert len(one.out.splitlines()) == 1
    two = rmsprop("predict", folder, "lovely indeed", "dull indeed")
    assert [line.split("  ")[1] for line in two.out.splitlines()] == [
        "lovely indeed",
        "dull indeed",
    ]
    lines = rmsprop("predict", folder, "-", stdin="lovely indeed\ndull indeed\n")
    assert lines == two
    found = json.loads(rmsprop("predict", folder, "-", "--json", stdin="lovely indeed\n\n").out)
    assert [answer["input"] for answer in found] == ["lovely indeed", ""]
    assert found[0]["label"] == "good"
    nothing = rmsprop("predict", folder, "-", stdin="")
    assert nothing.code == 2
    assert "at least one input" in nothing.err


# Predictions: pictures


def picture_of(images: np.ndarray, k: int, top: float) -> np.ndarray:
    return np.rint(images[k] / top * 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["digits", "digits-cnn", "bars"])
@pytest.mark.parametrize("way", ["light on dark", "dark on light", "RGB", "RGBA", "larger"])
def test_a_picture_of_a_test_row_gets_the_answer_of_the_row(tmp_path, name, way):
    model = saved.load(made(name).folder)
    data = model.dataset
    assert data.images is not None
    top = data.provenance["scaling"]["maximum"]
    p = model.probabilities(data.test.x)
    # Surely told apart: an eighth bit of the gray must not decide.
    rows = [k for k in range(len(p)) if p[k].max() > 0.4][:6]
    files = []
    for k in rows:
        pixels = picture_of(data.images, k, top)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert np.median(border) < 128
        pixels = 255 - pixels if way in ("dark on light", "RGB") else pixels
        image = Image.fromarray(pixels)
        image = image.convert(way) if way.startswith("RGB") else image
        if way == "larger":
            height, width = pixels.shape
            image = image.resize((4 * width, 4 * height), Image.Resampling.NEAREST)
        files.append(str(tmp_path / f"{k}.png"))
        image.save(files[-1])
    answers = model.predict(files)
    assert [a["label"] for a in answers] == [data.classes[p[k].argmax()] for k in rows]
    if way != "larger":
        found = [a["probability"] for a in answers]
        assert found == pytest.approx([p[k].max() for k in rows], abs=0.02)


def test_a_picture_of_a_test_row_of_mnist_is_the_row_itself(tmp_path):
    needs.data_dir()
    data = load("mnist")
    assert data.images is not None
    for k in range(5):
        path = tmp_path / f"{k}.png"
        Image.fromarray(255 - data.images[k].astype(np.uint8)).save(path)
        found = read_inputs(data, [str(path)])
        np.testing.assert_allclose(found[0], data.test.x[k], rtol=1e-5, atol=1e-5)


def test_light_training_images_keep_light_pictures(tmp_path):
    rng = np.random.default_rng(0)
    x = 255 - rng.uniform(0, 40, (20, 8, 8)).round()
    path = tmp_path / "light.npz"
    np.savez(path, x=x.astype(np.uint8), y=np.arange(20) % 2)
    data = load(str(path))
    assert data.images is not None
    top = data.provenance["scaling"]["maximum"]
    pixels = data.images[0] / top * 255
    for name, drawn in (("light", pixels), ("dark", 255 - pixels)):
        Image.fromarray(drawn.round().astype(np.uint8)).save(tmp_path / f"{name}.png")
        found = read_inputs(data, [str(tmp_path / f"{name}.png")])
        np.testing.assert_allclose(found[0], data.test.x[0], atol=0.1)


def test_a_drawing_on_nothing_is_seen(tmp_path):
    """Black ink on a transparent ground, as drawing programs save it."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 3:5, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "ink.png")
    found = read_picture(tmp_path / "ink.png", (8, 8))
    assert found[4, 4] == 0
    assert found[0, 0] == 255


def test_sixteen_bits_of_gray_are_gray(tmp_path):
    pixels = (np.arange(64).reshape(8, 8) * 1024).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    found = read_picture(tmp_path / "deep.png", (8, 8))
    np.testing.assert_allclose(found, pixels / 65535 * 255, atol=1)


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"no picture", ValueError), (b"", ValueError), ("cut", ValueError), ("folder", ValueError),
     (None, FileNotFoundError)],
    ids=str,
)  # fmt: skip
def test_what_is_no_picture_is_told(tmp_path, content, error):
    digits = made("digits")
    path = tmp_path / "a.png"
    if content == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99)).astype(np.uint8)).save(
            path
        )
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    model = saved.load(digits.folder, data=False)
    with pytest.raises(error, match=r"a\.png"):
        model.predict([str(path)])
    result = rmsprop("predict", str(digits.folder), str(path))
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("size", [(20_000, 10_000), (10_001, 2), (9_999, 9_999)], ids=str)
def test_a_picture_of_any_size_is_read_or_refused_in_a_line(tmp_path, size):
    path = tmp_path / "huge.png"
    Image.new("1", size).save(path)
    if max(size) <= 10_000:
        assert read_picture(path, (8, 8)).shape == (8, 8)
        return
    with pytest.raises(ValueError, match="sides of at most 10000 pixels"):
        read_picture(path, (8, 8))


# Predictions: numbers


@pytest.mark.parametrize("name", ["moons", "rent"])
def test_numbers_are_scaled_as_the_training_rows_were(name):
    model = saved.load(made(name).folder)
    scaling = model.dataset.provenance["scaling"]
    x = model.dataset.test.x[:5].astype(np.float64)
    if "mean" in scaling:
        x = x * scaling["std"] + scaling["mean"]
    given = [",".join(map(repr, row)) for row in x.tolist()]
    answers = model.predict(given)
    z = model.scores(model.dataset.test.x[:5])
    if name == "rent":
        assert [a["value"] for a in answers] == pytest.approx(z[:, 0].tolist(), rel=1e-4, abs=1e-5)
        assert set(answers[0]) == {"input", "value"}
    else:
        expected = [("upper", "lower")[int(s > 0)] for s in z[:, 0]]
        assert [a["label"] for a in answers] == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1", ["2 numbers", "got 1", "'1'"]),
        ("1,2,3", ["2 numbers", "got 3"]),
        ("", ["2 numbers", "''"]),
        ("1;2", ["divided by commas", "'1;2'"]),
        ("one,two", ["2 numbers", "'one,two'"]),
        ("1,nan", ["finite", "nan"]),
        ("inf,1", ["finite", "inf"]),
        ("1e39,0", ["finite"]),
        ("1,", ["2 numbers"]),
    ],
)
def test_what_is_no_row_of_numbers_is_told(text, words):
    moons = made("moons")
    with pytest.raises(ValueError, match=r"number|finite") as caught:
        saved.load(moons.folder, data=False).predict([text])
    assert all(word in str(caught.value) for word in words), str(caught.value)
    result = rmsprop("predict", str(moons.folder), text)
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("text", ["-0.5,1", "0.5,-1", " 0.5 , 1e-1 ", "+1,2"])
def test_the_command_takes_rows_that_begin_with_a_minus(text):
    moons = made("moons")
    result = rmsprop("predict", str(moons.folder), text, "--json")
    assert result.code == 0, result.err
    (answer,) = json.loads(result.out)
    assert answer["input"] == text
    assert set(answer["classes"]) == {"upper", "lower"}


def test_the_command_prints_the_value_of_a_regression():
    rent = made("rent")
    found = json.loads(rmsprop("predict", str(rent.folder), "1,2", "3,-4", "--json").out)
    assert [set(a) for a in found] == [{"input", "value"}] * 2
    lines = rmsprop("predict", str(rent.folder), "1,2", "3,-4").out.splitlines()
    assert lines == [f"{a['value']:.6g}  {a['input']}" for a in found]


def test_nothing_to_predict_is_told():
    moons = made("moons")
    with pytest.raises(ValueError, match="at least one input"):
        saved.load(moons.folder, data=False).predict([])


def test_the_classes_are_those_of_the_users_own_data():
    pictures = made("bars")
    reviews = made("films")
    assert saved.load(pictures.folder, data=False).dataset.classes == ("low", "middle", "top")
    assert set(saved.load(reviews.folder, data=False).dataset.classes) == {"good", "bad", "so-so"}
    figures = evaluate(saved.load(pictures.folder))
    assert figures["classes"] == ["low", "middle", "top"]


def test_only_the_likeliest_classes_are_told(tmp_path):
    digits = made("digits")
    model = saved.load(digits.folder)
    assert model.dataset.images is not None
    Image.fromarray((model.dataset.images[0] * 15).astype(np.uint8)).save(tmp_path / "a.png")
    (answer,) = model.predict([str(tmp_path / "a.png")])
    shares = list(answer["classes"].values())
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)
    assert next(iter(answer["classes"])) == answer["label"]
