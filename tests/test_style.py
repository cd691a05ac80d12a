"""Style transfer: the terms by hand, targets that nothing writes to, and runs that go on bit for bit."""

import io
import json
import math
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from needs import package

torch = package("torch")

from rmsprop import Rule  # noqa: E402
from rmsprop.schedules import Cosine  # noqa: E402
from rmsprop.style import RULE, RandomFilters, StyleTask, images, sheet, vgg  # noqa: E402
from rmsprop.style.features import (  # noqa: E402
    drawn,
    gram,
    levels_of,
    recoloured,
    total_variation,
)
from rmsprop.style.transfer import StyleLearner  # noqa: E402

SMALL: dict[str, Any] = {"size": 48, "scales": 2, "epochs": 2, "steps_per_epoch": 5}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On pictures this small threads only wait for each other, on a busy machine for seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(rule: Rule = RULE, seed: int = 0, **settings: Any) -> StyleLearner:
    task = StyleTask(**(SMALL | settings))
    return task.learner(rule, Cosine(rule.lr, task.steps), seed)


def walked(learner: StyleLearner, steps: int) -> list[float]:
    return [learner.step(np.arange(1)) for _ in range(steps)]


# The parts, by hand


def test_gram_by_hand() -> None:
    f = np.random.default_rng(0).standard_normal((3, 4, 5))
    expected = [[sum((a * b).flat) / (3 * 4 * 5) for b in f] for a in f]
    found = gram(torch.tensor(f[None]))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    shuffled = f.reshape(3, 20)[:, np.random.default_rng(1).permutation(20)].reshape(1, 3, 4, 5)
    np.testing.assert_allclose(gram(torch.tensor(shuffled)).numpy(), expected, rtol=1e-12)


def test_total_variation_by_hand() -> None:
    x = np.random.default_rng(0).random((3, 4, 5))
    total = 0.0
    for c, i, j in np.ndindex(3, 4, 5):
        total += abs(x[c, i + 1, j] - x[c, i, j]) if i < 3 else 0
        total += abs(x[c, i, j + 1] - x[c, i, j]) if j < 4 else 0
    assert total_variation(torch.tensor(x[None])).item() == pytest.approx(total / 60, rel=1e-12)
    assert total_variation(torch.ones(1, 3, 1, 1)).item() == 0


def test_filters_respond_to_their_style_as_the_docstring_says() -> None:
    """Whitened: over the style's patches each response has mean 0 and deviation 1 before the threshold."""
    picture = images.sample("flower", 64)[0].numpy()
    weight, bias = drawn(picture, 16, np.random.default_rng(0))
    maps = torch.nn.functional.conv2d(torch.tensor(picture)[None], weight, bias)[0] + 1
    assert maps.mean((1, 2)).abs().max() < 0.15  # patches are drawn with replacement
    assert (maps.std((1, 2)) - 1).abs().max() < 0.15
    again = drawn(picture, 16, np.random.default_rng(0))
    other = drawn(picture, 16, np.random.default_rng(1))
    assert torch.equal(weight, again[0])
    assert torch.equal(bias, again[1])
    assert not torch.equal(weight, other[0])


def test_the_first_level_by_hand() -> None:
    style, image = images.sample("flower", 32), torch.rand(1, 3, 12, 14)
    filters = RandomFilters(style, levels=1, seed=3)
    found = filters(image)[0]["level1"][0]
    w, b = filters.weights[0].double().numpy(), filters.biases[0].double().numpy()
    x = np.pad(image[0].double().numpy(), ((0, 0), (3, 3), (3, 3)), mode="reflect")
    for i, j in ((0, 0), (5, 6), (11, 13)):
        expected = np.maximum((w * x[:, i : i + 7, j : j + 7]).sum((1, 2, 3)) + b, 0)
        np.testing.assert_allclose(found[:, i, j].numpy(), expected, atol=1e-3)


def test_levels_are_refused_where_a_picture_has_none() -> None:
    for wrong in (0, levels_of(43) + 1):
        with pytest.raises(ValueError, match="levels must be 1 to 3"):
            RandomFilters(images.sample("flower", 64), levels=wrong)


def test_recoloured_has_the_colours_of_the_style() -> None:
    rng = np.random.default_rng(0)
    mix = np.array([[0.05, 0.02, 0.0], [0.0, 0.04, 0.01], [0.01, 0.0, 0.06]])
    content = torch.tensor(0.5 + 0.04 * rng.standard_normal((1, 3, 30, 40)), dtype=torch.float32)
    drawn_style = np.einsum("ij,jhw->ihw", mix, rng.standard_normal((3, 25, 35))) + 0.45
    style = torch.tensor(drawn_style[None], dtype=torch.float32)
    found = recoloured(content, style)[0].reshape(3, -1).numpy()
    expected = style[0].reshape(3, -1).numpy()
    np.testing.assert_allclose(found.mean(1), expected.mean(1), atol=1e-5)
    np.testing.assert_allclose(np.cov(found), np.cov(expected), rtol=0.01, atol=1e-5)
    itself = recoloured(content, content)
    assert (itself - content).abs().max() < 1e-5
    grey = content[:, :1].expand(1, 3, 30, 40)
    assert torch.isfinite(recoloured(grey, style)).all()


