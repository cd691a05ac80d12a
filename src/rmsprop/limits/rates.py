"""Limitations of a learning rate: too high or too low, a swing that never ends, a rate that never falls."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rmsprop.limits.loops import (
    EPOCHS,
    Fit,
    epoch_steps,
    fit,
    found_rate,
    heights,
    last_tenth,
)
from rmsprop.limits.study import Measure, limit, part, variant
from rmsprop.rule import Rule
from rmsprop.schedules import Constant, Cosine, ExponentialDecay, Schedule, StepDecay, WarmUp
from rmsprop.surfaces import SURFACES

ACCURACY = Measure("test accuracy", higher_is_better=True, percent=True)
TEST_LOSS = Measure("test loss", log=True)
TRAINING_LOSS = Measure("training loss of the last epoch", log=True)
_VALUES: dict[Measure, Callable[[Fit], float]] = {
    ACCURACY: lambda f: f.test_accuracy,
    TEST_LOSS: lambda f: f.test_loss,
    TRAINING_LOSS: lambda f: f.losses[-1],
}
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LOW, HIGH = 1e-5, 1.0
NETWORK = f"Digits, a 64-64-10 network, {EPOCHS} epochs of mini-batches of 32."


def trained(
    measure: Measure,
    label: str,
    rule: Rule,
    seeds: int,
    schedule: Schedule | None = None,
    note: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """A variant: networks trained on digits, one for each seed, with their training losses by epoch.

    `settings` are those of `loops.fit`.
    """
    fits = [fit(rule, seed, schedule, **settings) for seed in range(seeds)]
    return judged(measure, label, rule, fits, schedule, note)


def judged(
    measure: Measure,
    label: str,
    rule: Rule,
    fits: Sequence[Fit],
    schedule: Schedule | None = None,
    note: str = "",
) -> dict[str, Any]:
    """The same of trainings that have been run."""
    values = [_VALUES[measure](f) for f in fits]
    steps = epoch_steps() * np.arange(1, len(fits[0].losses) + 1)
    curves = [f.losses for f in fits]
    return variant(measure, label, values, curves, steps, rule=rule, schedule=schedule, note=note)


def learning_rate(seeds: int) -> dict[str, Any]:
    """A rate that is too high, or too low; found rates and schedules against it."""
    total = EPOCHS * epoch_steps()
    found = found_rate(Rule(), RATES, Constant)
    low, high, good = f"rate {LOW:g}", f"rate {HIGH:g}", "found rate"
    warm = WarmUp(epoch_steps(), Cosine(HIGH, total - epoch_steps()))
    settings = (
        (low, LOW, None),
        (high, HIGH, None),
        (good, found, None),
        (f"cosine from {HIGH:g}", HIGH, Cosine(HIGH, total)),
        (f"warm-up, cosine from {HIGH:g}", HIGH, warm),
        (f"cosine from {LOW:g}", LOW, Cosine(LOW, total)),
    )
    variants = [trained(ACCURACY, name, Rule(lr=lr), seeds, plan) for name, lr, plan in settings]
    pairs = [
        (good, low),
        (good, high),
        (f"cosine from {HIGH:g}", high),
        (f"warm-up, cosine from {HIGH:g}", high),
        (f"cosine from {LOW:g}", low),
    ]
    tried = ", ".join(f"{lr:g}" for lr in RATES)
    setting = (
        f"{NETWORK} The found rate, {found:g}, is that of {tried} with the least validation loss on other "
        "seeds."
    )
    curve = "training loss of the epoch"
    return limit(
        "learning-rate",
        "The learning rate is too high, or too low",
        [
            "Dividing by the root of v takes the size of the gradient out of the step, so that the learning "
            "rate alone says how far a parameter moves: about lr a step, however flat or steep the loss is. "
            "With a rate too low the weights hardly leave their start in the steps there are; with one too "
            "high they are thrown past every minimum that is narrower than the step.",
        ],
        "|step| = lr*|g|/sqrt(v), near lr where |g| is steady",
        "A rate found on validation data; a schedule that takes a rate that is too high down.",
        [part("digits", setting, ACCURACY, variants, pairs, curve=curve)],
    )


def limit_cycle(seeds: int) -> dict[str, Any]:
    """With a constant rate the path swings around the minimum for ever."""
    surface, steps, lr = SURFACES["sphere"], 2000, 0.1
    height = Measure("height at the end", log=True)
    plans: list[tuple[str, Schedule | None, float]] = [
        (f"constant {lr:g}", None, lr),
        (f"constant {lr / 10:g}", None, lr / 10),
        ("steps down", StepDecay(lr, steps // 4), lr),
        ("exponential", ExponentialDecay(lr, steps // 4), lr),
        ("cosine", Cosine(lr, steps), lr),
    ]
    variants = []
    for label, plan, rate in plans:
        rule = Rule(lr=rate)
        found = heights(surface, rule, range(seeds), steps, plan)
        variants.append(variant(height, label, last_tenth(found), found, rule=rule, schedule=plan))
    pairs = [(label, plans[0][0]) for label, _, _ in plans[1:]]
    setting = (
        f"x^2 + y^2 without noise, {steps:,} steps from {seeds} starts; the height is the geometric mean of "
        "the last tenth of the steps."
    )
    return limit(
        "overshooting",
        "It overshoots, and with a constant rate never settles",
        [
            "Near a minimum the gradient vanishes, and so does the root of v that divides it. Their ratio "
            "does not: the step stays about lr long after it should have shrunk.",
            "On a parabola the end is a swing between -lr/2 and lr/2 with |g| constant, v = g^2 and every "
            "step lr. The height it leaves is that of the rate squared: a tenth of the rate leaves a "
            "hundredth of the height, and only a rate that goes to 0 leaves none.",
        ],
        "x = lr/2, g = 2x = lr, v = g^2:   x - lr*g/sqrt(v) = lr/2 - lr = -lr/2, and back",
        "A schedule that takes the rate to 0, or a smaller rate.",
        [part("a bowl", setting, height, variants, pairs, curve="height above the minimum")],
    )


Plan = Callable[[float], Schedule]


def _plans(total: int, warm: int) -> dict[str, Plan]:
    return {
        "constant": Constant,
        "steps down": lambda lr: StepDecay(lr, -(-total // 3)),
        "exponential": lambda lr: ExponentialDecay(lr, -(-total // 3)),
        "cosine": lambda lr: Cosine(lr, total),
        "warm-up, cosine": lambda lr: WarmUp(warm, Cosine(lr, total - warm)),
    }


def schedules(seeds: int) -> dict[str, Any]:
    """Schedules against a constant rate where gradients are noisy; and the slide's, which never acts."""
    return limit(
        "schedules",
        "A constant rate keeps the noise of the mini-batches",
        [
            "Each mini-batch has another gradient, and near a minimum that noise is all there is. Dividing "
            "by its own root mean square makes the noise as large as lr, whatever it was: a constant rate "
            "wanders at a height in proportion to it, while a rate that falls averages over more and more "
            "batches.",
        ],
        "g = noise:   steps of lr*g/sqrt(mean of g^2) have size lr, however small the noise",
        "A rate that falls: in steps, exponentially, along a cosine; with or without a warm-up.",
        [_noisy_bowl(seeds), *_on_digits(seeds)],
        [slide_schedule()],
    )


