"""Limitations and cures: verdicts follow the figures, figures come from real runs, the page shows them."""

import json
import math
import re
from typing import Any

import numpy as np
import pytest

from rmsprop import DIALECTS, limits, plots_limits, report_limits
from rmsprop.limits import averages, loops, starts, study, table
from rmsprop.limits.study import HELPS, HURTS, SAME, Measure
from rmsprop.rule import Rule
from test_report import assert_needs_nothing, pictures

Study = dict[str, Any]
SEEDS = 3
HEIGHT = Measure("height", log=True)
ACCURACY = Measure("accuracy", higher_is_better=True, percent=True)


@pytest.fixture(scope="module")
def found() -> Study:
    return limits.measure(seeds=SEEDS)


def part_of(found: Study, key: str, name: str) -> Study:
    limit = next(x for x in found["limits"] if x["key"] == key)
    return next(p for p in limit["parts"] if p["name"] == name)


def compared(p: Study, cure: str, against: str) -> Study:
    both = {"cure": cure, "against": against}
    return next(c for c in p["comparisons"] if both.items() <= c.items())


def variant_of(p: Study, label: str) -> Study:
    return next(v for v in p["variants"] if v["label"] == label)


def made_up(measure: Measure, values: dict[str, list[float]], *pairs: tuple[str, str]) -> Study:
    variants = [
        study.variant(measure, label, x, np.ones((len(x), 4)), rule=Rule())
        for label, x in values.items()
    ]
    return study.part("made up", "none", measure, variants, pairs, curve="loss")


# Verdicts, on made-up figures


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "verdict"),
    [
        (0.5, 1.5, True, HELPS),
        (0.5, 1.5, False, HURTS),
        (-1.5, -0.5, True, HURTS),
        (-1.5, -0.5, False, HELPS),
        (-0.5, 1.5, True, SAME),
        (-0.5, 1.5, False, SAME),
        (0.0, 1.5, True, SAME),
        (0.0, 0.0, False, SAME),
    ],
)
def test_verdict_by_the_interval(low, high, higher_is_better, verdict):
    difference: Any = {"mean": (low + high) / 2, "low": low, "high": high, "n": 5}
    assert study.judge(difference, higher_is_better) == verdict


def test_one_seed_has_no_verdict():
    with pytest.raises(ValueError, match="2 seeds or more; got 1"):
        study.judge({"mean": 1.0, "low": None, "high": None, "n": 1}, True)


@pytest.mark.parametrize(
    ("measure", "cured", "verdict", "words"),
    [
        (ACCURACY, [0.95, 0.94, 0.95], HELPS, r"94\.67% against 85\.00% \(none\); difference \+9\.67 points"),
        (ACCURACY, [0.75, 0.76, 0.75], HURTS, r"difference -9\.67 points"),
        (ACCURACY, [0.95, 0.75, 0.86], SAME, r"difference \+0\.33 points"),
        (HEIGHT, [0.0085, 0.0084, 0.0086], HELPS, r"ratio 0\.01,"),
        (HEIGHT, [85.0, 84.0, 86.0], HURTS, r"ratio 1e\+02,"),
        (HEIGHT, [85.0, 0.0084, 0.86], SAME, r"ratio 1,"),
        (HEIGHT, [0.84, 0.86, 0.85], SAME, r"the same in every seed\.$"),
    ],
)  # fmt: skip
def test_a_sentence_says_what_the_figures_say(measure, cured, verdict, words):
    p = made_up(measure, {"none": [0.84, 0.86, 0.85], "cure": cured}, ("cure", "none"))
    (c,) = p["comparisons"]
    assert c["verdict"] == verdict
    assert c["text"].startswith(f"cure {verdict}: ")
    assert re.search(words, c["text"]), c["text"]


