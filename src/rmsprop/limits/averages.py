"""Limitations of the average v: not centered, empty at the start, and too short a memory."""

from functools import partial
from typing import Any

import numpy as np

from rmsprop.data import batches
from rmsprop.limits.loops import (
    BATCH,
    SURFACE_RATES,
    descend,
    digits,
    epoch_steps,
    found_rate,
    heights,
    last_tenth,
    network,
    surface_rate,
)
from rmsprop.limits.rates import NETWORK, RATES, TEST_LOSS, trained
from rmsprop.limits.study import Measure, limit, part, variant
from rmsprop.models import MLP
from rmsprop.optimizer import Optimizer
from rmsprop.rule import Rule
from rmsprop.schedules import Constant, Cosine, Schedule, WarmUp
from rmsprop.surfaces import SURFACES


def centering(seeds: int) -> dict[str, Any]:
    """Dividing by the standard deviation instead of the root mean square."""
    names = ("matyas", "rosenbrock")
    return limit(
        "centering",
        "The second moment is not centered",
        [
            "v averages g^2 around 0, not around the mean of g. Where gradients agree, their mean is most of "
            "v, and steps stay near lr though there is nothing to be wary of; centering divides by what "
            "varies alone, and lengthens them, so that a smaller rate gets as far. Where the noise of "
            "mini-batches is larger than the mean, v and the variance are nearly the same number, and so "
            "are the steps.",
        ],
        "v - m^2 <= v:   centered steps are never shorter, and equal where m = 0",
        "centered=True, which keeps one more array, m.",
        [
            *(on_surface(name, seeds, "centered", Rule(centered=True)) for name in names),
            _centered_digits(seeds),
        ],
        [adam_is_not_centered()],
    )


def on_surface(name: str, seeds: int, cure: str, cured: Rule) -> dict[str, Any]:
    """A part: plain RMSprop and another rule on a surface, each at the rate that suits it.

    Both with a constant rate, which leaves a swing in proportion to the rate at the end, and along a
    cosine, which leaves none: so one sees what is owed to the path and what to the end of it.
    """
    surface, steps = SURFACES[name], 1000
    height = Measure("height at the end", log=True)
    variants = []
    for label, rule, plan in (
        ("plain", Rule(), None),
        (cure, cured, None),
        ("plain, cosine", Rule(), partial(Cosine, steps=steps)),
        (f"{cure}, cosine", cured, partial(Cosine, steps=steps)),
    ):
        lr = surface_rate(surface, rule, steps, plan or Constant)
        tuned, schedule = rule.replace(lr=lr), plan and plan(lr)
        found = heights(surface, tuned, range(seeds), steps, schedule)
        values = last_tenth(found)
        variants.append(variant(height, label, values, found, rule=tuned, schedule=schedule))
    setting = (
        f"{surface.formula}, {steps:,} steps from {seeds} starts, each at the one of {SURFACE_RATES} rates "
        "that suits it, found on other starts; with a constant rate, and along a cosine to 0."
    )
    pairs = [(cure, "plain"), (f"{cure}, cosine", "plain, cosine")]
    return part(name, setting, height, variants, pairs, curve="height above the minimum")


def _centered_digits(seeds: int) -> dict[str, Any]:
    rates = {c: found_rate(Rule(centered=c), RATES, Constant) for c in (False, True)}
    same, own = "centered, same rate", "centered, own rate"
    variants = [
        trained(TEST_LOSS, "plain", Rule(lr=rates[False]), seeds),
        trained(TEST_LOSS, same, Rule(lr=rates[False], centered=True), seeds),
        trained(TEST_LOSS, own, Rule(lr=rates[True], centered=True), seeds),
    ]
    setting = (
        f"{NETWORK} At the rate of {len(RATES)} that suits plain RMSprop, {rates[False]:g}, and at the one "
        f"that suits the centered, {rates[True]:g}, found on other seeds."
    )
    curve = "training loss of the epoch"
    pairs = [(same, "plain"), (own, "plain")]
    return part("digits", setting, TEST_LOSS, variants, pairs, curve=curve)


