"""Limitations that come from outside the rule: ravines, starts, and gradients that explode."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rmsprop.dialects import DIALECTS
from rmsprop.limits.averages import on_surface
from rmsprop.limits.loops import EPOCHS, descend
from rmsprop.limits.rates import ACCURACY, NETWORK, trained
from rmsprop.limits.study import Measure, limit, part, variant
from rmsprop.models import MLP
from rmsprop.rule import Rule


def ravine(seeds: int) -> dict[str, Any]:
    """Ravines along an axis, across the axes, and curved, without and with momentum."""
    names = ("ravine", "matyas", "rosenbrock")
    return limit(
        "momentum",
        "Without momentum it zigzags in a ravine",
        [
            "RMSprop divides each coordinate by its own average. That straightens a ravine that lies along "
            "an axis (ravine), but cannot turn one that lies across the axes (matyas) or bends "
            "(rosenbrock): there both coordinates see the steep wall, v is large in both, and the path may "
            "swing from wall to wall. A momentum buffer sums the steps: those across cancel, those along "
            "add up to 1/(1 - momentum) of one.",
            "With a constant rate the end of the path is a swing in proportion to the rate, and momentum "
            "gets as far with a smaller one. Along a cosine no such swing is left, and the comparison shows "
            "what momentum does for the path itself.",
        ],
        "b <- mu*b + u;   p <- p - lr*b:   steady u adds up to u/(1 - mu), alternating u to u/(1 + mu)",
        "momentum=0.9, at a rate found for it.",
        [on_surface(name, seeds, "momentum 0.9", Rule(momentum=0.9)) for name in names],
        [momentum_is_there()],
    )


def momentum_is_there() -> dict[str, str]:
    """Which frameworks' RMSprop keeps a momentum buffer when asked to."""
    frameworks = [name for name in DIALECTS if name not in ("hinton", "graves")]
    with_buffer = [
        name for name in frameworks
        if "b" in Rule.from_dialect(name, lr=0.01, momentum=0.9).slots
    ]  # fmt: skip
    graves = Rule.from_dialect("graves").momentum
    return {
        "claim": "A22: RMSprop does not incorporate momentum.",
        "fact": f"{len(with_buffer)} of {len(frameworks)} frameworks' RMSprops take momentum "
        f"({', '.join(with_buffer)}), and Graves (2013) always used {graves:g}; in most it is 0 by "
        "default, which is the rule of the lecture.",
    }


DEEP = (64, 64, 64)


def initialisation(seeds: int) -> dict[str, Any]:
    """Weights that are zero, equal, too small or too large, against He's and Xavier's."""
    starts: dict[str, tuple[Callable[[MLP], None] | None, str]] = {
        "zero": (_fill(0.0), "all weights 0"),
        "all equal": (_fill(0.1), "all weights 0.1"),
        "too small": (_scale(0.01), "the draws times 0.01"),
        "too large": (_scale(10.0), "the draws times 10"),
    }
    parts = []
    for activation, cure in (("relu", "He"), ("tanh", "Xavier")):
        settings = {**starts, cure: (None, "normal draws of the layer's own variance")}
        variants = [
            trained(ACCURACY, label, Rule(lr=0.001), seeds, note=note, hidden=DEEP,
                    activation=activation, prepare=prepare)
            for label, (prepare, note) in settings.items()
        ]  # fmt: skip
        setting = (
            f"Digits, a 64-64-64-64-10 network of {activation} units, {EPOCHS} epochs of mini-batches of 32, "
            "rate 0.001. The draws are those of the cure in every run."
        )
        pairs = [(cure, label) for label in starts]
        curve = "training loss of the epoch"
        parts.append(part(activation, setting, ACCURACY, variants, pairs, curve=curve))
    return limit(
        "initialisation",
        "A bad start is not repaired",
        [
            "RMSprop takes the size of a gradient out of the step, not its direction. Where all weights of "
            "a layer are equal, so are the gradients of its units, and they stay copies of each other: a "
            "wide layer works like one unit. Where all are zero, no hidden unit sees a gradient at all, and "
            "only the last biases learn.",
            "Weights ten times too large need as many times more steps of size lr to change by as much in "
            "proportion, and saturate tanh. Weights too small shrink the signal in every layer; their "
            "gradients shrink with it, which the division by the root of v repairs, but the weights "
            "must still grow at lr a step.",
        ],
        "He: Var w = 2/inputs (relu);   Xavier: Var w = 2/(inputs + outputs) (tanh, sigmoid)",
        "Draws that keep the variance of the signal from layer to layer: He for relu, Xavier for tanh.",
        parts,
    )


def _fill(value: float) -> Callable[[MLP], None]:
    def change(model: MLP) -> None:
        for name in _weights(model):
            model.params[name].fill(value)

    return change


