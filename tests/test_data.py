"""The data sets: splits, scaling, files of every format, and what is refused."""

import gzip
import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import needs
from rmsprop import data
from rmsprop.data import idx, mnist

RNG = np.random.default_rng(0)
PARTS = ("train", "validation", "test")


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX file of an array."""
    code = {np.dtype(d).newbyteorder("="): c for c, d in idx.DTYPES.items()}[array.dtype]
    shape = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, code, array.ndim]) + shape + array.astype(idx.DTYPES[code]).tobytes()


def small_mnist(folder: Path, suffix: str = "", train: int = 60, test: int = 20) -> Path:
    """A folder in MNIST's layout, of random 4x3 images."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "x_train": RNG.integers(0, 256, (train, 4, 3), dtype=np.uint8),
        "y_train": (np.arange(train) % 10).astype(np.uint8),
        "x_test": RNG.integers(0, 256, (test, 4, 3), dtype=np.uint8),
        "y_test": (np.arange(test) % 10).astype(np.uint8),
    }
    for key, name in idx.FILES.items():
        content = idx_bytes(arrays[key])
        (folder / (name + suffix)).write_bytes(gzip.compress(content) if suffix else content)
    return folder


def numbered(n: int, y: np.ndarray, seed: int = 0, **arrays: np.ndarray) -> data.Dataset:
    """A data set whose first column is the number of the row, its second random, its third 7."""
    x = np.column_stack([np.arange(n), np.random.default_rng(1).normal(3, 5, n), np.full(n, 7.0)])
    return data.from_arrays("numbered", {"x": arrays.get("x", x), "y": y}, seed=seed)


def row_numbers(d: data.Dataset, part: str) -> np.ndarray:
    scaling = d.provenance["scaling"]
    column = getattr(d, part).x[:, 0].astype(np.float64)
    return np.round(column * scaling["std"][0] + scaling["mean"][0]).astype(int)


LABELS = {
    "binary": np.repeat([0, 1], [150, 50]),
    "multiclass": np.repeat([0, 1, 2, 3], [5, 45, 50, 100]),
    "regression": np.random.default_rng(2).normal(size=200),
}


# The data sets by name


@pytest.mark.parametrize(
    ("name", "kind", "features", "outputs", "rows"),
    [
        ("digits", "multiclass", 64, 10, 1797),
        ("moons", "binary", 2, 1, 1000),
        ("xor", "binary", 3, 1, 1000),
        ("linear", "regression", 5, 1, 1000),
    ],
)
def test_offline_names(name, kind, features, outputs, rows):
    d = data.load(name)
    assert (d.name, d.kind, d.features, d.outputs) == (name, kind, features, outputs)
    assert [len(s) for s in (d.train, d.validation, d.test)] == list(d.provenance["rows"].values())
    assert sum(d.provenance["rows"].values()) == rows
    assert len(d.validation) == len(d.test) == rows // 5
    for part in PARTS:
        split = getattr(d, part)
        assert split.x.dtype == np.float32
        assert split.x.flags.c_contiguous
        assert split.x.shape == (len(split), features)
        assert np.isfinite(split.x).all()
        if kind == "regression":
            assert split.y.dtype == np.float32
            assert split.y.shape == (len(split), 1)
        else:
            assert split.y.dtype == np.int64
            assert split.y.shape == (len(split),)
            assert set(split.y) == set(range(len(d.classes)))
    assert json.loads(json.dumps(d.provenance)) == d.provenance
    same, other = data.load(name), data.load(name, seed=1)
    assert all(np.array_equal(getattr(d, p).x, getattr(same, p).x) for p in PARTS)
    assert not np.array_equal(d.train.x, other.train.x)


