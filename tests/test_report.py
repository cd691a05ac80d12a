"""The report: its numbers are those of run.json, its page needs nothing else, no file is half written."""

import base64
import copy
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import needs
from rmsprop import report
from rmsprop.compare import compare_task
from rmsprop.compare_surfaces import compare_surface
from rmsprop.entries import entries
from rmsprop.surfaces import SURFACES
from rmsprop.tasks import Task
from test_compare import SMALL, TWO, digits_study, noisy_study, surface_study
from test_tasks import write_csv, write_npz

Study = dict[str, Any]
COMMAND = "rmsprop compare digits --epochs 4"
HOSTILE = """<script>alert(1)</script><img src="http://x.example/a.png" onerror='alert(2)'>&amp;"""
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    """A page taken apart: its elements, its text, the rows of its table, its notes."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)
        self.texts.setdefault(tag, []).append("")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return self.texts["body"][0]


def assert_needs_nothing(text: str) -> Page:
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "data", "action", "poster", "background"):
                assert value.startswith("data:"), (tag, value)
            assert "http-equiv" not in name
    style = page.texts["style"][0]
    assert "url(" not in style
    assert "@import" not in style
    assert text.lower().startswith("<!doctype html>")
    return page


def pictures(page: Page) -> list[Image.Image]:
    found = [a for tag, a in page.elements if tag == "img"]
    assert all(a["alt"] for a in found)
    return [
        Image.open(io.BytesIO(base64.b64decode(a["src"].split(",")[1], validate=True)))
        for a in found
    ]


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    assert report.write(digits_study(), folder, command=COMMAND) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def surface(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("surface")
    report.write(
        surface_study(), folder, command="rmsprop compare x", surface=SURFACES["rosenbrock"]
    )
    return folder


@pytest.fixture
def unrendered(monkeypatch) -> None:
    """Pictures of one pixel, for tests of the words around them."""

    def pixel(self: Figure, target: Any, **options: Any) -> None:
        Image.new("RGB", (1, 1)).save(target, format="png")

    monkeypatch.setattr(Figure, "savefig", pixel)


def read(folder: Path) -> tuple[Study, Page]:
    study = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return study, Page((folder / "report.html").read_text(encoding="utf-8"))


# Numbers


def percent(interval: Study) -> str:
    mean, low, high = (100 * interval[k] for k in ("mean", "low", "high"))
    return f"{mean:.2f}% {low:.2f} to {high:.2f}"


def test_every_number_of_a_tasks_table_is_that_of_run_json(digits):
    study, page = read(digits)
    target = study["settings"]["target"]
    assert page.rows[0][:2] == ["optimizer", "learning rate"]
    assert page.rows[0][2].startswith("test accuracy")
    assert page.rows[0][3].startswith(f"steps to {100 * target:.2f}%")
    assert len(page.rows) == 1 + len(study["entries"])
    for row, e in zip(page.rows[1:], study["entries"], strict=True):
        part = "" if e["reached"] == 4 else f" {e['reached']} of 4"
        good = e["good_lrs"]
        assert row == [
            e["label"],
            f"{e['lr']:.3g}" + (" given" if e["fixed"] else ""),
            percent(e["test_score"]),
            f"{e['steps_to_target']:,.0f}{part}" if e["reached"] else "never",
            f"{e['seconds_to_target']:.2g}" if e["reached"] else "",
            f"{good['low']:.2g} to {good['high']:.2g}" if good else "",
            f"{e['search_diverged']} of {e['search_runs']}" if e["search_runs"] else "",
        ]
    assert study["entries"][2]["fixed"]
    assert page.texts["h1"] == ["digits: optimizers compared"]


def test_every_number_of_a_surfaces_table_is_that_of_run_json(surface):
    study, page = read(surface)
    assert page.rows[0][3] == f"stepsto {study['settings']['target']:.2g} above"
    for row, e in zip(page.rows[1:], study["entries"], strict=True):
        x, y = e["path"]["positions"][-1]
        assert row == [
            e["label"],
            f"{e['lr']:.3g}",
            f"{e['final']['mean']:.2g}",
            f"{e['steps_to_target']:,.0f}" if e["reached"] else "never",
            f"({x:.4g}, {y:.4g})",
            f"{e['search_diverged']} of 11",
        ]
    assert int(page.rows[2][5].split()[0]) > 0


def test_intervals_are_shown_where_there_is_noise(unrendered):
    study = noisy_study()
    page = Page(report.html({"command": "x"} | study, SURFACES["rosenbrock"]))
    final = study["entries"][0]["final"]
    assert page.rows[1][2] == f"{final['mean']:.2g} {final['low']:.2g} to {final['high']:.2g}"
    assert page.rows[2][1] == "0.0005 given"
    assert "noise of standard deviation 5 added" in page.text


def test_the_page_says_what_was_found_how_and_how_to_do_it_again(digits):
    study, page = read(digits)
    assert page.texts["p"][0] == study["verdict"]
    assert study["verdict"].startswith("On digits, ")
    for words in (
        *study["caveats"],
        *(e["equations"] for e in study["entries"]),
        "5 learning rates from 0.0001 to 3.2",
        "after 4 epochs of mini-batches of 32; the final 4 runs use other seeds",
        "Network: 64-64-10, relu",
        study["task"]["provenance"]["source"],
        "Learning-rate schedule: cosine.",
        COMMAND,
        study["created"],
        f"numpy {study['versions']['numpy']}",
    ):
        assert words in page.text, words
    assert page.text.index("Read with care") < page.text.index("How it was measured")
    assert study["command"] == COMMAND


def test_run_json_is_the_whole_study(digits):
    study, _ = read(digits)
    expected = json.loads(json.dumps(digits_study()))
    assert study == {"command": COMMAND} | expected


def test_a_report_can_be_made_again_from_run_json(surface):
    study, _ = read(surface)
    again = report.html(study, SURFACES["rosenbrock"])
    assert again == (surface / "report.html").read_text(encoding="utf-8")


# The page


def test_the_pages_need_nothing_from_outside(digits, surface):
    for folder, count in ((digits, 5), (surface, 2)):
        text = (folder / "report.html").read_text(encoding="utf-8")
        page = assert_needs_nothing(text)
        assert not re.search(r"https?://|//[a-z]+\.|file:", re.sub(r"data:[^\"]*", "", text))
        found = pictures(page)
        assert len(found) == len(page.texts["h2"]) - 4 == count
        for image in found:
            image.load()
            assert image.format == "PNG"
            assert min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5  # something is drawn


def with_hostile_words(study: Study) -> Study:
    study = copy.deepcopy(study)
    study["command"] = HOSTILE
    study["verdict"] += HOSTILE
    study["caveats"].append(HOSTILE)
    study["machine"]["processor"] = study["versions"]["numpy"] = HOSTILE
    for e in study["entries"]:
        e["label"] += HOSTILE
        e["equations"] += HOSTILE
    return study


def assert_harmless(text: str, times: int) -> None:
    page = assert_needs_nothing(text)
    assert page.text.count(HOSTILE) >= times
    assert "<script" not in text
    assert 'src="http' not in text
    assert page.text.count("&lt;") == page.text.count("&amp;lt;") == 0  # escaped once


def test_what_comes_from_outside_cannot_become_markup(unrendered):
    study = with_hostile_words(digits_study())
    study["task"]["name"] = study["task"]["provenance"]["source"] = HOSTILE
    assert_harmless(report.html(study), times=5 + 2 * 4 + 3)
    study = with_hostile_words(surface_study())
    study["surface"]["name"] = HOSTILE
    assert_harmless(report.html(study, SURFACES["rosenbrock"]), times=5 + 2 * 3 + 1)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Any:
    """Open a page in a real browser: what it says on standard output and error."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        needs.lacking("chromium is not installed")

    def visit(page: Path, *options: str) -> tuple[str, str]:
        profile = tmp_path_factory.mktemp("profile")
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0",
            *options, page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout, done.stderr

    return visit


