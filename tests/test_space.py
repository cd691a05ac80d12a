"""Ranges and choices: what they hold, what they refuse, and how they are written."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmsprop import Rule
from rmsprop.space import (
    Choice,
    Range,
    check_rule,
    corners,
    drawn,
    from_dict,
    grid_of,
    parse,
    space_of,
    to_dict,
)

# What is written, and what it means


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("lr=1e-5:1", Range("lr", 1e-5, 1.0, "log", 64)),
        ("lr=1e-5:1:log:256", Range("lr", 1e-5, 1.0, "log", 256)),
        ("lr=0:1:linear", Range("lr", 0.0, 1.0, "linear")),
        ("lr=1e-5:1:7", Range("lr", 1e-5, 1.0, "log", 7)),
        ("decay=0.5:0.9999", Range("decay", 0.5, 0.9999, "log1m")),
        ("width=-1:1", Range("width", -1.0, 1.0, "linear")),
        (" x = 0:1 ", Range("x", 0.0, 1.0)),
        ("centered=true,False", Choice("centered", (True, False))),
        ("kind=a,b", Choice("kind", ("a", "b"))),
        ("decay=0.9", Choice("decay", (0.9,))),
    ],
)
def test_a_text_means_a_dimension(text: str, meant: Range | Choice) -> None:
    assert parse(text) == meant
    assert from_dict(to_dict(meant)) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr=1:1", "from low to a higher end; got 1:1"),
        ("lr=1:1e-5", "from low to a higher end; got 1:1e-05"),
        ("lr=0:1", "must begin above 0; got 0:1: begin higher, or write 0:1:linear"),
        ("decay=0.5:1", "must end below 1; got 0.5:1"),
        ("lr=1e-5:inf", "finite ends"),
        ("lr=nan:1", "finite ends"),
        ("lr=1e-5:1:cubic", "one of log, log1m, linear; got 'cubic'"),
        ("lr=1e-5:1:log:1", "a count of 2 values or more; got 1"),
        ("lr=1e-5:1:log:x", "write name=low:high"),
        ("lr=1e-5:1:log:9:9", "write name=low:high"),
        ("lr=a:b", "write name=low:high"),
        ("lr", "write name=low:high"),
        ("lr=", "write name=low:high"),
        ("=1:2", "write name=low:high"),
        ("lr=,", "has no value to choose"),
        ("x=1,1", "the value 1 twice"),
        ("x=true,1", "the value 1 twice"),
        ("x=1,inf", "must be finite"),
    ],
)
def test_a_bad_text_is_refused_with_the_remedy(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("[", r"\[")):
        parse(text)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({}, ValueError, "the space is empty"),
        ([], ValueError, "the space is empty"),
        ("x=0:1 x=1,2", ValueError, "x stands twice"),
        ({"seed": (0.0, 1.0)}, ValueError, "seed is not searched"),
        (3, TypeError, "a space is a dict of ranges by name"),
        ({"x": 3}, TypeError, "x must be a text such as"),
        ({"x": [None]}, TypeError, "must be a number, a truth value or a word; got None"),
        ({"x": (1.0, 0.0)}, ValueError, "from low to a higher end"),
        ({"x": []}, ValueError, "no value to choose"),
    ],
)
def test_a_bad_space_is_refused(given: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        space_of(given)


def test_a_pair_of_floats_is_a_range_and_of_others_a_choice() -> None:
    assert space_of({"x": (0.0, 1.0)}) == (Range("x", 0.0, 1.0),)
    assert space_of({"x": (0, 1)}) == (Choice("x", (0, 1)),)
    assert space_of({"x": [0.0, 1.0]}) == (Choice("x", (0.0, 1.0)),)
    assert space_of({"y": Range("x", 0.0, 1.0)}) == (Range("y", 0.0, 1.0),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat=0.1:1", "has no 'learning_rat'"),
        ("decey=0.1:0.9", "did you mean 'decay'"),
        ("momentum=0,1.5", "momentum must be a number"),
        ("centered=0:1", "centered is a switch: write centered=true,false"),
        ("lr=-1:1:linear", "lr must"),
    ],
)
def test_what_a_rule_cannot_take_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_rule(space_of(text), Rule())


# Values

ends = st.tuples(st.floats(1e-12, 0.9), st.floats(1e-12, 0.9)).filter(
    lambda pair: pair[1] - pair[0] > 1e-9
)


@given(ends, st.sampled_from(["log", "log1m", "linear"]), st.integers(2, 9), st.floats(0, 1))
def test_values_stay_inside_and_places_are_the_inverse(
    pair: tuple[float, float], scale: str, count: int, place: float
) -> None:
    d = Range("x", *pair, scale, count)
    values = d.values()
    assert values[0] == d.low
    assert values[-1] == d.high
    assert (values >= d.low).all()
    assert (values <= d.high).all()
    assert d.place(float(d.at(place))) == pytest.approx(place, abs=1e-6)
    assert d.low <= drawn((d,), np.random.default_rng(count))["x"] <= d.high


@pytest.mark.parametrize(
    ("d", "expected"),
    [
        (Range("lr", 1e-4, 1.0, count=5), [1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (Range("decay", 0.0, 0.999, count=4), [0.0, 0.9, 0.99, 0.999]),
        (Range("x", -1.0, 1.0, count=5), [-1.0, -0.5, 0.0, 0.5, 1.0]),
    ],
)
def test_equal_steps_on_the_scale(d: Range, expected: list[float]) -> None:
    assert d.values().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_grid_has_each_combination_once_and_corners_the_ends() -> None:
    space = space_of("a=0:1:3 b=x,y c=true")
    found = grid_of(space)
    assert len(found) == 6
    assert len({tuple(config.items()) for config in found}) == 6
    assert found[1] == {"a": 0.0, "b": "y", "c": True}
    assert [c["a"] for c in corners(space)] == [0.0, 0.0, 1.0, 1.0]


def test_draws_are_uniform_on_the_scale_and_repeat_with_the_seed() -> None:
    d = Range("decay", 0.9, 0.9999)
    rng = np.random.default_rng(5)
    places = [d.place(drawn((d,), rng)["decay"]) for _ in range(2000)]
    counts = np.histogram(places, 10, (0, 1))[0]
    # Binomial with n 2000, p 0.1: six standard deviations.
    assert np.abs(counts - 200).max() < 6 * math.sqrt(2000 * 0.1 * 0.9)
    again = np.random.default_rng(5)
    assert [d.place(drawn((d,), again)["decay"]) for _ in range(2000)] == places