def test_digits_keep_their_raw_test_images():
    d = data.load("digits")
    assert d.image_shape == (8, 8)
    assert d.images is not None
    assert d.images.dtype == np.uint8
    assert d.images.max() == 16
    s = d.provenance["scaling"]
    scaled = (d.images.reshape(-1, 64) / s["maximum"] - s["mean"]) / s["std"]
    np.testing.assert_allclose(d.test.x, scaled, rtol=1e-5, atol=1e-6)
    assert abs(d.train.x.mean(dtype=np.float64)) < 1e-6
    assert abs(d.train.x.std(dtype=np.float64) - 1) < 1e-6


def test_xor_is_xor():
    d = data.load("xor")
    assert np.all(d.train.x[:, 2] == 1)
    assert d.provenance["scaling"] == {"method": "none"}
    differ = np.sign(d.train.x[:, 0]) != np.sign(d.train.x[:, 1])
    assert 0.97 < np.mean(differ == d.train.y) < 1  # 1.2 % lie beyond an axis


def test_linear_can_be_fitted_to_its_noise():
    d = data.load("linear")
    w, *_ = np.linalg.lstsq(d.train.x, d.train.y - d.train.y.mean(), rcond=None)
    assert np.mean((d.test.x @ w + d.train.y.mean() - d.test.y) ** 2) == pytest.approx(1, rel=0.2)


def test_import_is_light():
    code = (
        "import sys, rmsprop.data; print(sorted({'sklearn', 'pooch', 'torch'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_representation_is_short():
    d = data.load("xor")
    assert repr(d) == "Dataset('xor', binary, 3 features, 1 output, rows 600/200/200)"
    assert repr(d.test) == "Split(200 rows, 3 features)"


# Splitting and scaling


@pytest.mark.parametrize("kind", LABELS)
def test_splits_are_disjoint_complete_stratified_and_by_seed(kind):
    y = LABELS[kind]
    d = numbered(200, y, seed=3)
    np.random.seed(9)  # noqa: NPY002 - the global state must not matter
    same, other = numbered(200, y, seed=3), numbered(200, y, seed=4)
    assert d.kind == kind
    rows = {part: row_numbers(d, part) for part in PARTS}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(200))
    for part in PARTS:
        split = getattr(d, part)
        assert len(split) == (120 if part == "train" else 40)
        assert np.array_equal(rows[part], row_numbers(same, part))
        assert not np.array_equal(rows[part], row_numbers(other, part))
        assert np.any(np.diff(rows[part]) < 0)  # shuffled, not in file order
        if kind == "regression":
            np.testing.assert_array_equal(split.y[:, 0], y[rows[part]].astype(np.float32))
        else:
            assert np.array_equal(split.y, y[rows[part]])
            share = np.bincount(y) * len(split) / 200
            assert np.all(np.abs(np.bincount(split.y) - share) <= 1)


def test_scaling_knows_the_training_rows_only():
    y = LABELS["binary"]
    d = numbered(200, y)
    assert np.all(d.train.x[:, 2] == 0)  # the constant column
    np.testing.assert_allclose(d.train.x[:, :2].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(d.train.x[:, :2].std(axis=0), 1, rtol=1e-6)
    x = np.column_stack(
        [np.arange(200), np.random.default_rng(1).normal(3, 5, 200), np.full(200, 7.0)]
    )
    held_out = np.concatenate([row_numbers(d, "validation"), row_numbers(d, "test")])
    x[held_out] += 1000
    moved = numbered(200, y, x=x)
    assert np.array_equal(moved.train.x, d.train.x)
    assert moved.provenance["scaling"] == d.provenance["scaling"]
    assert np.all(moved.test.x[:, 2] == 1000)  # centred, not divided


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64, bool])
def test_image_scaling_knows_the_training_rows_only(dtype):
    x = RNG.integers(0, 2, (80, 4, 3)).astype(dtype)
    y = np.arange(80) % 2
    arrays = {"x_train": x[:60], "y_train": y[:60], "x_test": x[60:], "y_test": y[60:]}
    d = data.from_arrays("images", arrays)
    assert d.image_shape == (4, 3)
    assert d.images is not None
    assert d.images.dtype == dtype
    assert abs(d.train.x.mean()) < 1e-6
    assert d.train.x.std() == pytest.approx(1, rel=1e-5)
    brighter = data.from_arrays("images", arrays | {"x_test": np.ones_like(x[60:])})
    assert np.array_equal(d.train.x, brighter.train.x)