# The learner


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    learner = small(content_weight=2.0, style_weight=3.0, tv_weight=5.0)
    walked(learner, 2)
    terms = learner.losses()
    assert set(terms) == {"content", "style", "tv"}
    expected = 2 * terms["content"] + 3 * terms["style"] + 5 * terms["tv"]
    assert learner.measure("test") == (pytest.approx(expected, rel=1e-6), None)
    style, content = learner._network(learner.pixels.detach())
    relative = [
        (torch.linalg.norm(gram(style[name]) - g) / torch.linalg.norm(g)) ** 2
        for name, g in learner.style_targets.items()
    ]
    assert terms["style"] == pytest.approx(float(sum(relative)) / len(relative), rel=1e-4)
    f = learner.content_targets["grey"]
    unexplained = (content["grey"] - f).square().mean() / f.var(correction=0)
    assert terms["content"] == pytest.approx(unexplained.item(), rel=1e-4)
    assert terms["tv"] == pytest.approx(total_variation(learner.pixels).item())


def test_step_returns_the_loss_before_it_and_counts() -> None:
    learner = small()
    before = learner.measure()[0]
    assert walked(learner, 1) == [before]
    assert learner.measure()[0] != before
    assert (learner.step_count, learner.rows) == (1, 5)


def test_the_update_is_the_rule_and_then_clipped() -> None:
    rule = Rule.from_dialect("torch", lr=0.05)
    learner = small(rule)
    start = learner.pixels.detach().clone().requires_grad_()
    pixels, learner.pixels = learner.pixels, start
    learner._total(learner._terms()).backward()
    learner.pixels = pixels
    optimizer = torch.optim.RMSprop([start], lr=0.05)
    optimizer.step()
    walked(learner, 1)
    expected = start.detach().clamp(0, 1)
    torch.testing.assert_close(learner.pixels.detach(), expected, rtol=0, atol=1e-6)
    assert (start.detach() != expected).any(), "nothing was clipped"


def test_the_rate_is_the_plans() -> None:
    seen: list[int] = []

    def plan(step: int) -> float:
        seen.append(step)
        return 0.0 if step < 3 else 0.01

    learner = StyleTask(**SMALL).learner(RULE, plan, 0)
    before = learner.image()
    walked(learner, 3)
    assert np.array_equal(learner.image(), before), "a rate of 0 moves nothing"
    walked(learner, 2)
    assert not np.array_equal(learner.image(), before)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("scale", [0, 1])
def test_targets_are_computed_once_and_nothing_writes_to_them(scale: int) -> None:
    """The slide's forward overwrote the pictures that it compared with."""
    learner = small()
    walked(learner, 5 * scale + 1)
    kept = learner.content_targets | learner.style_targets
    copies = {name: value.clone() for name, value in kept.items()}
    pictures = learner._content.clone(), learner._style.clone()
    weights = [p.clone() for p in learner._network.parameters()]
    walked(learner, 3)
    now = learner.content_targets | learner.style_targets
    for name, value in now.items():
        assert value is kept[name], "computed again"
        assert torch.equal(value, copies[name])
        assert not value.requires_grad
    assert torch.equal(learner._content, pictures[0])
    assert torch.equal(learner._style, pictures[1])
    for p, copy in zip(learner._network.parameters(), weights, strict=True):
        assert torch.equal(p, copy)
        assert p.grad is None, "a gradient beside that of the pixels"


