"""Rule to rule: units, losses and refusals, on checkpoints made by hand."""

from typing import Any

import numpy as np
import pytest

from rmsprop import Rule, convert, reference
from rmsprop.convert import Checkpoint, Entry
from rmsprop.convert.losses import OWN, as_dialect, readers
from rmsprop.convert.translate import translate
from rmsprop.convert.writing import check_accepted

Array = np.ndarray[Any, Any]
SHAPE = (3, 2)


def checkpoint(rule: Rule, **fields: Any) -> Checkpoint:
    """What the reference remembers after three steps under a rule."""
    rng = np.random.default_rng(0)
    p, state = rng.normal(size=SHAPE), reference.init(rule, np.zeros(SHAPE))
    for _ in range(3):
        p, state = reference.update(rule, p, rng.normal(size=SHAPE), state)
    slots = {s: getattr(state, s) for s in rule.slots}
    entries = {"w": Entry(slots, p)}
    return Checkpoint("numpy", "", [rule.to_dict()], entries, 3, **fields)


def went_on(rule: Rule, entry: Entry, step: int) -> Array:
    """Five more steps by the reference."""
    zeros = np.zeros(SHAPE)
    v, m, b = (entry.slots.get(slot, zeros) for slot in "vmb")
    rng, p, state = np.random.default_rng(7), entry.value, reference.State(step, v, m, b)
    assert p is not None
    for _ in range(5):
        p, state = reference.update(rule, p, rng.normal(size=SHAPE), state)
    return p


RULES = {
    "keras": Rule.from_dialect("keras", eps=0.0, momentum=0.9, centered=True),
    "torch": Rule.from_dialect("torch", eps=0.0, momentum=0.9, weight_decay=0.0),
    "optax": Rule.from_dialect(
        "optax", lr=0.03, eps=0.0, momentum=0.9, nesterov=True, bias_correction=True
    ),
    "timm": Rule.from_dialect("timm", eps=0.0, momentum=0.5, weight_decay=0.1),
    "sb3": Rule.from_dialect("sb3", eps=0.0, momentum=0.5, centered=True),
    "tf1": Rule.from_dialect("tf1", lr=0.1, eps=0.0, momentum=0.5),
}


@pytest.mark.parametrize("kind", ["torch", "keras", "optax", "numpy"])
@pytest.mark.parametrize("name", RULES)
def test_the_rule_is_kept(name: str, kind: str) -> None:
    source = checkpoint(RULES[name])
    done = translate(source, kind)
    assert not done.losses
    assert {row.exact for row in done.rows} == {"yes"}
    assert done.checkpoint.rule() == RULES[name]
    assert done.checkpoint.step == 3
    assert_same(done.checkpoint.entries["w"], source.entries["w"])


def assert_same(a: Entry, b: Entry) -> None:
    assert a.slots.keys() == b.slots.keys()
    for slot in a.slots:
        np.testing.assert_array_equal(a.slots[slot], b.slots[slot])