def adam_is_not_centered() -> dict[str, str]:
    """Adam's second moment of gradients with mean 3 and standard deviation 1, worked out."""
    rule = Rule.from_dialect("adam", lr=1e-9)
    gradients = np.random.default_rng(0).normal(3.0, 1.0, 20_000)
    params, optimizer = {"x": np.zeros(1)}, Optimizer(rule)
    for g in gradients:
        optimizer.update(params, {"x": np.array([g])})
    v = float(optimizer.state.slots["v"]["x"][0]) / (1 - rule.decay**optimizer.step_count)
    return {
        "claim": "A22: unlike Adam, RMSprop uses a non-centered second moment.",
        "fact": f"Under gradients of mean 3 and variance 1, Adam's second moment comes to {v:.1f}: the mean "
        "of g^2 is 10, the variance 1. Adam's is not centered. Of the two, RMSprop is the one with "
        "a centered form (Graves, 2013; centered=True in PyTorch and Keras).",
    }


FIRST_STEPS = 300
SHOWN_STEPS = 60


def first_steps(seeds: int) -> dict[str, Any]:
    """v starts at 0, so the first steps are too long: a trained network that goes on is thrown back."""
    decay, lr = 0.99, 0.003
    plain = Rule(lr=lr, decay=decay)
    rise = epoch_steps()
    settings: list[tuple[str, Rule, Schedule | None]] = [
        ("v from 0", plain, None),
        ("bias correction", plain.replace(bias_correction=True), None),
        ("v from 1", plain.replace(initial_scale=1.0), None),
        (f"warm-up of {rise} steps", plain, WarmUp(rise, lr)),
        ("decay 0.9", plain.replace(decay=0.9), None),
    ]
    models = [_pretrained(seed) for seed in range(seeds)]
    worst = Measure(f"worst training loss of the first {SHOWN_STEPS} steps", log=True)
    end = Measure(f"training loss after {FIRST_STEPS} steps", log=True)
    shocked, ended = [], []
    for label, rule, plan in settings:
        runs = [_go_on(rule, plan, weights, seed) for seed, weights in enumerate(models)]
        early = np.array([losses[: SHOWN_STEPS + 1] for losses, _ in runs])
        sizes = np.array([moved[:SHOWN_STEPS] for _, moved in runs])
        peaks = early[:, 1:].max(axis=1)
        shocked.append(variant(worst, label, peaks, early, rule=rule, schedule=plan))
        last = [losses[-1] for losses, _ in runs]
        steps = np.arange(1, SHOWN_STEPS + 1)
        ended.append(variant(end, label, last, sizes, steps, rule=rule, schedule=plan))
    pairs = [(label, "v from 0") for label, _, _ in settings[1:]]
    setting = (
        "A 64-64-10 network is trained on digits for 5 epochs along a cosine, and then goes on with a new "
        f"optimizer, rate {lr:g} and decay {decay:g} (PyTorch's): what a restart without the optimizer's "
        "state does. The loss is that of the whole training split, after every step."
    )
    after = (
        "The same runs. The curves are the root mean square of the steps, over the learning rate."
    )
    return limit(
        "first-steps",
        "The first steps are too long",
        [
            "v starts at 0, and after one step holds only 1 - decay of the first square. The first step of "
            "every parameter is therefore lr/sqrt(1 - decay), whatever its gradient: 3.2 times lr at decay "
            "0.9, 10 times lr at 0.99, 32 times lr at 0.999. From random weights a few such steps may "
            "be no loss; a trained network has one.",
            "v from 1 (TensorFlow 1, timm) errs the other way: while 1 is far above g^2, steps are "
            "about lr*g, and stay so for 1/(1 - decay) times the logarithm of that ratio.",
        ],
        "v1 = (1 - decay)*g^2   ->   |step 1| = lr*|g|/sqrt(v1) = lr/sqrt(1 - decay)",
        "Bias correction, v that starts at 1, a warm-up, a smaller decay rate: all compared.",
        [
            part("the shock", setting, worst, shocked, pairs, curve="training loss"),
            part("later", after, end, ended, pairs, curve="size of the step / lr"),
        ],
    )