def test_images_of_one_colour_stay_finite():
    d = data.from_arrays("black", {"x": np.zeros((20, 2, 2)), "y": np.arange(20) % 2})
    assert np.all(d.train.x == 0)


def test_splits_given_are_kept():
    x, y = RNG.normal(size=(30, 2)), np.arange(30) % 2
    arrays = {"x_train": x[:12], "y_train": y[:12], "x_test": x[12:20], "y_test": y[12:20]}
    taken = data.from_arrays("two", arrays)
    assert [len(getattr(taken, p)) for p in PARTS] == [10, 2, 8]
    assert np.array_equal(taken.test.y, y[12:20])
    kept = data.from_arrays("three", arrays | {"x_val": x[20:], "y_val": y[20:]}, seed=1)
    assert [len(getattr(kept, p)) for p in PARTS] == [12, 10, 8]
    assert np.array_equal(kept.train.y, y[:12])
    assert np.array_equal(kept.validation.y, y[20:])


@pytest.mark.parametrize(("n", "size"), [(0, 3), (1, 1), (1, 5), (6, 3), (7, 3)])
def test_batches_hold_each_row_once(n, size):
    found = list(data.batches(n, size, np.random.default_rng(0)))
    assert [len(b) for b in found] == [size] * (n // size) + ([n % size] if n % size else [])
    assert sorted(np.concatenate([np.array([], int), *found])) == list(range(n))
    again = list(data.batches(n, size, np.random.default_rng(0)))
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))


# Labels


@pytest.mark.parametrize(
    ("y", "kind", "expected", "classes"),
    [
        (np.array([2, 9] * 10), None, "binary", ("2", "9")),
        (np.array([10, 2, 30, 2] * 5), None, "multiclass", ("2", "10", "30")),
        (np.array([-1.0, 1.0] * 10), None, "binary", ("-1", "1")),
        (np.array([False, True] * 10), None, "binary", ("0", "1")),
        (np.array(["b", "a"] * 10), None, "binary", ("a", "b")),
        (np.array([b"b", b"a"] * 10), None, "binary", ("a", "b")),
        (np.array([0, 1] * 10).reshape(-1, 1), None, "binary", ("0", "1")),
        (np.array([0.5, 1.5] * 10), None, "regression", ()),
        (np.arange(20), None, "regression", ()),
        (np.array([0, 1] * 10), "regression", "regression", ()),
        (np.array([0, 1] * 10), "multiclass", "multiclass", ("0", "1")),
        (np.repeat(np.arange(101), 5), None, "regression", ()),
        (np.repeat(np.arange(100), 5), None, "multiclass", tuple(map(str, range(100)))),
        (np.repeat(np.arange(101), 5), "multiclass", "multiclass", tuple(map(str, range(101)))),
    ],
)
def test_labels_decide_the_kind(y, kind, expected, classes):
    x = RNG.normal(size=(len(y), 2))
    d = data.from_arrays("labels", {"x": x, "y": y}, kind=kind)
    assert (d.kind, d.classes) == (expected, classes)
    assert d.outputs == (len(classes) if expected == "multiclass" else 1)


# Files of the user


CSV = {
    "plain": "1,2,0\n3,4,1\n",
    "header": "a,b,kind of\n1,2,0\n3,4,1\n",
    "numbers as header": "0,1,label\n1,2,0\n3,4,1\n",
    "label first": "Label,a,b\n0,1,2\n1,3,4\n",
    "target in the middle": "a,target,b\n1,0,2\n3,1,4\n",
    "label before y": "y,b,label\n1,2,0\n3,4,1\n",
    "text": "1,2,no\n3,4,yes\n",
    "a class named none": "1,2,none\n3,4,some\n",
    "windows": "\ufeffa,b,c\r\n1,2,0\r\n\r\n3,4,1\r\n",
    "quotes and spaces": '"a, or b",b,c\n 1 ,"2", 0\n3,4,1\n',
}


