"""Texts as data: tokens, vocabulary, ids, the files they come from, and what is refused."""

import hashlib
import json
import os
import shutil
import subprocess
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import needs
from rmsprop import data
from rmsprop.baseline import baseline
from rmsprop.data import idx, mnist, reviews
from rmsprop.data.text import PADDING, UNKNOWN
from rmsprop.data.text_files import is_texts, read_tsv

PARTS = ("train", "validation", "test")
SYLLABLES = ["ba", "co", "di", "fu", "ge", "ha", "ki", "lo", "mu", "ne"]


def rows(n: int, labels: str = "01") -> list[tuple[str, str]]:
    """n rows of (label, text), the labels in turn: random words, and one that tells the label."""
    rng = np.random.default_rng([n, *map(ord, labels)])
    pairs = []
    for i in range(n):
        label = labels[i % len(labels)]
        words = ["".join(rng.choice(SYLLABLES, 2)) for _ in range(rng.integers(2, 7))]
        pairs.append((label, " ".join([*words, f"told{label}"])))
    return pairs


def write_tsv(file: Path, pairs: list[tuple[str, str]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ["label\tnumber\ttext"]
    lines += [f"{label}\t{i}\t{text}" for i, (label, text) in enumerate(pairs)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return file


def write_classes(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    for i, (label, text) in enumerate(pairs):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{i:04}.txt").write_text(text, encoding="utf-8")
    return folder


def same(a: data.Dataset, b: data.Dataset, parts: tuple[str, ...] = PARTS) -> bool:
    pairs = [(getattr(a, part), getattr(b, part)) for part in parts]
    return all(np.array_equal(s.x, t.x) and np.array_equal(s.y, t.y) for s, t in pairs)


def decode(d: data.Dataset, part: str) -> list[str]:
    assert d.vocabulary is not None
    return [" ".join(d.vocabulary[i] for i in row if i) for row in getattr(d, part).x]


def encoded(texts: Sequence[str], d: data.Dataset) -> np.ndarray:
    """Token ids as rmsprop predict makes them, padded to the data set's length."""
    assert d.vocabulary is not None
    x = data.encode(texts, d.vocabulary, d.features)
    return np.pad(x, [(0, 0), (0, d.features - x.shape[1])])


# Tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t-- ... ' '' _ () \u0301", []),
        ("The movie", ["the", "movie"]),
        ("don't DON’T donʼt", ["don't"] * 3),
        ("'quoted' o'clock' rock 'n' roll", ["quoted", "o'clock", "rock", "n", "roll"]),
        ("it''s", ["it", "s"]),
        ("Why?! No!!", ["why", "?", "!", "no", "!", "!"]),
        ("7/10, 3.5 stars. 1,000 in 90s", ["7", "10", "3.5", "stars", "1,000", "in", "90s"]),
        ("end.Start a.b 1.a", ["end", "start", "a", "b", "1", "a"]),
        ("snake_case well-made e-mail@x", ["snake", "case", "well", "made", "e", "mail", "x"]),
        ("ﬁlm ＦＩＬＭ ①", ["film", "film", "1"]),
        ("cafe\u0301 caf\xe9", ["caf\xe9", "caf\xe9"]),
        ("J\u030c \u01f0", ["\u01f0", "\u01f0"]),
        ("ÉTÉ ΜΟΥΣΙΚΗ СЕНО straße", ["été", "μουσικη", "сено", "straße"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("！？", ["!", "?"]),
        ("<unknown>", ["unknown"]),
        ("a\0b\u2028c\ud800d", ["a", "b", "c", "d"]),
    ],
)  # fmt: skip
def test_tokens(text, expected):
    assert data.tokens(text) == expected


@given(st.text())
def test_tokens_of_any_text(text):
    found = data.tokens(text)
    assert data.tokens(text) == found
    assert data.tokens(" ".join(found)) == found  # each token is a token, once and for all
    assert data.tokens(unicodedata.normalize("NFKC", text)) == found
    assert not {PADDING, UNKNOWN} & set(found)
    for token in found:
        assert token == unicodedata.normalize("NFKC", token) == token.lower()
        assert token in {"!", "?"} or (token[0].isalnum() and not set(token) & set(" \t\n<>_"))
    normal = unicodedata.normalize("NFKC", text)
    assert sum(t in {"!", "?"} for t in found) == normal.count("!") + normal.count("?")


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1))
def test_every_letter_and_digit_is_kept(words):
    normal = unicodedata.normalize("NFKC", " ".join(words))
    expected = unicodedata.normalize("NFKC", normal.lower())
    kept = [c for c in expected if c.isalnum()]
    assert [c for token in data.tokens(" ".join(words)) for c in token if c.isalnum()] == [
        c
        for c in kept
        if c != "ʼ"  # the letter apostrophe, which becomes a straight one
    ]


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["a"]])
def test_only_strings_have_tokens(text):
    with pytest.raises(TypeError, match="A text must be a str, got"):
        data.tokens(text)