def test_differences_are_paired():
    """Seeds far apart, but each a little better: only by pairs can that be told."""
    none = [1.0, 10.0, 100.0, 1000.0]
    p = made_up(HEIGHT, {"none": none, "cure": [0.89, 9.0, 91.0, 900.0]}, ("cure", "none"))
    assert p["comparisons"][0]["verdict"] == HELPS
    apart = made_up(HEIGHT, {"none": none, "cure": [900.0, 0.89, 9.0, 91.0]}, ("cure", "none"))
    assert apart["comparisons"][0]["verdict"] == SAME


def test_runs_that_left_the_numbers_are_worst_and_no_error():
    p = made_up(
        HEIGHT, {"none": [math.nan, math.inf, 1e300], "cure": [1.0, 1.1, 0.0]}, ("cure", "none")
    )
    assert variant_of(p, "none")["values"] == [study.CEILING] * 3
    assert variant_of(p, "cure")["values"][2] == study.FLOOR
    assert p["comparisons"][0]["verdict"] in (HELPS, SAME)
    json.dumps(p, allow_nan=False)


def test_a_limitation_sums_up_by_verdict():
    values = {"a": [1.0, 1.1, 1.2], "b": [9.0, 9.1, 9.2], "cure": [5.0, 5.1, 5.2]}
    p = made_up(Measure("loss"), values, ("cure", "a"), ("cure", "b"))
    text = "Helps: cure against b (made up). Hurts: cure against a (made up)."
    assert study.limit("k", "t", [], "", "", [p])["verdict"] == text
    same = made_up(Measure("loss"), values, ("a", "cure"), ("a", "b"))
    assert study.overall([same]) == "Helps: a (made up)."
    told = study.tally([{"parts": [p, same]}], 3)
    assert told.endswith("over 3 seeds: 3 help, 1 hurts.")
    assert told.startswith("Of 4 cures tried against 1 limitation,")


# Real runs