@pytest.mark.parametrize("target", ["torch", "keras", "tf1", "sb3", "optax", "timm"])
@pytest.mark.parametrize("name", ["keras", "torch", "sb3", "tf1"])
def test_without_eps_every_dialect_goes_on_with_any_state(name: str, target: str) -> None:
    """What differs is where lr stands and where v started: one is a factor, the other is past."""
    rule = RULES[name]
    source = checkpoint(rule)
    done = translate(source, "tf1" if target == "tf1" else "torch", dialect=target)
    assert not done.losses
    found = went_on(done.checkpoint.rule(), done.checkpoint.entries["w"], 3)
    expected = went_on(rule, source.entries["w"], 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    changed = rule.lr_in_momentum != done.checkpoint.rule().lr_in_momentum
    assert {row.part for row in done.rows if row.exact == "rounded"} == (
        {"b"} if changed else set()
    )


def test_the_buffer_takes_the_rate_of_the_next_step() -> None:
    """Under a schedule: the last step was made at .01, the next is made at .002."""
    rule = RULES["torch"]
    source = checkpoint(rule)
    done = translate(source, "keras", dialect="keras", lr=0.002)
    assert done.checkpoint.rule().lr == 0.002
    np.testing.assert_array_equal(
        done.checkpoint.entries["w"].slots["b"], source.entries["w"].slots["b"] * 0.002
    )
    expected = went_on(rule.replace(lr=0.002), source.entries["w"], 3)
    found = went_on(done.checkpoint.rule(), done.checkpoint.entries["w"], 3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


def test_the_buffer_of_each_group_takes_its_own_rate() -> None:
    rule = RULES["torch"]
    one = checkpoint(rule)
    entries = {"a": one.entries["w"], "z": Entry(one.entries["w"].slots, group=1)}
    groups = [rule.to_dict(), rule.replace(lr=0.5).to_dict()]
    source = Checkpoint("torch", "torch", groups, entries, 3)
    done = translate(source, "torch", dialect="keras").checkpoint
    b = one.entries["w"].slots["b"]
    np.testing.assert_array_equal(done.entries["a"].slots["b"], b * 0.01)
    np.testing.assert_array_equal(done.entries["z"].slots["b"], b * 0.5)
    assert [group["lr"] for group in done.groups] == [0.01, 0.5]
    again = translate(done, "torch", dialect="torch", lr=[0.01, 0.5]).checkpoint
    np.testing.assert_allclose(again.entries["z"].slots["b"], b, rtol=1e-15)
    with pytest.raises(ValueError, match="3 learning rates for 2 groups: give one for each"):
        translate(source, "torch", lr=[1.0, 2.0, 3.0])


LOSSES: dict[str, tuple[Rule, str, dict[str, Any], str]] = {
    "eps inside to outside": (
        Rule.from_dialect("keras"),
        "torch",
        {"dialect": "torch"},
        r"eps: eps stands elsewhere \(inside the root: True there, False here\), and there is no eps that "
        r"turns one into the other",
    ),
    "eps outside to inside": (Rule(), "keras", {"dialect": "keras"}, "eps: eps stands elsewhere"),
    "coupled to decoupled": (
        Rule(weight_decay=0.1, eps=0),
        "keras",
        {"dialect": "keras"},
        "weight_decay: weights decay apart from the gradient in one and through it in the other",
    ),
    "decoupled to coupled": (
        Rule.from_dialect("keras", weight_decay=0.1, eps=0),
        "torch",
        {"dialect": "torch"},
        "weight_decay: weights decay",
    ),
    "weight decay that the target lacks": (
        Rule(weight_decay=0.1, eps=0),
        "tf1",
        {},
        "weight_decay: weight_decay is 0.1 there and 0.0 here",
    ),
    "nesterov that the target lacks": (
        Rule(momentum=0.9, nesterov=True),
        "torch",
        {"dialect": "torch"},
        "nesterov: nesterov is True there and False here",
    ),
    "clipping that the target lacks": (
        Rule(clip_norm=1.0),
        "torch",
        {"dialect": "torch"},
        "clip_norm: clip_norm is 1.0 there and None here",
    ),
    "bias correction that the target lacks": (
        Rule(bias_correction=True),
        "torch",
        {"dialect": "torch"},
        "bias_correction: bias_correction is True",
    ),
    "centered that the target lacks": (
        Rule(centered=True),
        "bitsandbytes",
        {},
        "centered: centered is True there and False here",
    ),
    "momentum that the target ignores": (
        Rule(momentum=0.9),
        "bitsandbytes",
        {},
        "momentum: momentum is 0.9 there and 0.0 here",
    ),
    "8 bits": (Rule(), "bitsandbytes", {}, "precision: w would be rounded to 8 bits"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_refused_until_it_is_accepted(name: str) -> None:
    rule, kind, options, message = LOSSES[name]
    done = translate(checkpoint(rule), kind, **options)
    with pytest.raises(ValueError, match=message) as error:
        check_accepted(done, [])
    assert "nothing is written" in str(error.value)
    words = [loss.name for loss in done.losses]
    assert f"--accept {','.join(words)}" in str(error.value)
    check_accepted(done, words)
    for word in words:
        with pytest.raises(ValueError, match="nothing is written"):
            check_accepted(done, [w for w in words if w != word])


def test_where_v_started_matters_to_parameters_that_have_had_no_step() -> None:
    source = checkpoint(Rule(eps=0))
    assert not translate(source, "torch", dialect="sb3").losses
    source.entries["late"] = Entry(value=np.ones(2))
    lost = translate(source, "torch", dialect="sb3").losses
    assert [loss.name for loss in lost] == ["initial_scale"]
    assert "would start from v = 1.0 here, and from 0.0 there" in lost[0].why


def test_a_parameter_without_state_starts_fresh_where_all_have_one() -> None:
    source = checkpoint(Rule.from_dialect("timm", momentum=0.9))
    source.entries["late"] = Entry(value=np.ones(2, np.float32))
    assert translate(source, "torch").checkpoint.entries["late"].slots == {}
    late = translate(source, "numpy").checkpoint.entries["late"]
    np.testing.assert_array_equal(late.slots["v"], np.ones(2, np.float32))
    np.testing.assert_array_equal(late.slots["b"], np.zeros(2, np.float32))
    assert late.slots["v"].dtype == np.float32


@pytest.mark.parametrize("dialects", [("keras", "torch"), ("torch", "keras")])
def test_a_learning_rate_of_zero_would_erase_the_buffer(dialects: tuple[str, str]) -> None:
    source = checkpoint(Rule.from_dialect(dialects[0], momentum=0.9, eps=0))
    with pytest.raises(
        ValueError, match=r"at a learning rate of 0: give that of the next step that moves"
    ):
        translate(source, "torch", dialect=dialects[1], lr=0)
    assert not translate(
        source, "torch", lr=0
    ).losses  # the rule stays: there is nothing to bring over


def test_a_missing_learning_rate() -> None:
    source = checkpoint(Rule.from_dialect("optax", lr=0.1))
    source.dialect, source.groups = "optax", [{"decay": 0.9}]
    with pytest.raises(ValueError, match=r"does not say the learning rate: give it, --lr 0.001"):
        translate(source, "torch")
    assert translate(source, "torch", lr=0.1).checkpoint.rule().lr == 0.1


def test_a_missing_dialect() -> None:
    source = checkpoint(Rule())
    source.dialect, source.groups = "", [{}]
    with pytest.raises(
        ValueError, match="does not say whose RMSprop wrote it: name it, --from tf1"
    ):
        translate(source, "torch")


def test_a_missing_step() -> None:
    source = checkpoint(Rule())
    source.step = None
    assert [loss.name for loss in translate(source, "torch").losses] == ["step"]
    done = translate(source, "torch", step=12)
    assert not done.losses
    assert done.checkpoint.step == 12
    source.groups = [Rule(bias_correction=True).to_dict()]
    with pytest.raises(ValueError, match="bias correction needs it: give --step N"):
        translate(source, "torch")
    with pytest.raises(ValueError, match="step must be a whole number, 0 or more; got -1"):
        translate(source, "torch", step=-1)


def test_switching_centered_on_is_a_word_of_the_user() -> None:
    """m = 0 is not the mean of the gradients that were."""
    source = checkpoint(Rule(eps=0))
    source.groups = [Rule(eps=0, centered=True).to_dict()]
    with pytest.raises(
        ValueError, match=r"'w' has no mean of the gradients \(m\), which this rule needs"
    ):
        translate(source, "torch")


def test_what_the_rule_does_not_use_is_dropped_and_said() -> None:
    """As the momentum slot of TensorFlow 1 without momentum, which holds the last update."""
    source = checkpoint(Rule(momentum=0.9))
    source.groups = [Rule().to_dict()]
    done = translate(source, "torch")
    assert not done.losses
    assert list(done.checkpoint.entries["w"].slots) == ["v"]
    assert [row.what for row in done.rows if row.part == "b"] == [
        "dropped: the rule that wrote it does not use it"
    ]


def test_momentum_that_was_raised_starts_from_an_empty_buffer() -> None:
    source = checkpoint(Rule())
    source.groups = [Rule(momentum=0.9).to_dict()]
    done = translate(source, "torch")
    np.testing.assert_array_equal(done.checkpoint.entries["w"].slots["b"], np.zeros(SHAPE))
    assert "starts at 0: the source has no b" in [row.what for row in done.rows]


def test_averages_of_another_kind_cannot_be_accepted() -> None:
    source = checkpoint(Rule.from_dialect("adagrad"))
    with pytest.raises(ValueError, match="cannot be translated: the averages are of another kind"):
        translate(source, "torch", dialect="torch")
    adam = checkpoint(Rule.from_dialect("adam"))
    with pytest.raises(
        ValueError, match="the buffer stands before the division there and after it here"
    ):
        translate(adam, "torch", dialect="torch")
    assert not translate(adam, "numpy").losses


def test_groups_with_rules_of_their_own_in_a_file_that_has_one() -> None:
    source = checkpoint(Rule())
    source.groups.append(Rule(lr=0.5).to_dict())
    source.entries["z"] = Entry(source.entries["w"].slots, group=1)
    lost = translate(source, "keras").losses
    assert [loss.name for loss in lost] == ["groups"]
    assert "2 groups of parameters with rules of their own" in lost[0].why
    assert not translate(source, "torch").losses
    source.groups[1] = source.groups[0]
    assert not translate(source, "keras").losses


def test_float64_into_a_float32_model() -> None:
    source = checkpoint(Rule())
    like = Checkpoint("torch", entries={"w": Entry(value=np.zeros(SHAPE, np.float32))})
    done = translate(source, "torch", like=like)
    assert [loss.name for loss in done.losses] == ["precision"]
    assert done.checkpoint.entries["w"].slots["v"].dtype == np.float32
    assert {row.exact for row in done.rows} == {"no"}


def test_parameters_alone_are_no_state() -> None:
    source = Checkpoint("torch", "torch", [{}], {"w": Entry(value=np.zeros(2))})
    with pytest.raises(ValueError, match="no optimizer state, only parameters"):
        translate(source, "torch")


def test_unknown_kinds_and_dialects() -> None:
    source = checkpoint(Rule())
    with pytest.raises(
        ValueError, match="no file of kind 'caffe' can be written; known: torch, sb3"
    ):
        translate(source, "caffe")
    with pytest.raises(ValueError, match="no framework's own optimizer computes 'graves'"):
        translate(source, "torch", dialect="graves")


@pytest.mark.parametrize("dialect", OWN)
def test_each_framework_reads_its_own_dialect(dialect: str) -> None:
    rule = Rule.from_dialect(dialect, lr=0.1)
    assert as_dialect(rule, dialect) == rule
    kind = "torch" if dialect == "timm" else dialect
    assert OWN[dialect] in readers(rule, kind)


def test_what_reads_a_rule() -> None:
    assert readers(Rule(), "torch") == ["torch.optim.RMSprop"]
    assert readers(Rule.from_dialect("keras", momentum=0.9), "torch") == ["timm.optim.RMSpropTF"]
    both = ["timm.optim.RMSpropTF", "stable-baselines3's RMSpropTFLike"]
    assert readers(Rule.from_dialect("keras"), "torch") == both
    assert readers(Rule.from_dialect("keras"), "keras") == ["keras.optimizers.RMSprop"]
    assert readers(Rule(nesterov=True, momentum=0.9), "torch") == []
    assert readers(Rule(eps_in_sqrt=True), "optax") == ["optax.rmsprop"]


def test_live_optimizers_of_numpy() -> None:
    from rmsprop.numpy import Optimizer

    rule = Rule(momentum=0.9)
    one, two = Optimizer(rule), Optimizer(rule)
    p, q = {"w": np.ones(3)}, {"w": np.ones(3)}
    for optimizer, params in ((one, p), (two, q)):
        optimizer.update(params, {"w": np.arange(3.0)})
    one.update(p, {"w": np.ones(3)})
    convert.write(convert.read(one), two)
    q["w"][:] = p["w"]
    for optimizer, params in ((one, p), (two, q)):
        optimizer.update(params, {"w": np.arange(3.0)})
    np.testing.assert_array_equal(p["w"], q["w"])
    with pytest.raises(
        ValueError, match=r"the target computes another rule \(eps 0.1, not 1e-08\)"
    ):
        convert.write(convert.read(one), Optimizer(rule.replace(eps=0.1)))