def test_long_text_takes_no_more_than_its_length():
    assert len(data.tokens("a'" * 200_000)) == 1
    assert data.tokens("''" * 200_000 + "1." * 200_000) == ["1" + ".1" * 199_999]


# Vocabulary and ids


def test_vocabulary_ranks_by_count_then_alphabet():
    texts = ["b a c", "c b", "c d", "e?", "?"]
    assert data.make_vocabulary(texts) == ("", "<unknown>", "c", "?", "b", "a", "d", "e")
    assert data.make_vocabulary(texts, 2) == ("", "<unknown>", "c", "?")
    assert data.make_vocabulary(texts, 1) == ("", "<unknown>", "c")


def test_encode_cuts_pads_and_marks():
    vocabulary = data.make_vocabulary(["b a c", "c b", "c d"])
    found = data.encode(["C a b x", "x", "...", ""], vocabulary, longest=3)
    assert found.dtype == np.int32
    assert found.tolist() == [[2, 4, 3], [1, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert data.encode(["a b"], vocabulary).shape == (1, 2)  # no longer than the longest
    assert data.encode(["", "-"], vocabulary).tolist() == [[1], [1]]
    assert data.encode([], vocabulary).shape == (0, 1)
    assert data.encode(["a b"], list(vocabulary), longest=10**12).shape == (1, 2)


@given(st.lists(st.text(), min_size=1), st.lists(st.text(), max_size=8), st.integers(1, 9),
       st.integers(1, 12))  # fmt: skip
def test_encode_says_the_tokens_again(training, texts, words, longest):
    if not any(data.tokens(text) for text in training):
        training = [*training, "word"]
    vocabulary = data.make_vocabulary(training, words)
    assert vocabulary == data.make_vocabulary(training[::-1], words)
    assert len(set(vocabulary)) == len(vocabulary) <= words + 2
    found = data.encode(texts, vocabulary, longest)
    lengths = [min(len(data.tokens(text)), longest) or 1 for text in texts]
    assert found.dtype == np.int32
    assert found.shape == (len(texts), max(lengths, default=1))
    for row, text, length in zip(found, texts, lengths, strict=True):
        assert np.all(row[:length] > 0)
        assert np.all(row[length:] == 0)
        expected = data.tokens(text)[:longest] or [UNKNOWN]
        assert [vocabulary[i] for i in row[:length]] == [
            token if token in vocabulary else UNKNOWN for token in expected
        ]


VOCABULARY = ("", "<unknown>", "a")
WRONG: Any = None
CALLS = {
    "words 0": (lambda: data.make_vocabulary(["a"], 0), ValueError, "words must be at least 1, g"),
    "words None": (lambda: data.make_vocabulary(["a"], WRONG), TypeError, "words must be an integer"),
    "longest 0": (lambda: data.encode(["a"], VOCABULARY, 0), ValueError, "longest must be at least"),
    "longest None": (lambda: data.encode(["a"], VOCABULARY, WRONG), TypeError, "longest must be an"),
    "no word": (lambda: data.make_vocabulary(["", "..."]), ValueError, "no training text holds one"),
    "no text": (lambda: data.make_vocabulary([]), ValueError, "no training text holds one"),
    "one text": (lambda: data.make_vocabulary("a b"), TypeError, r"got one text. Write \['a b'\]"),
    "one text to encode": (lambda: data.encode("a", VOCABULARY), TypeError, "must be a list of te"),
    "other vocabulary": (lambda: data.encode(["a"], ("a",)), ValueError, r"must start with '' and"),
    "longest of reviews": (lambda: data.load("reviews", longest=-1), ValueError, "longest must be"),
    "words of reviews": (lambda: data.load("reviews", words=0), ValueError, "words must be at lea"),
    "kind of reviews": (
        lambda: data.load("reviews", kind="multiclass", data_dir=needs.data_dir()),
        ValueError, "reviews is binary, got 'multiclass'",
    ),
    "kind of texts": (
        lambda: data.from_texts("t", (["a"], ["0"]), kind="regression"),
        ValueError, "kind of texts must be binary, multiclass or None, got 'regression'",
    ),
    "baseline of numbers": (lambda: baseline(data.load("xor")), ValueError, "xor has no texts"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), CALLS.values(), ids=CALLS)
def test_calls_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Files of the user


def test_tsv(tmp_path):
    file = write_tsv(tmp_path / "own.tsv", rows(50))
    d = data.load(file, seed=3)
    assert (d.name, d.kind, d.classes, d.outputs) == ("own", "binary", ("0", "1"), 1)
    assert d.image_shape is None
    assert d.images is None
    assert d.provenance["rows"] == {"train": 30, "validation": 10, "test": 10}
    assert d.provenance["split"].endswith("by seed, stratified")
    assert d.provenance["files"] == {"own.tsv": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert json.loads(json.dumps(d.provenance)) == d.provenance
    assert d.vocabulary is not None
    assert d.texts is not None
    assert d.provenance["vocabulary"] == len(d.vocabulary)
    assert d.provenance["longest"] == d.features
    for part in PARTS:
        split = getattr(d, part)
        assert split.x.dtype == np.int32
        assert split.x.flags.c_contiguous
        assert split.x.shape == (len(split), d.features)
        assert split.y.dtype == np.int64
        assert np.bincount(split.y).tolist() == [len(split) // 2] * 2
    assert np.array_equal(d.test.x, encoded(d.texts, d))
    assert [f"told{y}" in text for y, text in zip(d.test.y, d.texts, strict=True)] == [True] * 10
    ids = d.test.x[d.test.x > 0]
    assert d.provenance["unknown_share_test"] == np.mean(ids == 1) > 0
    read = sorted([*decode(d, "train"), *decode(d, "validation"), *decode(d, "test")])
    assert len(read) == 50
    assert same(d, data.load(file, seed=3))
    assert not same(d, data.load(file, seed=4))


def test_labels_may_be_words_and_numbers_sort_as_numbers(tmp_path):
    words = data.load(write_tsv(tmp_path / "a.tsv", rows(40, "zxy")))
    assert (words.kind, words.classes, words.outputs) == ("multiclass", ("x", "y", "z"), 3)
    names = {"a": "10", "b": "9", "c": "-1"}
    pairs = [(names[label], text) for label, text in rows(40, "abc")]
    numbers = data.load(write_tsv(tmp_path / "b.tsv", pairs))
    assert numbers.classes == ("-1", "9", "10")
    assert numbers.texts is not None
    told = [text[-1] for text in numbers.texts]
    assert [{"a": 2, "b": 1, "c": 0}[letter] for letter in told] == numbers.test.y.tolist()
    two = data.load(write_tsv(tmp_path / "c.tsv", rows(40)), kind="multiclass")
    assert (two.kind, two.outputs) == ("multiclass", 2)


def test_tsv_is_read_as_it_stands(tmp_path):
    file = tmp_path / "a.tsv"
    content = (
        '\ufeffText \tother\tLABEL\r\n"A ""quote\t\t yes \r\n\r\nline\u2028break\x0b\tx\tno\r\n'
    )
    file.write_text(content, encoding="utf-8", newline="")
    assert read_tsv(file)[0] == (['"A ""quote', "line\u2028break\x0b"], ["yes", "no"])


def test_layouts_agree(tmp_path):
    """The same texts as tables, and as folders of classes."""
    parts = {part: rows(n, "ab") for part, n in zip(PARTS, (24, 8, 10), strict=True)}
    for part, pairs in parts.items():
        pairs.sort()  # as folders give them
        write_tsv(tmp_path / "tables" / f"{part}.tsv", pairs)
        write_classes(tmp_path / "folders" / part, pairs)
    (tmp_path / "folders" / "README").write_text("Not a class.")
    (tmp_path / "folders" / "train" / "a" / "notes.md").write_text("Not a text.")
    tables, folders = (data.load(tmp_path / name, seed=1) for name in ("tables", "folders"))
    assert same(tables, folders)
    assert (tables.vocabulary, tables.texts) == (folders.vocabulary, folders.texts)
    assert tables.provenance["split"] == "all three as given"
    assert tables.provenance["rows"] == {"train": 24, "validation": 8, "test": 10}
    assert list(tables.provenance["files"]) == ["train.tsv", "validation.tsv", "test.tsv"]
    assert tables.texts == tuple(text for _, text in parts["test"])
    shutil.rmtree(tmp_path / "folders" / "validation")
    (tmp_path / "tables" / "validation.tsv").unlink()
    tables, folders = (data.load(tmp_path / name, seed=1) for name in ("tables", "folders"))
    assert same(tables, folders)
    assert tables.provenance["rows"] == {"train": 20, "validation": 4, "test": 10}
    assert tables.provenance["split"].startswith("test as given; training 5/6, validation 1/6")


def test_folder_of_classes_is_split(tmp_path):
    folder = write_classes(tmp_path / "own", rows(40, "ab"))
    (folder / ".hidden").mkdir()
    d = data.load(str(folder))
    assert (d.name, d.kind, d.classes) == ("own", "binary", ("a", "b"))
    assert d.provenance["rows"] == {"train": 24, "validation": 8, "test": 8}
    listed = subprocess.run(
        "LC_ALL=C sha256sum *.txt | sha256sum", shell=True, cwd=folder / "a", capture_output=True,
        text=True, check=True,
    ).stdout.split()[0]  # fmt: skip
    assert d.provenance["files"]["a/*.txt"] == listed
    # A class may be called train; without folders in it, it is no split.
    (folder / "a").rename(folder / "train")
    assert data.load(folder).classes == ("b", "train")


def test_idx_goes_the_old_way(tmp_path):
    folder = write_classes(tmp_path, rows(20, "ab"))
    assert is_texts(folder)
    for key, name in idx.FILES.items():
        array = (np.arange(60) % 2).astype(np.uint8)
        array = array.reshape(60, 1, 1) if key.startswith("x") else array
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / name).write_bytes(header + array.tobytes())
    assert not is_texts(folder)
    assert data.load(folder).image_shape == (1, 1)
    (folder / idx.FILES["y_test"]).unlink()
    with pytest.raises(FileNotFoundError, match="lacks t10k-labels-idx1-ubyte"):
        data.load(folder)


def test_links_do_not_loop(tmp_path):
    folder = write_classes(tmp_path / "own", rows(20, "ab"))
    (folder / "train").symlink_to(folder)
    (folder / "test").symlink_to(folder / "test")
    (folder / "a" / "up").symlink_to(tmp_path)
    # train is the folder itself: a split by its content; and test leads nowhere.
    with pytest.raises(FileNotFoundError, match="lacks the folder test"):
        data.load(folder)
    (folder / "train").unlink()
    assert data.load(folder).classes == ("a", "b")


# The vocabulary knows the training texts only


def test_vocabulary_knows_nothing_of_test_and_validation_texts(tmp_path):
    for part, n in zip(PARTS, (30, 10, 10), strict=True):
        write_tsv(tmp_path / f"{part}.tsv", rows(n))
    before = data.load(tmp_path)
    long = [(label, "entirely other words " * 9 + text) for label, text in rows(10)]
    for part in ("validation", "test"):
        write_tsv(tmp_path / f"{part}.tsv", long)
        after = data.load(tmp_path)
        assert after.vocabulary == before.vocabulary
        assert same(before, after, ("train",))
        assert not same(before, after, (part,))
        assert getattr(after, part).x.shape == (10, before.features)
    assert after.provenance["unknown_share_test"] == 1  # the words told01 are beyond the cut


def test_vocabulary_knows_nothing_of_held_out_rows_of_one_file(tmp_path):
    pairs = [(label, f"{text} row{'abcdefghij'[i // 10]}{'abcdefghij'[i % 10]}")
             for i, (label, text) in enumerate(rows(50))]  # fmt: skip
    d = data.load(write_tsv(tmp_path / "a.tsv", pairs), seed=2)
    assert d.vocabulary is not None
    marks = {word for word in d.vocabulary if word.startswith("row")}
    assert len(marks) == len(d.train) == 30
    # Change every row that is not for training: the split is by label, and stays.
    moved = [(y, t if t.split()[-1] in marks else "quite different") for y, t in pairs]
    again = data.load(write_tsv(tmp_path / "a.tsv", moved), seed=2)
    assert again.vocabulary == d.vocabulary
    assert same(d, again, ("train",))
    assert again.texts == ("quite different",) * 10


def test_words_and_longest(tmp_path):
    file = write_tsv(tmp_path / "a.tsv", rows(50))
    d = data.load(file, words=3, longest=2)
    assert d.vocabulary is not None
    assert (len(d.vocabulary), d.features) == (5, 2)
    assert d.provenance["vocabulary"] == 5
    assert d.provenance["longest"] == 2
    assert data.load(file, longest=10**9).features < 10
    with pytest.raises(ValueError, match="words must be at least 1, got 0"):
        data.load(file, words=0)
    with pytest.raises(ValueError, match="longest must be at least 1, got 0"):
        data.load(file, longest=0)


# What is refused

HEAD = b"label\ttext\n"
GOOD = HEAD + b"0\tno\n1\tyes\n" * 5

TSVS = {
    "empty": (b"", "is empty: it must hold a header"),
    "blank": (b"\n \n\t\n", "is empty"),
    "mark alone": (b"\xef\xbb\xbf", "is empty"),
    "no row": (HEAD + b"\n", "holds a header and no row"),
    "no header": (b"0\tno\n1\tyes\n", "line 1: the header must name the columns label and text.* "
                  "got '0', 'no'"),
    "commas": (b"label,text\n0,no\n", "line 1: .* divided by tabs, got 'label,text'"),
    "label twice": (b"label\tLabel\ttext\n0\t1\tno\n", "line 1: .* once each"),
    "long header": (b"x" * 500 + b"\n", r"x\.\.\.\."),
    "ragged": (GOOD + b"\n1\tyes\tand\n", "line 13: 3 cells, but the header has 2"),
    "short": (HEAD + b"0\n", "line 2: 1 cells, but the header has 2"),
    "no label": (GOOD + b" \tyes\n", "line 12: the label is missing"),
    "one class": (HEAD + b"1\tyes\n" * 9, r"must differ, but all 9 are 1"),
    "few of a class": (GOOD[:-6], "Class '1' has 4 rows, but this split needs at least 5 of each"),
    "fractions": (HEAD + b"0.5\tno\n1\tyes\n" * 5, "must be integers or text, got labels such as 0"),
    "latin-1": (GOOD + b"1\tcaf\xe9\n", "line 12: must be UTF-8, but byte 71 of the file is not"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "line 1: must be UTF-8, but byte 0 of the file"),
    "NUL": (GOOD + b"\n1\ta\0b\n", "line 13: must be text, but holds a NUL character"),
    "no word": (HEAD + b"0\t...\n1\t\n" * 5, "no training text holds one"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), TSVS.values(), ids=TSVS)
def test_tsv_refused(content, message, tmp_path):
    file = tmp_path / "a.tsv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(file)
    assert str(file) in str(caught.value)


def test_kinds_of_texts_refused(tmp_path):
    file = write_tsv(tmp_path / "a.tsv", rows(30, "abc"))
    with pytest.raises(ValueError, match=r"a\.tsv: A binary data set has 2 classes, got 3"):
        data.load(file, kind="binary")


@pytest.mark.parametrize("path", ["a.tsv", Path("no/such/folder.tsv")])
def test_missing_tsv(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        data.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_what_is_not_a_plain_file_is_refused(tmp_path):
    folder = write_classes(tmp_path / "own", rows(20, "ab"))
    os.mkfifo(tmp_path / "pipe.tsv")  # reading it would wait for ever
    os.mkfifo(folder / "a" / "pipe.txt")
    with pytest.raises(ValueError, match=r"pipe\.tsv cannot be read: it is not a plain file"):
        data.load(tmp_path / "pipe.tsv")
    with pytest.raises(ValueError, match=r"pipe\.txt cannot be read"):
        data.load(folder)
    (folder / "a" / "pipe.txt").unlink()
    (folder / "b" / "loop.txt").symlink_to("loop.txt")
    with pytest.raises(ValueError, match=r"loop\.txt cannot be read: .* or leads nowhere"):
        data.load(folder)


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="a system without /proc")
def test_unreadable_is_refused(tmp_path):
    file = tmp_path / "a.tsv"
    file.symlink_to("/proc/self/mem")  # nobody can read its start, not even root
    with pytest.raises(ValueError, match=r"a\.tsv cannot be read \(.*rror"):
        data.load(file)


def test_folders_refused(tmp_path):
    folder = write_classes(tmp_path / "own", rows(20, "ab"))
    (folder / "c").mkdir()
    with pytest.raises(ValueError, match=r"own.c: the folder of a class must hold its texts as"):
        data.load(folder)
    (folder / "c" / "1.txt").write_bytes(b"fine\n\xff")
    with pytest.raises(ValueError, match=r"1\.txt, line 2: must be UTF-8, but byte 5"):
        data.load(folder)
    (folder / "c" / "1.txt").write_text("alone")
    with pytest.raises(ValueError, match=r"own: Class 'c' has 1 rows, but .* at least 5"):
        data.load(folder)
    for name in "bc":
        shutil.rmtree(folder / name)
    with pytest.raises(ValueError, match=r"own: Labels must differ, but all 10 are a"):
        data.load(folder)


def test_splits_of_folders_refused(tmp_path):
    write_classes(tmp_path / "train", rows(20, "ab"))
    with pytest.raises(FileNotFoundError, match="lacks the folder test: train and test must both"):
        data.load(tmp_path)
    write_classes(tmp_path / "test", rows(20, "abc"))
    with pytest.raises(ValueError, match="train lacks the folder of c: each split must have the"):
        data.load(tmp_path)


def test_tables_refused(tmp_path):
    write_tsv(tmp_path / "train.tsv", rows(20))
    with pytest.raises(FileNotFoundError, match=r"lacks test\.tsv"):
        data.load(tmp_path)
    write_tsv(tmp_path / "test.tsv", rows(20, "012"))
    with pytest.raises(ValueError, match="Each class needs training rows, but there are none of 2"):
        data.load(tmp_path)
    write_tsv(tmp_path / "test.tsv", rows(20, "ab"))
    with pytest.raises(ValueError, match="but there are none of a, b"):
        data.load(tmp_path)


# The reviews


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no folder named by the environment."""
    monkeypatch.delenv("RMSPROP_DATA", raising=False)
    monkeypatch.setattr(mnist, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def test_reviews_themselves():
    folder = needs.data_dir()
    d = data.load("reviews", data_dir=folder)
    assert (d.name, d.kind, d.classes) == ("reviews", "binary", ("negative", "positive"))
    assert d.provenance["rows"] == {"train": 7046, "validation": 1409, "test": 2113}
    assert d.provenance["licence"] == "MIT"
    assert set(d.provenance["files"]) == set(reviews.FILES)
    assert d.vocabulary is not None
    assert d.texts is not None
    assert len(d.vocabulary) == 5002
    assert d.vocabulary[2:5] == ("the", "a", "and")
    (texts, labels), _ = read_tsv(next(folder.rglob("reviews/test.tsv")))
    assert d.texts == tuple(texts)  # the given rows, in their order
    assert d.test.y.tolist() == [int(label) for label in labels]
    assert np.array_equal(d.test.x, encoded(texts, d))
    y = np.concatenate([d.train.y, d.validation.y])
    assert abs(d.validation.y.mean() - y.mean()) < 1e-3
    assert 0.10 < d.provenance["unknown_share_test"] < 0.15
    assert same(d, data.load("reviews", data_dir=folder, seed=0))
    other = data.load("reviews", data_dir=folder, seed=1)
    assert not np.array_equal(d.train.y, other.train.y)
    assert d.texts == other.texts


def test_reviews_baseline_is_the_known_one():
    """0.774 of a vectorizer with 5,000 words of all training rows; here of five sixths of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [baseline(data.load("reviews", data_dir=needs.data_dir(), seed=s)) for s in (0, 1)]
    assert found == pytest.approx([0.774] * 2, abs=0.012)


def test_baseline_learns_several_classes_and_ignores_padding(tmp_path):
    file = write_tsv(tmp_path / "a.tsv", rows(120, "abc"))
    d = data.load(file)
    assert baseline(d) == 1
    chance = [(label, text.rsplit(" ", 1)[0]) for label, text in rows(400, "ab")]
    assert 0.25 < baseline(data.load(write_tsv(file, chance))) < 0.75


def test_reviews_are_found_in_the_documented_places(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("RMSPROP_DATA", str(tmp_path / "named"))
    places = [
        p.relative_to(tmp_path).as_posix() for p in mnist.folders("reviews", tmp_path / "given")
    ]
    assert places == ["given", "given/reviews", "named", "named/reviews", "cache", "cache/reviews"]
    for number, place in enumerate(reversed(places)):
        write_tsv(tmp_path / place / "train.tsv", rows(24))
        write_tsv(tmp_path / place / "test.tsv", rows(10 + number))
        d = data.load("reviews", data_dir=tmp_path / "given")
        assert len(d.test) == 10 + number  # the first place in the list that holds both
    (tmp_path / "given" / "test.tsv").unlink()
    assert len(data.load("reviews", data_dir=tmp_path / "given").test) == 14


def test_reviews_not_found_says_what_to_do(cache, tmp_path):
    write_tsv(tmp_path / "train.tsv", rows(24))
    with pytest.raises(FileNotFoundError) as caught:
        data.load("reviews", data_dir=tmp_path, download=True)
    message = str(caught.value)
    for said in (
        "  train.tsv\n  test.tsv\n", "divided by tabs and not quoted", "label (0 negative, 1 posit",
        f"  {tmp_path} (lacks test.tsv)", f"{tmp_path / 'reviews'} (none there)",
        f"{cache / 'reviews'} (none there)", "data_dir (--data-dir)", "There is no download",
        "Hutto and E. Gilbert", "ICWSM 2014, MIT",
    ):  # fmt: skip
        assert said in message


@pytest.mark.parametrize(
    ("labels", "message"),
    [("ab", r"train\.tsv is not of the reviews: a label must be 0 .* got 'a'"),
     ("012", r"train\.tsv is not of the reviews: .* got '2'"),
     ("1", "Labels must differ, but all 48 are 1")],
)  # fmt: skip
def test_other_tables_are_not_the_reviews(labels, message, cache, tmp_path):
    for part in ("train", "test"):
        write_tsv(tmp_path / f"{part}.tsv", rows(24, labels))
    with pytest.raises(ValueError, match=message) as caught:
        data.load("reviews", data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_names_know_the_reviews(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "reviews" in data.NAMES
    with pytest.raises(ValueError, match="Did you mean reviews"):
        data.load("review")