@pytest.mark.parametrize("lr", [0.01, 10.0])
def test_pixels_stay_in_range_and_finite(lr: float) -> None:
    learner = small(RULE.replace(lr=lr))
    for loss in walked(learner, 10):
        assert math.isfinite(loss)
        assert learner.pixels.min() >= 0
        assert learner.pixels.max() <= 1
    picture = learner.image()
    assert picture.shape == (32, 48, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("start", ["content", "noise"])
def test_the_style_loss_falls_far(start: str) -> None:
    settings = {"size": 64, "scales": 1, "epochs": 1, "steps_per_epoch": 60}
    learner = small(RULE.replace(lr=0.005), start=start, content_weight=0.0, **settings)
    before = learner.losses()["style"]
    walked(learner, 60)
    assert learner.losses()["style"] < before / 5


def test_content_holds_the_content() -> None:
    """With its weight high, the picture keeps to the content; with none, it leaves it."""
    found = {}
    for weight in (0.0, 30.0):
        learner = small(content_weight=weight, epochs=6)
        walked(learner, 30)
        found[weight] = learner.losses()["content"]
    assert found[30.0] < found[0.0] / 3


def test_the_same_seeds_the_same_bytes() -> None:
    def run(seed: int = 0, **settings: Any) -> bytes:
        learner = small(seed=seed, **settings)
        walked(learner, 8)
        return learner.arrays()["params/image"].tobytes()

    first = run()
    assert run() == first
    assert run(seed=1) != first, "the start's noise"
    assert run(**{"seed": 0, "scales": 1}) != first


def test_the_tasks_seed_draws_the_features() -> None:
    one, two = StyleTask(**SMALL), StyleTask(**SMALL, seed=1)
    losses = [task.learner(RULE, lambda step: 0.01, 0).measure()[0] for task in (one, two)]
    assert losses[0] != losses[1]


def test_coarse_to_fine() -> None:
    learner = small()
    sizes = []
    for step in range(12):  # two more than planned
        learner.step()
        sizes.append(learner.image().shape[:2])
        if step in (4, 5):
            counts = learner.arrays()["state/step"].tolist()
            assert counts == (5 if step == 4 else 1), "a new size, a new optimizer"
    assert sizes == [(16, 24)] * 5 + [(32, 48)] * 7


@pytest.mark.parametrize(
    ("rule", "at"),
    [
        *((RULE, at) for at in (0, 2, 5, 6)),
        (Rule.from_dialect("graves", lr=0.01), 7),  # keeps a third array
        (Rule.from_dialect("sgd", lr=0.1), 7),  # keeps none
    ],
)
def test_interrupted_and_resumed_is_the_whole_run(rule: Rule, at: int) -> None:
    """5 stands just before the change of size, 6 just after it."""
    whole = small(rule)
    losses = walked(whole, 10)
    first = small(rule)
    assert walked(first, at) == losses[:at]
    arrays, header = first.arrays(), json.loads(json.dumps(first.header()))
    walked(first, 2)  # what was saved does not follow
    second = small(rule, seed=99)
    walked(second, 3)
    second.load(arrays, header)
    assert second.step_count == at
    assert walked(second, 10 - at) == losses[at:]
    found, expected = second.arrays(), whole.arrays()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), name
    assert second.header() == whole.header()


def test_what_does_not_fit_is_not_loaded(tmp_path: Path) -> None:
    learner = small()
    walked(learner, 2)
    arrays, header = learner.arrays(), learner.header()
    image = arrays["params/image"]
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (arrays, header | {"kind": "model"}, "no state of a style transfer"),
        (arrays, header | {"pictures": ["a", "b"]}, "made of other pictures"),
        (arrays, header | {"features": "vgg19"}, "made of other features"),
        (arrays, header | {"scale": 2}, "scale must be 0 to 1"),
        (arrays, header | {"steps": -1}, "steps must be"),
        (arrays, header | {"scale": 1}, "params/image must be"),
        (arrays | {"params/image": image.astype(float)}, header, "params/image must be"),
        ({k: v for k, v in arrays.items() if k != "params/image"}, header, "got none"),
        (arrays | {"state/square_avg": image[0]}, header, "this rule keeps"),
        (arrays | {"state/grad_avg": image}, header, "this rule keeps"),
        ({"params/image": image}, header, "this rule keeps"),
    ]
    before = {name: value.tobytes() for name, value in learner.arrays().items()}
    for changed, head, message in cases:
        with pytest.raises(ValueError, match=message):
            learner.load(changed, head)
        assert {name: value.tobytes() for name, value in learner.arrays().items()} == before
    images.save(tmp_path / "other.png", images.sample("flower", 48))
    other = small(content=str(tmp_path / "other.png"))
    with pytest.raises(ValueError, match="made of other pictures"):
        other.load(arrays, header)


# Pictures of the user


def test_own_pictures_of_other_shapes_and_of_one_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images.save(tmp_path / "tall.png", rng.integers(0, 256, (50, 20, 3)).astype(np.uint8))
    images.save(tmp_path / "plain.png", np.full((30, 40, 3), 120, np.uint8))
    tall, plain = str(tmp_path / "tall.png"), str(tmp_path / "plain.png")
    for content, style in ((tall, plain), (plain, tall), (plain, plain)):
        learner = small(content=content, style=style, scales=1)
        assert all(math.isfinite(loss) for loss in walked(learner, 4))
        assert max(learner.image().shape) == 48
        assert np.isfinite(learner.arrays()["params/image"]).all()