@pytest.mark.parametrize("text", CSV.values(), ids=CSV)
def test_csv(text, tmp_path):
    file = tmp_path / "own.csv"
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    file.write_text(text + "".join(lines[-2:]) * 9, encoding="utf-8", newline="")
    d = data.load(file)
    assert (d.kind, d.features, len(d.classes)) == ("binary", 2, 2)
    assert sum(d.provenance["rows"].values()) == 20
    np.testing.assert_allclose(d.provenance["scaling"]["mean"], [2, 3])
    np.testing.assert_allclose(d.train.x, np.where(d.train.y[:, None] == 1, [1, 1], [-1, -1]))
    assert d.provenance["files"] == {"own.csv": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_csv_regression_keeps_its_targets(tmp_path):
    x = RNG.normal(size=(20, 2))
    table = np.column_stack([x, x @ [1000.0, -2.5]])
    np.savetxt(tmp_path / "own.csv", table, delimiter=",")
    d = data.load(tmp_path / "own.csv")
    assert d.kind == "regression"
    assert d.classes == ()
    together = np.concatenate([d.train.y, d.validation.y, d.test.y])[:, 0]
    np.testing.assert_allclose(np.sort(together), np.sort(table[:, 2]), rtol=1e-6)


def test_npz_and_folder_agree(tmp_path):
    folder = small_mnist(tmp_path / "own", ".gz")
    arrays, hashes = idx.read_folder(folder)
    np.savez_compressed(tmp_path / "own.npz", allow_pickle=False, other=np.ones(1), **arrays)
    a, b = data.load(folder, seed=2), data.load(str(tmp_path / "own.npz"), seed=2)
    assert (a.kind, a.image_shape, len(a.train), len(a.validation)) == (
        "multiclass",
        (4, 3),
        50,
        10,
    )
    for part in PARTS:
        assert np.array_equal(getattr(a, part).x, getattr(b, part).x)
        assert np.array_equal(getattr(a, part).y, getattr(b, part).y)
    assert a.images is not None
    assert np.array_equal(a.images, arrays["x_test"])
    assert a.provenance["files"] == hashes
    plain = small_mnist(tmp_path / "plain") / "train-images-idx3-ubyte"
    assert idx.read_idx_and_hash(plain)[1] == hashlib.sha256(plain.read_bytes()).hexdigest()


# IDX


@settings(max_examples=60, deadline=None)
@given(
    array=st.sampled_from(list(idx.DTYPES.values())).flatmap(
        lambda d: hnp.arrays(
            np.dtype(d).newbyteorder("="), hnp.array_shapes(max_dims=4, min_side=0)
        )
    ),
    zipped=st.booleans(),
)
def test_idx_round_trip(tmp_path_factory, array, zipped):
    file = tmp_path_factory.getbasetemp() / "round.idx"
    content = idx_bytes(array)
    file.write_bytes(gzip.compress(content) if zipped else content)
    found = data.read_idx(file)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.flags.writeable
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_cut_anywhere_or_continued_is_refused(tmp_path, zipped):
    content = idx_bytes(np.arange(6, dtype=np.int16).reshape(2, 3))
    content = gzip.compress(content) if zipped else content
    file = tmp_path / "cut.idx"
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.idx"):
            data.read_idx(file)
    file.write_bytes(content + b"x")
    with pytest.raises(ValueError, match=r"cut\.idx"):
        data.read_idx(file)


def header(code: int, *shape: int) -> bytes:
    return bytes([0, 0, code, len(shape)]) + np.array(shape, ">u4").tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG and more", "not IDX: it starts with 89 50 4e 47"),
        (b"", "not IDX: it starts with nothing"),
        (bytes([0, 0, 7, 1, 0, 0, 0, 1, 5]), "element type 0x07 must be one of 0x08"),
        (bytes([0, 0, 8, 0, 5]), "0 dimensions must be 1 to 64"),
        (header(8, *[1] * 65) + b"1", "65 dimensions must be 1 to 64"),
        (header(8, 2**32 - 1, 2**32 - 1), "more than the limit"),
        (header(8, 0, 2**32 - 1, 2**32 - 1), "more than the limit"),
        (header(14, 2**28), "more than the file can hold"),
        (gzip.compress(header(8, 2**31)), "more than the file can hold"),
        (gzip.compress(header(8, 3) + b"1234"), "goes on after its end"),
        (gzip.compress(header(8, 3) + b"12"), "is cut short"),
        (gzip.compress(header(8, 3) + b"123")[:-6] + b"\0" * 6, "damaged gzip"),
        (gzip.compress(header(8, 1) + bytes(10**7)), "goes on after its end"),  # a bomb
    ],
)
def test_idx_refuses(tmp_path, content, message):
    file = tmp_path / "bad.idx"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.read_idx(file)
    assert "bad.idx" in str(caught.value)