def _scale(factor: float) -> Callable[[MLP], None]:
    def change(model: MLP) -> None:
        for name in _weights(model):
            model.params[name] *= factor

    return change


def _weights(model: MLP) -> list[str]:
    return [name for name in model.params if name.startswith("w")]


HUGE = 1e4


def explosion(seeds: int) -> dict[str, Any]:
    """A huge gradient: SGD is thrown away, RMSprop stands still; clipping mends both."""
    return limit(
        "explosion",
        "After a huge gradient it stands still",
        [
            "One gradient that is R times too large moves SGD R times too far. RMSprop it moves by at most "
            "lr/sqrt(1 - decay): the division bounds the step. But v has seen R^2, and until it has "
            "forgotten it every step is too short: with R = 10,000 for some 1,800 steps at decay 0.99, for "
            "some 180 at decay 0.9. Where such gradients come again before that, training crawls.",
            "Clipping before the average sees the gradient keeps v clean. Slide A23 clips to the norm 1.",
        ],
        "sqrt(v) ~ R*sqrt(1 - decay)*decay^(t/2)   ->   about 2*ln(R)/(1 - decay) steps until it is small",
        "clip_norm or clip_global_norm, in the rule itself.",
        [_one_huge(seeds), _corrupt_rows(seeds)],
    )


def _one_huge(seeds: int) -> dict[str, Any]:
    steps, at, judged, width, noise = 1200, 200, 1000, 10, 0.3
    distance = Measure(f"distance at step {judged}", log=True)
    rules = {
        "RMSprop": Rule(lr=0.01, decay=0.99),
        "RMSprop, decay 0.9": Rule(lr=0.01, decay=0.9),
        "RMSprop, clipped": Rule(lr=0.01, decay=0.99, clip_norm=10.0),
        "SGD": Rule.from_dialect("sgd", lr=0.002),
        "SGD, clipped": Rule.from_dialect("sgd", lr=0.002, clip_norm=10.0),
    }
    variants = []
    for label, rule in rules.items():
        curves = np.array([_walk(rule, seed, steps, at, width, noise) for seed in range(seeds)])
        variants.append(variant(distance, label, curves[:, judged], curves, rule=rule))
    pairs = [
        ("RMSprop, clipped", "RMSprop"),
        ("RMSprop, decay 0.9", "RMSprop"),
        ("SGD, clipped", "SGD"),
    ]
    setting = (
        f"A bowl |p|^2/2 of {width} numbers with noise of {noise:g} on each gradient; at step {at} every "
        f"component has {HUGE:g} of either sign added. Clipping is to the norm 10, that of the gradient at "
        "the start."
    )
    return part("one huge", setting, distance, variants, pairs, curve="distance to the minimum")


def _walk(rule: Rule, seed: int, steps: int, at: int, width: int, noise: float) -> Any:
    """Distances to the minimum at each moment."""
    rng = np.random.default_rng([6, seed])
    start, sign = rng.normal(0.0, 3.0, width), rng.choice([-1.0, 1.0], width)
    draws = rng.normal(0.0, noise, (steps, width))

    def gradient(x: Any, step: int) -> Any:
        return x + draws[step] + (HUGE * sign if step == at else 0.0)

    return np.linalg.norm(descend(gradient, rule, start, steps), axis=1)


def _corrupt_rows(seeds: int) -> dict[str, Any]:
    share = 0.01

    def corrupt(x: Any, seed: int) -> Any:
        x, rng = x.copy(), np.random.default_rng([3, seed])
        x[rng.choice(len(x), round(share * len(x)), replace=False)] *= HUGE
        return x

    rules = {
        "RMSprop": Rule(lr=0.001, decay=0.99),
        "RMSprop, decay 0.9": Rule(lr=0.001, decay=0.9),
        "RMSprop, clipped": Rule(lr=0.001, decay=0.99, clip_global_norm=1.0),
        "SGD": Rule.from_dialect("sgd", lr=0.1),
        "SGD, clipped": Rule.from_dialect("sgd", lr=0.1, clip_global_norm=1.0),
    }
    variants = [
        trained(ACCURACY, name, rule, seeds, corrupt=corrupt) for name, rule in rules.items()
    ]
    pairs = [
        ("RMSprop, clipped", "RMSprop"),
        ("RMSprop, decay 0.9", "RMSprop"),
        ("SGD, clipped", "SGD"),
    ]
    setting = (
        f"{NETWORK} {100 * share:g}% of the training rows, drawn anew for each seed, are multiplied by "
        f"{HUGE:g}, as a broken sensor may. Clipping is to the norm 1 of all gradients together."
    )
    curve = "training loss of the epoch"
    return part("corrupt rows", setting, ACCURACY, variants, pairs, curve=curve)
