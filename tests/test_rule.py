"""The Rule: what it accepts and refuses, equality, JSON, names that help, and the equations it prints."""

import dataclasses
import json
import math
import pickle
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rmsprop
from cases import BAD_FIELDS, CONFLICTS, RULES, dialect_rules
from rmsprop import DIALECTS, PRESETS, Rule, reference

FIELDS = {field.name: field.default for field in dataclasses.fields(Rule)}


def valid_rules() -> st.SearchStrategy[Rule]:
    """Any rule that does not contradict itself, made from any values in range."""
    positive = st.floats(0, 1e300)
    above_0 = st.none() | st.floats(0, 1e300, exclude_min=True)
    fields = {
        "lr": positive,
        "decay": st.floats(0, 1, exclude_max=True),
        "eps": positive,
        "momentum": st.floats(0, 1),
        "weight_decay": positive,
        "initial_scale": positive,
        "clip_value": above_0,
        "clip_norm": above_0,
        "clip_global_norm": above_0,
        "second_moment": st.sampled_from(["ema", "sum", "none"]),
        "first_moment": st.sampled_from(["after", "before"]),
    }
    switches = {name: st.booleans() for name, default in FIELDS.items() if default is False}
    assert {*fields, *switches} == {*FIELDS}

    def build(values: dict[str, Any]) -> Rule | None:
        try:
            return Rule(**values)
        except ValueError as error:
            if "must be" in str(error):
                raise  # in range, so only a conflict may be refused
            return None

    made = st.fixed_dictionaries(fields | switches).map(build)
    return made.filter(lambda rule: rule is not None)  # type: ignore[return-value]