def _noisy_bowl(seeds: int) -> dict[str, Any]:
    surface, steps, lr = SURFACES["sphere"].with_noise(3.0), 2000, 0.1
    height = Measure("height at the end", log=True)
    variants = []
    for label, plan in _plans(steps, steps // 20).items():
        found = heights(surface, Rule(lr=lr), range(seeds), steps, plan(lr))
        variants.append(
            variant(height, label, last_tenth(found), found, rule=Rule(lr=lr), schedule=plan(lr))
        )
    pairs = [(v["label"], "constant") for v in variants[1:]]
    setting = (
        f"x^2 + y^2 with noise of standard deviation 3 on each gradient, {steps:,} steps, every schedule "
        f"from the rate {lr:g}."
    )
    return part("noisy bowl", setting, height, variants, pairs, curve="height above the minimum")


def _on_digits(seeds: int) -> list[dict[str, Any]]:
    total = EPOCHS * epoch_steps()
    runs: list[tuple[str, Rule, Schedule]] = []
    for label, plan in _plans(total, epoch_steps()).items():
        lr = found_rate(Rule(), RATES, plan)
        runs.append((label, Rule(lr=lr), plan(lr)))
    # The rate found for the constant one, under the schedule of the slide: 1000 epochs to the first drop.
    slide = StepDecay(runs[0][1].lr, 1000 * epoch_steps())
    runs.append(("the slide's", runs[0][1], slide))
    fits = [[fit(rule, seed, plan) for seed in range(seeds)] for _, rule, plan in runs]
    setting = (
        f"{NETWORK} Each schedule with the rate that suits it, out of {len(RATES)}, found on other seeds by "
        "the validation loss; the slide's with the rate of the constant one."
    )
    parts = []
    for name, measure, text in (
        ("training", TRAINING_LOSS, setting),
        ("test", TEST_LOSS, "The same runs, judged by rows that they were not trained on."),
    ):
        variants = [
            judged(measure, label, rule, found, plan)
            for (label, rule, plan), found in zip(runs, fits, strict=True)
        ]
        pairs = [(v["label"], "constant") for v in variants[1:]]
        curve = "training loss of the epoch"
        parts.append(part(name, text, measure, variants, pairs, curve=curve))
    return parts


def slide_schedule() -> dict[str, str]:
    """What the schedule of slide A23 does in 100 epochs, worked out.

    Examples
    --------
    >>> print(slide_schedule()["fact"])
    In epochs 0 to 99 it gives 1 rate, 0.001; the first change is at epoch 1000.
    """
    initial, drop, every = 0.001, 0.1, 1000

    def slide(epoch: int) -> float:
        return initial * drop ** (epoch // every)

    rates = sorted({slide(epoch) for epoch in range(100)})
    first = next(epoch for epoch in range(10 * every) if slide(epoch) != initial)
    plural = "" if len(rates) == 1 else "s"
    return {
        "claim": "A23 divides the epoch by 1000 to schedule the learning rate.",
        "fact": f"In epochs 0 to 99 it gives {len(rates)} rate{plural}, "
        f"{', '.join(f'{x:g}' for x in rates)}; the first change is at epoch {first}.",
    }