def test_the_study_is_json_and_complete(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [x["key"] for x in found["limits"]] == list(limits.LIMITS)
    for limit in found["limits"]:
        for p in limit["parts"]:
            labels = [v["label"] for v in p["variants"]]
            assert len(set(labels)) == len(labels)
            assert len(p["comparisons"]) >= 1
            assert all(len(v["values"]) == SEEDS == v["summary"]["n"] for v in p["variants"])
            assert all(c["difference"]["n"] == SEEDS for c in p["comparisons"])
            for v in p["variants"]:
                assert v["rule"] == Rule.from_dict(v["rule"]).to_dict()
                sizes = {len(v["curve"][k]) for k in ("x", "median", "low", "high")}
                assert len(sizes) == 1
                assert 2 <= sizes.pop() <= study.CURVE_POINTS


def test_fewer_seeds_are_the_first_of_more(found):
    """Run k depends on seed k alone, and comes out the same again."""
    keys = ["overshooting", "centering", "explosion", "short-memory"]
    again = limits.measure(seeds=2, only=keys)
    assert [x["key"] for x in again["limits"]] == keys
    for limit in again["limits"]:
        for p in limit["parts"]:
            more = part_of(found, limit["key"], p["name"])
            for v in p["variants"]:
                assert v["values"] == variant_of(more, v["label"])["values"][:2]


def test_seeds_differ(found):
    p = part_of(found, "explosion", "corrupt rows")
    assert len(set(variant_of(p, "SGD")["values"])) > 1


DIRECTIONS = [
    ("learning-rate", "digits", "found rate", "rate 1e-05", HELPS),
    ("learning-rate", "digits", "found rate", "rate 1", HELPS),
    ("overshooting", "a bowl", "constant 0.01", "constant 0.1", HELPS),
    ("overshooting", "a bowl", "cosine", "constant 0.1", HELPS),
    ("momentum", "rosenbrock", "momentum 0.9", "plain", HELPS),
    ("momentum", "rosenbrock", "momentum 0.9, cosine", "plain, cosine", HELPS),
    ("initialisation", "relu", "He", "zero", HELPS),
    ("initialisation", "relu", "He", "all equal", HELPS),
    ("initialisation", "relu", "He", "too large", HELPS),
    ("initialisation", "tanh", "Xavier", "zero", HELPS),
    ("initialisation", "tanh", "Xavier", "all equal", HELPS),
    ("first-steps", "the shock", "bias correction", "v from 0", HELPS),
    ("first-steps", "the shock", "v from 1", "v from 0", HELPS),
    ("first-steps", "later", "v from 1", "v from 0", HURTS),
    ("explosion", "one huge", "RMSprop, clipped", "RMSprop", HELPS),
    ("explosion", "one huge", "SGD, clipped", "SGD", HELPS),
    ("explosion", "corrupt rows", "RMSprop, clipped", "RMSprop", HELPS),
    ("explosion", "corrupt rows", "SGD, clipped", "SGD", HELPS),
    ("schedules", "noisy bowl", "cosine", "constant", HELPS),
    ("schedules", "training", "cosine", "constant", HELPS),
    ("short-memory", "online", "decay 0.999", "decay 0.9", HELPS),
    ("short-memory", "online", "clip to 10", "decay 0.9", HURTS),
]


@pytest.mark.parametrize(("key", "name", "cure", "against", "direction"), DIRECTIONS)
def test_the_effect_has_the_direction_that_the_mechanism_gives_it(
    found, key, name, cure, against, direction
):
    p = part_of(found, key, name)
    c = compared(p, cure, against)
    assert c["difference"]["mean"] != 0
    better = (c["difference"]["mean"] > 0) == p["measure"]["higher_is_better"]
    assert better == (direction == HELPS)
    assert c["verdict"] in (direction, SAME)  # three seeds may be too few to be sure


def test_most_of_it_shows_with_three_seeds(found):
    sure = [
        key
        for key, name, cure, against, direction in DIRECTIONS
        if compared(part_of(found, key, name), cure, against)["verdict"] == direction
    ]
    assert len(sure) >= 0.7 * len(DIRECTIONS)


@pytest.mark.parametrize(("label", "lr"), [("constant 0.1", 0.1), ("constant 0.01", 0.01)])
def test_the_swing_at_a_constant_rate_is_half_the_rate_to_each_side(found, label, lr):
    values = variant_of(part_of(found, "overshooting", "a bowl"), label)["values"]
    np.testing.assert_allclose(values, 2 * (lr / 2) ** 2, rtol=1e-5)


def test_the_first_step_is_lr_over_the_root_of_1_minus_decay(found):
    p = part_of(found, "first-steps", "later")
    first = {v["label"]: v["curve"]["median"][0] for v in p["variants"]}
    # A few weights see no gradient at all (dead pixels), so the root mean square lies a little below.
    assert 0.9 * 10 < first["v from 0"] <= 10 * (1 + 1e-6)
    assert 0.9 < first["bias correction"] <= 1 + 1e-6
    assert 0.9 * 0.1**-0.5 < first["decay 0.9"] <= 0.1**-0.5 * (1 + 1e-6)
    assert first["v from 1"] < 0.1


def test_the_slides_schedule_changes_nothing(found):
    for name in ("training", "test"):
        c = compared(part_of(found, "schedules", name), "the slide's", "constant")
        assert (c["difference"]["low"], c["difference"]["high"]) == (0.0, 0.0)
        assert c["text"].endswith("the same in every seed.")


def test_what_the_slides_say_is_set_right_by_figures():
    fact = averages.adam_is_not_centered()["fact"]
    v = re.search(r"comes to ([\d.]+):", fact)
    assert v is not None
    assert float(v[1]) == pytest.approx(10, rel=0.05)  # mean^2 + variance, and not the variance 1
    fact = starts.momentum_is_there()["fact"]
    assert all(name in fact for name in DIALECTS if name not in ("hinton", "graves"))


def test_the_data_are_left_as_they_were():
    before = loops.digits().train.x.copy()
    loops.fit(Rule(lr=0.001), 0, epochs=1, corrupt=lambda x, seed: x * 2)
    np.testing.assert_array_equal(loops.digits().train.x, before)


def test_a_descent_keeps_within_bounds_and_leaves_its_start_alone():
    start = np.zeros(2)
    xs = loops.descend(
        lambda x, t: np.array([1.0, -1.0]), Rule(lr=0.1), start, 20, confine=(-0.5, 0.5)
    )
    assert xs.shape == (21, 2)
    assert xs[-1].tolist() == [-0.5, 0.5]
    assert start.tolist() == [0.0, 0.0]


# Bad arguments


@pytest.mark.parametrize("seeds", [1, 0, -3])
def test_too_few_seeds(seeds):
    with pytest.raises(ValueError, match=f"2 or more, as one run has no interval; got {seeds}"):
        limits.measure(seeds=seeds)


@pytest.mark.parametrize("seeds", [True, 2.5, "3", None])
def test_seeds_of_another_kind(seeds):
    with pytest.raises(TypeError, match="seeds must be a whole number"):
        limits.measure(seeds=seeds)


@pytest.mark.parametrize(
    ("only", "message"),
    [(["momentun"], "did you mean 'momentum'"), ([], "names no limitation")],
)
def test_unknown_limitations(only, message):
    with pytest.raises(ValueError, match=message):
        limits.measure(seeds=2, only=only)


def test_progress_is_told():
    told: list[tuple[int, int, str]] = []
    limits.measure(seeds=2, only=["overshooting"], progress=lambda *at: told.append(at))
    assert told == [(0, 1, "limitations"), (1, 1, "limitations")]


# Page, pictures, table


@pytest.fixture(scope="module")
def written(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits") / "new"
    page = report_limits.write(found, folder, command="rmsprop limits --seeds 3 <&>")
    assert page == folder / "report.html"
    return folder


def test_the_page_asks_for_nothing_and_shows_all(found, written):
    page = assert_needs_nothing((written / "report.html").read_text(encoding="utf-8"))
    shown = pictures(page)
    assert len(shown) == len(found["limits"])
    for image in shown:
        assert image.width > 1000
        assert len(set(image.convert("L").resize((200, 200)).tobytes())) > 20  # something is drawn
    text = " ".join(page.text.split())
    for limit in found["limits"]:
        assert limit["verdict"] in text
        for p in limit["parts"]:
            assert all(c["text"] in text for c in p["comparisons"])
            assert p["setting"] in text
        assert all(f"{x['claim']} {x['fact']}" in text for x in limit["slides"])
    assert found["verdict"] in text
    assert "rmsprop limits --seeds 3 <&>" in text


def test_the_numbers_are_beside_the_page(found, written):
    kept = json.loads((written / "run.json").read_text(encoding="utf-8"))
    assert kept == {"command": "rmsprop limits --seeds 3 <&>"} | found


def test_a_folder_that_cannot_be_made(tmp_path):
    found = limits.measure(seeds=2, only=["overshooting"])
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="file"):
        report_limits.write(found, tmp_path / "file", command="x")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_picture_names_every_variant_and_verdict(found):
    for limit in found["limits"]:
        figure = plots_limits.limit(limit)
        assert len(figure.axes) == 2 * len(limit["parts"])
        for right, p in zip(figure.axes[1::2], limit["parts"], strict=True):
            assert [t.get_text() for t in right.get_yticklabels()] == [
                v["label"] for v in p["variants"]
            ]
            said = {t.get_text() for t in right.texts}
            assert {c["verdict"] for c in p["comparisons"]} <= said
            drawn = [np.asarray(line.get_xdata()).tolist() for line in right.lines[::3]]
            factor = 100 if p["measure"]["percent"] else 1
            assert drawn == [[factor * x for x in v["values"]] for v in p["variants"]]


def test_the_table_fits_80_columns_and_tells_every_verdict(found, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    limits.show(found)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= 80
    rows = limits.rows(found)
    assert rows[0] == table.HEAD
    assert len(rows) - 1 == sum(len(p["comparisons"]) for x in found["limits"] for p in x["parts"])
    out = "\n".join(lines)
    for key, _, _, verdict, gap in rows[1:]:
        assert key in out
        assert re.search(rf"{verdict} +{re.escape(gap)}", out)