def test_idx_limit(tmp_path):
    file = tmp_path / "a.idx"
    file.write_bytes(header(8, 3) + b"123")
    assert len(data.read_idx(file, max_bytes=3)) == 3
    with pytest.raises(ValueError, match=r"means 3 bytes, more than the limit \(2\)"):
        data.read_idx(file, max_bytes=2)


# What is refused


X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
NAN = X.copy()
NAN[3, 1] = np.nan

ARRAYS = {
    "no arrays": ({}, "got none"),
    "only x": ({"x": X}, "must be x and y; or x_train"),
    "x_val alone": (
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "x_val": X},
        "perhaps x_val, y_val; got x_train",
    ),
    "lengths": ({"x": X, "y": Y[:19]}, r"each of the 20 rows of x: .* got \(19,\)"),
    "one-hot": ({"x": X, "y": np.eye(20)}, r"got \(20, 20\)"),
    "x of 1 dimension": ({"x": X[:, 0], "y": Y}, r"got \(20,\). One feature is x.reshape"),
    "x of 4 dimensions": ({"x": X[..., None, None], "y": Y}, r"got \(20, 2, 1, 1\)"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, r"got \(0, 2\)"),
    "complex": ({"x": X + 1j, "y": Y}, "x must hold real numbers, got dtype complex128"),
    "text as x": ({"x": X.astype(str), "y": Y}, "x must hold real numbers, got dtype <U"),
    "objects": ({"x": X, "y": Y.astype(object)}, "y must hold real numbers or text, got dtype obj"),
    "NaN": ({"x": NAN, "y": Y}, r"x\[3, 1\] is nan"),
    "infinity as label": ({"x": X, "y": np.where(X[:, 0] == 4, np.inf, 0)}, r"y\[2\] is inf"),
    "one class": ({"x": X, "y": np.zeros(20)}, "must differ, but all 20 are 0"),
    "few of a class": (
        {"x": X, "y": np.repeat([4, 5], [16, 4])},
        "Class '5' has 4 rows, but this split needs at least 5 of each class",
    ),
    "few of a class beside test rows": (
        {"x_train": X, "y_train": np.repeat([4, 5], [15, 5]), "x_test": X, "y_test": Y + 4},
        "Class '5' has 5 rows, but this split needs at least 6 of each class",
    ),
    "few rows": ({"x": X[:4], "y": X[:4, 0] / 3}, "has 4 rows, but this split needs at least 5"),
    "class without training rows": (
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1, "x_val": X, "y_val": Y},
        "there are none of 2",
    ),
    "other features": (
        {"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y},
        "need the same features",
    ),
    "text and numbers": (
        {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y.astype(str)},
        "text in all splits, or numbers in all",
    ),
    "overflow": ({"x": X * 1e306, "y": Y}, "column mean and standard deviation"),
    "overflow of pixels": ({"x": X.reshape(20, 2, 1) * 1e306, "y": Y}, "as scaled float32"),
    "overflow of images": ({"x": X.reshape(20, 2, 1) * 1e300, "y": Y}, "as scaled float32"),
    "overflow of targets": ({"x": X, "y": X[:, 0] * 1e38 / 3}, "y as float32"),
}