def test_a_narrow_picture_is_refused(tmp_path: Path) -> None:
    images.save(tmp_path / "narrow.png", np.zeros((4, 400, 3), np.uint8))
    with pytest.raises(ValueError, match=r"narrow\.png is too long and narrow.*16 or more"):
        small(style=str(tmp_path / "narrow.png"))
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        small(content=str(tmp_path / "none.png"))


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 15}, "size must be a whole number, 16 or more"),
        ({"size": 64.0}, "size must be a whole number"),
        ({"size": 8001}, "size must be at most 8000"),
        ({"scales": 0}, "scales must be"),
        ({"scales": 3, "size": 32}, "coarsest of 3 scales of size 32 has 8 pixels"),
        ({"epochs": 0}, "epochs must be"),
        ({"steps_per_epoch": True}, "steps_per_epoch must be"),
        ({"seed": -1}, "seed must be"),
        ({"content_weight": -1.0}, "content_weight must be a finite number"),
        ({"style_weight": math.inf}, "style_weight must be"),
        ({"tv_weight": math.nan}, "tv_weight must be"),
        ({"tv_weight": "much"}, "tv_weight must be"),
        ({"features": "vgg16"}, "features must be one of random, vgg19"),
        ({"start": "style"}, "start must be one of content, noise"),
        ({"pooling": "min"}, "pooling must be one of max, average"),
        ({"weights": "a.pth"}, "set features='vgg19'"),
    ],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StyleTask(**settings)


def test_sizes_double_up_to_the_last() -> None:
    found = {size: StyleTask(size=size).sizes for size in (16, 127, 128, 255, 256, 1000)}
    assert found == {
        16: (16,), 127: (127,), 128: (64, 128), 255: (128, 255), 256: (64, 128, 256),
        1000: (250, 500, 1000),
    }  # fmt: skip
    assert StyleTask(size=256, scales=1).sizes == (256,)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="device must be one that PyTorch has here"):
        small(device="abacus")


def test_a_task_is_plain_data(tmp_path: Path) -> None:
    task = StyleTask(content=str(tmp_path / "house.png"), size=100, scales=3)
    assert pickle.loads(pickle.dumps(task)) == task
    record = json.loads(json.dumps(task.to_dict()))
    assert record["name"] == "house as flower"
    assert record["sizes"] == [25, 50, 100]
    assert record["steps"] == task.epochs * task.steps_per_epoch
    assert (task.batch_size, task.metric) == (1, "none")


def test_the_sheet_shows_all_three_pictures() -> None:
    task = StyleTask(**SMALL)
    result = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    figure = sheet(task, result)
    shown = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    content, style = map(images.to_array, task.pictures())
    for found, expected in zip(shown, (content, style, result), strict=True):
        assert np.array_equal(found, expected)
    figure.savefig(io.BytesIO(), format="png", dpi=40)


# VGG-19, and what is installed


def test_vgg19_in_the_same_loop(tmp_path: Path) -> None:
    """With drawn weights: the terms are of the paper's layers, the loss falls, and a run goes on."""
    torch.manual_seed(0)
    network, state = vgg.architecture(), {}
    for name, p in network.named_parameters():
        deviation = math.sqrt(2 / p[0].numel()) if p.dim() > 1 else 0.1
        state[f"features.{name}"] = torch.randn(p.shape) * deviation
    file = tmp_path / "vgg19.pth"
    torch.save(state, file)
    settings = {
        "features": "vgg19",
        "weights": str(file),
        "scales": 2,
        "epochs": 1,
        "steps_per_epoch": 6,
    }
    whole = small(**settings)
    assert list(whole.style_targets) == list(vgg.STYLE_LAYERS)
    assert list(whole.content_targets) == list(vgg.CONTENT_LAYERS)
    assert torch.equal(whole._content, whole.task.pictures()[0]), "its content keeps its colours"
    losses = walked(whole, 6)
    assert losses[2] < losses[0]
    first = small(**settings)
    walked(first, 2)
    second = small(**settings)
    second.load(first.arrays(), first.header())
    assert walked(second, 4) == losses[2:]
    file.unlink()


@pytest.mark.parametrize("lacking", ["torch", "torchvision"])
def test_without_torch_it_says_what_to_install_and_torchvision_is_not_looked_at(
    lacking: str,
) -> None:
    code = f"""
        import sys
        sys.modules[{lacking!r}] = None  # so that its import fails as if it were not installed
        try:
            import rmsprop.style
        except ModuleNotFoundError as error:
            print(error)
        else:
            print("loaded", any(name.startswith("torchvision.") for name in sys.modules))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    found = done.stdout.strip()
    if lacking == "torch":
        assert "pip install 'rmsprop[torch]'" in found
    else:
        assert found == "loaded False"