def _pretrained(seed: int) -> dict[str, Any]:
    """Weights of a network that has been trained, by name."""
    model, rng = network(seed), np.random.default_rng([seed, 1])
    x, y = digits().train.x, digits().train.y
    optimizer = Optimizer(Rule(), learning_rate=Cosine(0.01, 5 * epoch_steps()))
    for _ in range(5):
        for rows in batches(len(x), BATCH, rng):
            optimizer.update(model.params, model.loss_and_grads(x[rows], y[rows])[1])
    return model.params


def _go_on(
    rule: Rule, plan: Schedule | None, weights: dict[str, Any], seed: int
) -> tuple[list[float], list[float]]:
    """The loss of the training split, at the start and after each step, and each step's size over lr."""
    data, model = digits(), network(seed)
    for name, p in model.params.items():
        p[:] = weights[name]
    optimizer, rng = Optimizer(rule, learning_rate=plan), np.random.default_rng([seed, 2])
    losses, sizes = [model.loss(data.train.x, data.train.y)], []
    while optimizer.step_count < FIRST_STEPS:
        for rows in batches(len(data.train), BATCH, rng):
            before = _flat(model)
            _, grads = model.loss_and_grads(data.train.x[rows], data.train.y[rows])
            optimizer.update(model.params, grads)
            sizes.append(float(np.sqrt(np.mean((_flat(model) - before) ** 2))) / rule.lr)
            if optimizer.step_count <= SHOWN_STEPS:
                losses.append(model.loss(data.train.x, data.train.y))
    losses.append(model.loss(data.train.x, data.train.y))
    return losses, sizes


def _flat(model: MLP) -> Any:
    return np.concatenate([p.ravel() for p in model.params.values()])


def short_memory(seeds: int) -> dict[str, Any]:
    """Rare large gradients that decide the direction are divided away: the example of Reddi et al."""
    steps, rare, up, down = 3000, 0.1, 110.0, -10.0
    mean = rare * up + (1 - rare) * down
    draws = np.stack([np.random.default_rng([4, seed]).random(steps) for seed in range(seeds)])

    def gradient(x: Any, step: int) -> Any:
        return np.where(draws[:, step] < rare, up, down)

    cost = Measure("mean x of the last tenth", higher_is_better=False)
    rules = {
        "decay 0.9": Rule(lr=0.01, decay=0.9),
        "decay 0.99": Rule(lr=0.01, decay=0.99),
        "decay 0.999": Rule(lr=0.01, decay=0.999),
        "AdaGrad": Rule.from_dialect("adagrad", lr=0.3),
        "SGD": Rule.from_dialect("sgd", lr=0.001),
        "clip to 10": Rule(lr=0.01, clip_value=10.0),
    }
    variants = []
    for label, rule in rules.items():
        xs = descend(gradient, rule, np.zeros(seeds), steps, confine=(-1.0, 1.0)).T
        variants.append(variant(cost, label, xs[:, -steps // 10 :].mean(axis=1), xs, rule=rule))
    pairs = [(label, "decay 0.9") for label in list(rules)[1:]]
    setting = (
        f"x between -1 and 1, from 0, {steps:,} steps. The gradient is {up:g} with probability {rare:g}, "
        f"else {down:g}; its mean is {mean:+.3g}, so that -1 is best and +1 worst."
    )
    return limit(
        "short-memory",
        "Rare gradients that matter are divided away",
        [
            "A rare large gradient raises v in the same step that it is divided by v: it moves x by at most "
            "lr/sqrt(1 - decay), and is then forgotten. Between two of them the many small gradients of the "
            "other sign are divided by a v that has shrunk to their own size, and move x by lr each. When "
            "they are more, x climbs though the mean gradient says down: RMSprop, like Adam, need not "
            "converge (Reddi, Kale and Kumar, 2018).",
            "Clipping takes away what was rare and large, and leaves the many small ones.",
        ],
        f"one step of {up:g}: at most {0.1**-0.5:.2g}*lr down, at decay 0.9;  nine of {down:g}: up to 9*lr",
        "A decay rate that remembers longer than the gaps between the rare gradients; AdaGrad; SGD.",
        [part("online", setting, cost, variants, pairs, curve="x (best: -1)", log_curve=False)],
    )