@pytest.mark.parametrize(("arrays", "message"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_refused(arrays, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        data.from_arrays("bad", arrays)
    if "y" in arrays and arrays["y"].dtype == object:
        message = "cannot read y .* Objects are refused"
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message if arrays else "it holds nothing") as caught:
        data.load(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


@pytest.mark.parametrize(
    ("y", "kind", "message"),
    [
        (Y, "binery", "kind must be one of binary, multiclass, regression, or None, got 'binery'"),
        (Y.astype(str), "regression", "needs numbers as labels, got text such as '0'"),
        (Y + 0.5, "multiclass", "Classes must be integers or text, got labels such as 0.5"),
        (np.arange(20) // 5, "binary", "has 2 classes, got 4"),
    ],
)
def test_kinds_refused(y, kind, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays("bad", {"x": X, "y": y}, kind=kind)


FILES = {
    "empty csv": ("a.csv", b"", "is empty"),
    "blank csv": ("a.csv", b"\n , \n", "is empty"),
    "one column": ("a.csv", b"1;2\n3;4\n", "divided by commas"),
    "header alone": ("a.csv", b"a,b\n", "line 1, column 1 is 'a'"),
    "not a number": ("a.csv", b"a,b,c\n1,2,0\n1,red,0\n", "line 3, column 2 'b' is 'red'"),
    "missing": ("a.csv", b"a,b,c\n1,2,0\n\n1,,0\n", "line 4, column 2 'b' is missing"),
    "missing in the first row": ("a.csv", b",2,0\n1,2,0\n", "line 1, column 1 is missing"),
    "NA in the first row": ("a.csv", b"NA,2,0\n1,2,0\n", "line 1, column 1 is missing"),
    "NaN": ("a.csv", b"1,2,0\n1,nan,0\n", "line 2, column 2 is missing"),
    "infinity": ("a.csv", b"1,2,0\n1,-inf,0\n", "line 2, column 2 is '-inf'"),
    "missing label": ("a.csv", b"label,b\ncat,1\n,2\n", "line 3, column 1 'label' is missing"),
    "missing among numbers": ("a.csv", b"1,2,0\n1,2,NA\n", "line 2, column 3 is missing"),
    "infinite label": ("a.csv", b"1,2,0\n1,2,inf\n", "line 2, column 3 is 'inf'"),
    "ragged": ("a.csv", b"1,2,0\n1,2\n", "line 2: 2 cells, but the first row has 3"),
    "latin-1": ("a.csv", "1,2,caf\xe9\n".encode("latin-1"), "must be UTF-8, but byte 7"),
    "NUL": ("a.csv", b"1,2,\x00\n", "holds a NUL character"),
    "huge cell": ("a.csv", b"1," + b"2" * 200_000, "line 1: not a csv file"),
    "few rows": ("a.csv", b"1,2,0\n3,4,1\n" * 2, "has 2 rows, but this split needs at least 5"),
    "not npz": ("a.npz", b"hello", "is not an .npz"),
    "extension": ("a.xlsx", b"", "must be an .npz, a .csv, a .tsv of texts or a folder, got .xlsx"),
    "no extension": ("a", b"", "got no suffix"),
}


@pytest.mark.parametrize(("name", "content", "message"), FILES.values(), ids=FILES)
def test_files_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_damaged_npz_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, x=X, y=Y)
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes(20) + whole[120:])
    with pytest.raises(ValueError, match="cannot read x"):
        data.load(file)
    file.write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x00"))  # the archive's own index
    with pytest.raises(ValueError, match="cannot read its index"):
        data.load(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", "hello")
    with pytest.raises(ValueError, match=r"a\.npz"):
        data.load(file)


NAMES = {
    "near": ("digit", ValueError, "named 'digit'. Did you mean digits"),
    "capitals": ("MNIST", ValueError, "Did you mean mnist"),
    "unknown": ("whatever", ValueError, "named 'whatever'. The names are digits, moons, xor"),
    "no such file": ("some/thing.csv", FileNotFoundError, "no file or folder"),
    "no such path": (Path("digits"), FileNotFoundError, "no file or folder digits"),
}


@pytest.mark.parametrize(("name", "error", "message"), NAMES.values(), ids=NAMES)
def test_names_refused(name, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        data.load(name)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed must be 0 to"),
        ({"seed": 2**32}, ValueError, "seed must be 0 to"),
        ({"seed": 0.5}, TypeError, "integer"),
        ({"kind": "binary"}, ValueError, "digits is multiclass, got 'binary'"),
    ],
)
def test_options_refused(options, error, message):
    with pytest.raises(error, match=message):
        data.load("digits", **options)


@pytest.mark.parametrize(("n", "size"), [(5, 0), (-1, 2)])
def test_batches_refuse_at_once(n, size):
    with pytest.raises(ValueError, match="batch_size >= 1 and n >= 0"):
        data.batches(n, size, np.random.default_rng(0))


# MNIST


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no folder named by the environment."""
    monkeypatch.delenv("RMSPROP_DATA", raising=False)
    monkeypatch.setattr(mnist, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small stand-in for MNIST's files, and its hashes in place of MNIST's."""
    folder = small_mnist(tmp_path / "served", ".gz")
    monkeypatch.setattr(mnist, "SHA256", idx.read_folder(folder)[1])
    return folder


@pytest.fixture
def server(small, monkeypatch):
    """A web server on this machine with the four files, in place of the mirror."""
    needs.package("pooch")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(small))) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(mnist, "BASE_URL", f"http://127.0.0.1:{web.server_port}/")
        yield small
        web.shutdown()
        thread.join()


def test_mnist_itself():
    d = data.load("mnist", data_dir=needs.data_dir())
    assert d.provenance["rows"] == {"train": 50_000, "validation": 10_000, "test": 10_000}
    assert d.provenance["files"] == mnist.SHA256
    assert (d.kind, d.features, d.outputs, d.image_shape) == ("multiclass", 784, 10, (28, 28))
    assert d.classes == tuple("0123456789")
    assert d.test.y[:5].tolist() == [7, 2, 1, 0, 4]  # the official order
    assert d.images is not None
    assert d.images.shape == (10_000, 28, 28)
    assert np.bincount(d.train.y).tolist() != np.bincount(d.validation.y).tolist()
    official = np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    assert np.all(np.bincount(d.train.y) + np.bincount(d.validation.y) == official)
    assert np.all(np.abs(np.bincount(d.validation.y) - official / 6) <= 1)
    scaling = d.provenance["scaling"]
    assert scaling["mean"] == pytest.approx(0.1307, abs=5e-4)
    assert scaling["std"] == pytest.approx(0.3081, abs=5e-4)
    assert abs(d.train.x.mean(dtype=np.float64)) < 1e-6


def test_mnist_is_found_in_the_documented_places(small, cache, tmp_path, monkeypatch):
    def places():
        return [
            p.relative_to(tmp_path).as_posix() for p in mnist.folders("mnist", tmp_path / "given")
        ]

    monkeypatch.setenv("RMSPROP_DATA", str(tmp_path / "named"))
    assert places() == ["given", "given/mnist", "named", "named/mnist", "cache", "cache/mnist"]
    for place in reversed(places()):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        for file in small.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        d = data.load("mnist", data_dir=tmp_path / "given")
        assert d.provenance["rows"] == {"train": 50, "validation": 10, "test": 20}
        # the place tried next is earlier in the list: break this one, to see that it is not read
        (folder / "train-images-idx3-ubyte.gz").write_bytes(b"broken")


def test_mnist_not_found_says_what_to_do(cache, tmp_path):
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(FileNotFoundError) as caught:
        data.load("mnist", data_dir=tmp_path)
    message = str(caught.value)
    assert all(f"  {name}\n" in message for name in idx.FILES.values())
    assert f"{tmp_path} (lacks train-images-idx3-ubyte, t10k" in message
    assert f"{cache / 'mnist'} (none there)" in message
    assert "load('mnist', download=True)" in message


def test_other_files_are_not_mnist(cache, tmp_path):
    folder = small_mnist(tmp_path / "mnist")
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.* must be ba8910.*, got "):
        data.load("mnist", data_dir=tmp_path)
    assert data.load(folder).kind == "multiclass"  # as a folder of one's own it is fine


def test_download(server, cache, tmp_path):
    d = data.load("mnist", download=True)
    assert d.provenance["files"] == mnist.SHA256
    assert sorted(f.name for f in (cache / "mnist").iterdir()) == sorted(
        f"{name}.gz" for name in idx.FILES.values()
    )
    for file in server.iterdir():
        file.unlink()
    assert np.array_equal(data.load("mnist").train.x, d.train.x)  # from the cache
    with pytest.raises(OSError, match=r"Cannot download .*404"):
        mnist.download_mnist(tmp_path / "other")


def test_download_goes_to_data_dir_and_only_for_what_is_missing(server, cache, tmp_path):
    folder = tmp_path / "given" / "mnist"
    folder.mkdir(parents=True)
    present = server / "train-images-idx3-ubyte.gz"
    present.rename(folder / present.name)
    assert data.load("mnist", data_dir=tmp_path / "given", download=True).name == "mnist"
    assert len(list(folder.iterdir())) == 4
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["other content", "cut", "not gzip"])
def test_damaged_download_is_not_kept(server, cache, damage):
    file = server / "train-images-idx3-ubyte.gz"
    content = file.read_bytes()
    other = bytearray(gzip.decompress(content))
    other[-1] ^= 1
    file.write_bytes(
        {"other content": gzip.compress(other), "cut": content[:-9], "not gzip": b"<html>"}[damage]
    )
    message = {"other content": "SHA-256", "cut": "damaged gzip", "not gzip": "not IDX"}[damage]
    with pytest.raises(ValueError, match=message):
        data.load("mnist", download=True)
    assert list((cache / "mnist").iterdir()) == []


def test_download_without_a_server_or_pooch(cache, monkeypatch):
    needs.package("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(OSError, match=r"Cannot download http://127\.0\.0\.1:1/train-images"):
        data.download_mnist(cache, base_url="http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'rmsprop"):
        data.load("mnist", download=True)


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "set/rmsprop"),
        ("linux", None, "home/.cache/rmsprop"),
        ("darwin", None, "home/Library/Caches/rmsprop"),
        ("win32", "LOCALAPPDATA", "set/rmsprop"),
        ("win32", None, "home/AppData/Local/rmsprop"),
    ],
)
def test_cache_by_platform(platform, variable, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "set"))
    assert data.cache_dir() == tmp_path / expected


# The helper for what a machine lacks


def test_needs(monkeypatch):
    assert needs.package("numpy") is np
    monkeypatch.delenv("RMSPROP_DATA", raising=False)
    monkeypatch.delenv("RMSPROP_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="RMSPROP_DATA is not set"):
        needs.data_dir()
    monkeypatch.setenv("RMSPROP_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="RMSPROP_DATA is not set"):
        needs.data_dir()
    with pytest.raises(pytest.fail.Exception, match="pip install no_such_package"):
        needs.package("no_such_package")
