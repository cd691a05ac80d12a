"""Learning-rate schedules: by formula, against PyTorch's, at their edges, and as plain data."""

import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import needs
from rmsprop.numpy import SGD
from rmsprop.schedules import (
    NAMES,
    Constant,
    Cosine,
    ExponentialDecay,
    StepDecay,
    WarmUp,
    as_schedule,
    named,
)

ALL: list[Any] = [
    Constant(0.3),
    StepDecay(0.3, every=7, factor=0.5),
    ExponentialDecay(0.3, every=7, factor=0.5),
    Cosine(0.3, steps=40),
    Cosine(0.3, steps=40, end=0.01),
    WarmUp(5, then=0.3),
    WarmUp(5, then=Cosine(0.3, steps=40)),
]


def by_torch(make: Callable[[Any], Any], steps: int) -> list[float]:
    """The rates of PyTorch's scheduler, from lr = 0.3."""
    torch = needs.package("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler, seen = make(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


class TestValues:
    def test_step_decay_is_torchs(self) -> None:
        torch = needs.package("torch")
        theirs = by_torch(lambda o: torch.optim.lr_scheduler.StepLR(o, 7, gamma=0.5), 50)
        mine = StepDecay(0.3, every=7, factor=0.5)
        assert [mine(t) for t in range(50)] == pytest.approx(theirs, rel=1e-12)

    def test_exponential_decay_is_torchs(self) -> None:
        torch = needs.package("torch")
        theirs = by_torch(lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9), 50)
        mine = ExponentialDecay(0.3, every=1, factor=0.9)
        assert [mine(t) for t in range(50)] == pytest.approx(theirs, rel=1e-12)

    @pytest.mark.parametrize("end", [0.0, 0.02])
    def test_cosine_is_torchs(self, end: float) -> None:
        torch = needs.package("torch")
        make = torch.optim.lr_scheduler.CosineAnnealingLR
        theirs = by_torch(lambda o: make(o, 40, eta_min=end), 41)
        mine = Cosine(0.3, steps=40, end=end)
        assert [mine(t) for t in range(41)] == pytest.approx(theirs, rel=1e-9, abs=1e-15)

    def test_by_hand(self) -> None:
        assert [Constant(0.3)(t) for t in (0, 10**9)] == [0.3, 0.3]
        assert [StepDecay(1.0, every=2, factor=0.5)(t) for t in range(5)] == [1, 1, 0.5, 0.5, 0.25]
        assert ExponentialDecay(1.0, every=2, factor=0.25)(1) == 0.5
        assert StepDecay(1.0, every=3)(3) == 0.1, "the default factor"
        assert [Cosine(1.0, steps=4)(t) for t in (0, 2)] == pytest.approx([1.0, 0.5])
        assert Cosine(1.0, steps=3)(1) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)
        assert [WarmUp(4, then=1.0)(t) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]

    @pytest.mark.parametrize("end", [0.0, 0.02, 0.5])
    def test_cosine_stays_at_its_end(self, end: float) -> None:
        mine = Cosine(0.3, steps=40, end=end)
        assert [mine(t) for t in (40, 41, 10**6)] == [end] * 3

    def test_warm_up_hands_over_without_a_jump(self) -> None:
        then = Cosine(0.3, steps=40)
        mine = WarmUp(5, then=then)
        assert mine(4) == mine(5) == then(0)
        assert [mine(5 + t) for t in range(60)] == [then(t) for t in range(60)]
        rises = [mine(t + 1) - mine(t) for t in range(4)]
        assert rises == pytest.approx([0.06] * 4)

    def test_warm_ups_nest(self) -> None:
        assert [WarmUp(2, then=WarmUp(2, then=1.0))(t) for t in range(5)] == [
            0.25,
            0.5,
            0.5,
            1.0,
            1.0,
        ]

    @given(st.integers(0, 10**6), st.sampled_from(ALL))
    def test_always_a_rate_in_range(self, step: int, schedule: Any) -> None:
        value = schedule(step)
        assert type(value) is float
        assert 0 <= value <= 0.3

    @given(st.integers(0, 100))
    def test_downhill_ones_never_rise(self, step: int) -> None:
        for schedule in ALL[:5]:
            assert schedule(step + 1) <= schedule(step)

    def test_far_away(self) -> None:
        assert StepDecay(0.3, every=1)(10**6) == 0.0
        assert ExponentialDecay(0.3, every=1)(10**6) == 0.0


class TestAsData:
    @pytest.mark.parametrize("schedule", ALL, ids=repr)
    def test_print_compare_pickle_and_freeze(self, schedule: Any) -> None:
        names = {c.__name__: c for c in (Constant, StepDecay, ExponentialDecay, Cosine, WarmUp)}
        assert eval(repr(schedule), names) == schedule
        assert pickle.loads(pickle.dumps(schedule)) == schedule
        assert hash(schedule) == hash(dataclasses.replace(schedule))
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(schedule, dataclasses.fields(schedule)[0].name, 1)
        assert sum(other == schedule for other in ALL) == 1

    @pytest.mark.parametrize("bad", [0, -1, 1.5, 2.0, "3", None, float("nan")])
    def test_steps_are_whole_and_positive(self, bad: Any) -> None:
        for make, name in [
            (lambda: StepDecay(0.1, every=bad), "every"),
            (lambda: ExponentialDecay(0.1, every=bad), "every"),
            (lambda: Cosine(0.1, steps=bad), "steps"),
            (lambda: WarmUp(bad, then=0.1), "steps"),
        ]:
            with pytest.raises(ValueError, match=f"{name} must be a whole number") as caught:
                make()
            assert repr(bad) in str(caught.value)

    def test_numpys_integers_are_whole(self) -> None:
        assert Cosine(0.1, steps=np.int64(10))(5) == pytest.approx(0.05)  # type: ignore[arg-type]

    def test_as_schedule(self) -> None:
        mine = Cosine(0.1, steps=3)
        assert as_schedule(mine) is mine
        assert as_schedule(0.5) == Constant(0.5)
        assert as_schedule(1)(7) == 1.0

    def test_by_name(self) -> None:
        assert named("constant", 0.1, 50) == Constant(0.1)
        assert named("cosine", 0.1, 50) == Cosine(0.1, steps=50)
        assert all(named(name, 0.1, 50)(0) == 0.1 for name in NAMES)
        with pytest.raises(ValueError, match="constant, cosine, step, exponential; got 'linear'"):
            named("linear", 0.1, 50)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_an_optimizer_follows_it(schedule: Any) -> None:
    optimizer, p = SGD(schedule), np.zeros(1)
    for t in range(60):
        before = p[0]
        optimizer.update(p, np.ones(1))
        assert before - p[0] == pytest.approx(schedule(t), abs=1e-13)