@pytest.mark.long
def test_a_browser_opens_the_page_without_a_complaint(digits, browser):
    _, page = read(digits)
    dom, log = browser(digits / "report.html", "--dump-dom")
    assert "CONSOLE" not in log
    seen = Page(dom)
    assert seen.rows == page.rows
    assert seen.texts["h2"] == page.texts["h2"]
    assert len(pictures(seen)) == 5


@pytest.mark.long
def test_a_browser_shows_the_pictures(surface, browser, tmp_path):
    shot = tmp_path / "shot.png"
    _, log = browser(surface / "report.html", f"--screenshot={shot}", "--window-size=1000,1800")
    assert "CONSOLE" not in log
    with Image.open(shot) as image:
        assert image.size == (1000, 1800)
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500  # contours, not text alone
    orange = np.abs(pixels - (0xD5, 0x5E, 0x00)).max(axis=2) < 12
    assert orange.sum() > 300  # RMSprop's path
    assert (pixels[:, :, 0] < 128).any(axis=1).mean() > 0.3  # spread over the page


@pytest.mark.long
def test_a_browsers_complaint_would_be_seen(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><title>x</title><script>nothing.there()</script>")
    assert "CONSOLE" in browser(page, "--dump-dom")[1]


# Studies that are not the usual ones


def test_an_optimizer_without_a_result_has_a_row_that_says_so(unrendered):
    task = Task.of("digits", epochs=1)
    study = compare_task(
        task, entries(["sgd", "rmsprop:lr=0.01"], []), **SMALL, lr_range=(1e6, 1e9)
    )
    page = Page(report.html({"command": "x"} | study))
    assert page.rows[1] == ["SGD", "none worked", "none finished", "never", "", "", "3 of 3"]
    alone = compare_task(task, TWO[1:], **SMALL, lr_range=(1e6, 1e9))
    page = Page(report.html({"command": "x"} | alone))
    assert page.rows[0][3].startswith("steps to no target")
    assert "No optimizer finished" in page.text


def test_a_surface_where_an_optimizer_diverges_at_every_rate(unrendered):
    surface = SURFACES["rosenbrock"]
    study = compare_surface(surface, TWO, steps=50, lr_range=(1.0, 10.0), budget=3)
    page = Page(report.html({"command": "x"} | study, surface))
    assert page.rows[2] == ["SGD", "none worked", "diverged", "never", "", "3 of 3"]


def test_a_regression_is_not_in_per_cent(unrendered, tmp_path):
    task = Task.of(str(write_csv(tmp_path / "rent.csv")), epochs=3)
    study = compare_task(task, TWO, **SMALL)
    page = Page(report.html({"command": "x"} | study))
    score = study["entries"][0]["test_score"]
    assert page.rows[1][2] == f"{score['mean']:.4f} {score['low']:.4f} to {score['high']:.4f}"
    assert page.rows[0][2].startswith("test R^2")
    assert "%" not in "".join(page.rows[1])
    assert page.rows[0][3].startswith(f"steps to {study['settings']['target']:.4f}")


def test_one_seed_has_no_interval_and_few_pictures_are_shown(unrendered, tmp_path):
    task = Task.of(str(write_npz(tmp_path / "bars.npz")), epochs=5, batch_size=8)
    study = compare_task(task, TWO, seeds=1, search_seeds=1, budget=2)
    page = Page(report.html({"command": "x"} | study))
    assert re.fullmatch(r"\d+\.\d\d%", page.rows[1][2])
    assert "Predictions" in page.texts["h2"]


# Files


def test_nothing_is_written_where_the_folder_cannot_be_made(tmp_path, unrendered):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="taken"):
        report.write(digits_study(), tmp_path / "taken" / "deep", command="x")
    assert [f.name for f in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "a file"


def test_nothing_is_written_of_a_study_that_cannot_be_shown(tmp_path, unrendered):
    with pytest.raises(ValueError, match=r"needs surface=\.\.\."):
        report.write(surface_study(), tmp_path / "new", command="x")
    lost = copy.deepcopy(digits_study()) | {"seconds": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write(lost, tmp_path / "new", command="x")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_the_old_report(tmp_path, unrendered, monkeypatch):
    report.write(digits_study(), tmp_path, command="first")
    before = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    assert set(before) == {"report.html", "run.json"}
    write_text = Path.write_text

    def full(self: Path, text: str, **options: Any) -> int:
        write_text(self, text[:100], **options)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        report.write(digits_study(), tmp_path, command="second")
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == before


def test_an_old_report_is_replaced(tmp_path, unrendered):
    for command in ("first", "second"):
        report.write(digits_study(), tmp_path / "a" / "b", command=command)
    study, page = read(tmp_path / "a" / "b")
    assert study["command"] == "second"
    assert "second" in page.text
    assert "first\n" not in page.text
    assert len(list((tmp_path / "a" / "b").iterdir())) == 2