class TestValidation:
    @pytest.mark.parametrize(("name", "value", "error", "word"), BAD_FIELDS)
    def test_refuses(self, name: str, value: Any, error: type[Exception], word: str) -> None:
        with pytest.raises(error, match=name) as caught:
            Rule(**{name: value})
        assert type(caught.value) is error
        assert word in str(caught.value), "the message says what is allowed"

    @pytest.mark.parametrize(
        ("name", "value"), [("lr", -0.5), ("decay", 1.25), ("clip_norm", -3.0)]
    )
    def test_message_shows_the_value(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=re.escape(repr(value))):
            Rule().replace(**{name: value})

    @pytest.mark.parametrize(("fields", "words"), CONFLICTS)
    def test_refuses_switches_that_exclude_each_other(
        self, fields: dict[str, Any], words: list[str]
    ) -> None:
        with pytest.raises(ValueError, match=words[0]) as caught:
            Rule(**fields)
        for word in words:
            assert word in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            (
                "lr",
                [0, 0.0, 1e30, 5, np.float32(0.5), np.float64(0.5), np.int64(1), Fraction(1, 4)],
            ),
            ("decay", [0, 0.0, 0.999999, np.nextafter(1, 0)]),
            ("eps", [0, 1e-300, 1.0]),
            ("momentum", [0, 1, 1.0, np.float16(0.5)]),
            ("clip_value", [None, 1, 1e-300]),
            ("clip_global_norm", [None, 1, np.float32(2)]),
            ("centered", [True, False, np.True_, np.False_]),
        ],
    )
    def test_accepts(self, name: str, values: list[Any]) -> None:
        for value in values:
            kept = getattr(Rule(**{name: value}), name)
            assert kept == value
            assert kept is None or type(kept) in (float, bool), "plain Python, for JSON"

    def test_is_frozen_and_takes_keywords_only(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Rule().lr = 1.0  # type: ignore[misc]
        with pytest.raises(TypeError):
            Rule(0.1)  # type: ignore[misc]

    def test_replace_validates_anew(self) -> None:
        rule = Rule(momentum=0.9, nesterov=True)
        assert rule.replace(lr=0.5) == Rule(lr=0.5, momentum=0.9, nesterov=True)
        assert rule == Rule(momentum=0.9, nesterov=True), "the old one stays"
        with pytest.raises(ValueError, match="nesterov"):
            rule.replace(momentum=0.0)
        with pytest.raises(TypeError, match="did you mean 'momentum'"):
            rule.replace(momentun=0.5)


class TestNames:
    @pytest.mark.parametrize(
        ("wrong", "near"),
        [
            ("pytorch", "torch"),
            ("kears", "keras"),
            ("optx", "optax"),
            ("AdamW", "adamw"),
            ("TF1", "tf1"),
        ],
    )
    def test_unknown_dialect_suggests_the_near_one(self, wrong: str, near: str) -> None:
        with pytest.raises(ValueError, match=f"{wrong!r}; did you mean {near!r}") as caught:
            Rule.from_dialect(wrong)
        for name in (*DIALECTS, *PRESETS):
            assert name in str(caught.value), "all that there are"

    @pytest.mark.parametrize(
        ("wrong", "near"),
        [
            ("decai", "decay"),
            ("centred", "centered"),
            ("epsilon", "eps"),
            ("clipnorm", "clip_norm"),
        ],
    )
    def test_unknown_field_suggests_the_near_one(self, wrong: str, near: str) -> None:
        for make in (
            lambda: Rule.from_dict({wrong: 1.0}),
            lambda: Rule.from_dialect("torch", **{wrong: 1.0}),
            lambda: Rule().replace(**{wrong: 1.0}),
            lambda: Rule.from_json(json.dumps({wrong: 1.0})),
        ):
            with pytest.raises(TypeError, match=f"{wrong!r}; did you mean {near!r}"):
                make()

    @pytest.mark.parametrize("wrong", [3, None, 0.5])
    def test_a_dialect_that_is_no_name(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match="unknown dialect"):
            Rule.from_dialect(wrong)

    def test_a_name_like_no_other_gets_no_guess(self) -> None:
        with pytest.raises(ValueError, match=r"'zzzzzz' \(known: hinton"):
            Rule.from_dialect("zzzzzz")

    @pytest.mark.parametrize("name", ["tf1", "optax"])
    def test_no_default_learning_rate(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"no default learning rate: give lr=") as caught:
            Rule.from_dialect(name)
        assert name in str(caught.value)
        assert Rule.from_dialect(name, lr=0.5).lr == 0.5

    def test_fields_replace_the_dialects(self) -> None:
        rule = Rule.from_dialect("graves", momentum=0.0, centered=False)
        assert (rule.momentum, rule.centered, rule.lr, rule.eps) == (0.0, False, 1e-4, 1e-4)

    def test_tables_of_dialects(self) -> None:
        assert set(DIALECTS) == {
            "hinton",
            "graves",
            "torch",
            "keras",
            "tf1",
            "optax",
            "timm",
            "sb3",
        }
        assert set(PRESETS) == {"sgd", "momentum", "nesterov", "adagrad", "adam", "adamw"}
        for entry in (*DIALECTS.values(), *PRESETS.values()):
            assert entry.source, "where it was read"
            assert set(entry.fields) <= set(FIELDS)


class TestValue:
    def test_equality_and_hash(self) -> None:
        assert Rule(lr=1) == Rule(lr=1.0)
        assert Rule(lr=np.float64(0.5)) == Rule(lr=0.5)
        assert Rule(lr=0.1) != Rule(lr=0.2)
        for name, default in FIELDS.items():
            other = {"second_moment": "sum", "first_moment": "before"}.get(name)
            if other is None:
                other = True if default is False else 0.625
            plain = Rule(momentum=0.5) if name == "nesterov" else Rule()
            assert plain.replace(**{name: other}) != plain, name
        assert len({Rule(), Rule(lr=0.01), Rule(lr=0.02)}) == 2
        assert {Rule(momentum=0.5): 1}[Rule(momentum=0.5)] == 1

    @given(valid_rules())
    def test_json_brings_every_rule_back(self, rule: Rule) -> None:
        text = rule.to_json()
        assert "\n" not in text
        assert Rule.from_json(text) == rule
        assert Rule.from_dict(json.loads(text)) == rule
        assert hash(Rule.from_json(text)) == hash(rule)
        assert pickle.loads(pickle.dumps(rule)) == rule

    @given(valid_rules())
    def test_repr_evaluates_to_the_rule(self, rule: Rule) -> None:
        assert eval(repr(rule), {"Rule": Rule}) == rule

    def test_repr_shows_what_differs(self) -> None:
        assert repr(Rule()) == "Rule(lr=0.01)"
        assert repr(Rule(lr=0.5, centered=True)) == "Rule(lr=0.5, centered=True)"

    @pytest.mark.parametrize(
        "text", ["", "{", "[1]", "3", "null", '"lr"', '{"lr": NaN}', '{"lr": -1}']
    )
    def test_bad_json(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"JSON|line 1 column|lr must be"):
            Rule.from_json(text)

    def test_to_dict_is_a_copy_with_every_field(self) -> None:
        rule = Rule()
        fields = rule.to_dict()
        assert list(fields) == list(FIELDS)
        fields["lr"] = 7.0
        assert rule.lr == 0.01

    @pytest.mark.parametrize(
        ("fields", "slots"),
        [
            ({}, ("v",)),
            ({"momentum": 0.9}, ("v", "b")),
            ({"centered": True}, ("v", "m")),
            ({"centered": True, "momentum": 0.9}, ("v", "m", "b")),
            ({"second_moment": "none"}, ()),
            ({"second_moment": "none", "momentum": 0.9}, ("b",)),
            ({"first_moment": "before"}, ("v", "b")),
        ],
    )
    def test_slots(self, fields: dict[str, Any], slots: tuple[str, ...]) -> None:
        assert Rule(**fields).slots == slots


# What a reader should see, written down by hand from the papers and the frameworks' documentation.
EQUATIONS = {
    "hinton": """
        v <- 0.9*v + 0.1*g^2      (v starts at 0)
        u <- g/(sqrt(v) + 1e-08)
        p <- p - 0.01*u""",
    "graves": """
        v <- 0.95*v + 0.05*g^2      (v starts at 0)
        m <- 0.95*m + 0.05*g
        d <- max(v - m^2, 0)
        u <- g/sqrt(d + 0.0001)
        b <- 0.9*b + 0.0001*u
        p <- p - b""",
    "torch": """
        v <- 0.99*v + 0.01*g^2      (v starts at 0)
        u <- g/(sqrt(v) + 1e-08)
        p <- p - 0.01*u""",
    "keras": """
        v <- 0.9*v + 0.1*g^2      (v starts at 0)
        u <- g/sqrt(v + 1e-07)
        p <- p - 0.001*u""",
    "tf1": """
        v <- 0.9*v + 0.1*g^2      (v starts at 1)
        u <- g/sqrt(v + 1e-10)
        p <- p - 0.01*u""",
    "optax": """
        v <- 0.9*v + 0.1*g^2      (v starts at 0)
        u <- g/sqrt(v + 1e-08)
        p <- p - 0.01*u""",
    "timm": """
        v <- 0.9*v + 0.1*g^2      (v starts at 1)
        u <- g/sqrt(v + 1e-10)
        p <- p - 0.01*u""",
    "sb3": """
        v <- 0.99*v + 0.01*g^2      (v starts at 1)
        u <- g/sqrt(v + 1e-08)
        p <- p - 0.01*u""",
    "sgd": """
        p <- p - 0.001*g""",
    "momentum": """
        b <- 0.9*b + g
        p <- p - 0.001*b""",
    "nesterov": """
        b <- 0.9*b + g
        p <- p - 0.001*(0.9*b + g)""",
    "adagrad": """
        v <- v + g^2      (v starts at 0)
        u <- g/(sqrt(v) + 1e-10)
        p <- p - 0.01*u""",
    "adam": """
        v <- 0.999*v + 0.001*g^2      (v starts at 0)
        vhat <- v/(1 - 0.999^t)
        b <- 0.9*b + 0.1*g
        bhat <- b/(1 - 0.9^t)
        u <- bhat/(sqrt(vhat) + 1e-08)
        p <- p - 0.001*u""",
    "adamw": """
        p <- p - 0.001*0.01*p
        v <- 0.999*v + 0.001*g^2      (v starts at 0)
        vhat <- v/(1 - 0.999^t)
        b <- 0.9*b + 0.1*g
        bhat <- b/(1 - 0.9^t)
        u <- bhat/(sqrt(vhat) + 1e-08)
        p <- p - 0.001*u""",
}
EVERYTHING = Rule(
    lr=0.02, decay=0.75, eps=1e-4, momentum=0.5, centered=True, nesterov=True, weight_decay=0.125,
    eps_in_sqrt=True, lr_in_momentum=True, initial_scale=2.0, bias_correction=True, maximize=True,
    clip_global_norm=3.0,
)  # fmt: skip
EVERYTHING_EQUATIONS = """
        g <- -g
        g <- g*min(1, 3.0/|g|)      (|g|: the Euclidean norm over all arrays)
        g <- g + 0.125*p
        v <- 0.75*v + 0.25*g^2      (v starts at 2)
        vhat <- v/(1 - 0.75^t)
        m <- 0.75*m + 0.25*g
        mhat <- m/(1 - 0.75^t)
        d <- max(vhat - mhat^2, 0)
        u <- g/sqrt(d + 0.0001)
        b <- 0.5*b + 0.02*u
        p <- p - (0.5*b + 0.02*u)"""


def evaluate(text: str, p: float, grads: list[float], v0: float) -> list[dict[str, float]]:
    """What the printed lines compute for one number, step by step: each line as Python."""
    known: dict[str, float] = {"p": p, "v": v0, "m": 0.0, "b": 0.0}
    seen = []
    for t, g in enumerate(grads, start=1):
        known |= {"g": g, "t": t}
        for line in text.splitlines():
            name, _, formula = line.split("      (")[0].partition(" <- ")
            formula = formula.replace("|g|", "abs(g)").replace("^", "**")
            known[name] = eval(
                formula, {"sqrt": math.sqrt, "max": max, "min": min, "abs": abs}, known
            )
        seen.append(dict(known))
    return seen


class TestEquations:
    @pytest.mark.parametrize("name", [*DIALECTS, *PRESETS])
    def test_of_each_dialect(self, name: str) -> None:
        expected = EQUATIONS[name].strip().replace("\n        ", "\n")
        assert dialect_rules()[name].equations() == expected

    def test_with_everything_on(self) -> None:
        expected = EVERYTHING_EQUATIONS.strip().replace("\n        ", "\n")
        assert EVERYTHING.equations() == expected

    @pytest.mark.parametrize(
        "name", [*DIALECTS, *PRESETS, *(f"{name} +" for name in DIALECTS), *RULES]
    )
    def test_agree_with_the_reference(self, name: str) -> None:
        """Each printed line is evaluated as Python, in order, and compared with `rmsprop.reference`."""
        if name.endswith(" +"):
            rule = dialect_rules()[name[:-2]].replace(
                momentum=0.9, centered=True, weight_decay=0.05
            )
        else:
            rule = {**dialect_rules(), **RULES}[name]
        grads = [0.7, -1.3, 0.4, 2.5, -0.1, 0.9]
        lines = evaluate(rule.equations(), 1.5, grads, rule.initial_scale)
        params = [np.array([1.5])]
        states = [reference.init(rule, params[0])]
        for g, seen in zip(grads, lines, strict=True):
            params, states = reference.step(rule, params, [np.array([g])], states)
            for letter, array in {"p": params[0], **dict.fromkeys(rule.slots)}.items():
                array = getattr(states[0], letter) if array is None else array
                # The lines show 12 digits; a centered rule divides by a difference of near numbers.
                assert seen[letter] == pytest.approx(float(array[0]), rel=1e-9, abs=1e-12), letter

    def test_shows_the_numbers_it_computes_with(self) -> None:
        assert "0.30000000000000004" not in Rule(momentum=0.1 + 0.2).equations()
        assert "0.1*u" in Rule(lr=0.1).equations()


def test_table_of_contents() -> None:
    assert set(rmsprop.__all__) == {"DIALECTS", "PRESETS", "Dialect", "Rule", "__version__", "tune"}
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", rmsprop.__version__)
