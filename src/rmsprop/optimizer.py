"""A Rule at work on NumPy arrays: what `rmsprop.numpy`'s classes have in common, which is all but a name."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from rmsprop import files, tree
from rmsprop.kernels.element import flags_of, scalars_of
from rmsprop.kernels.norms import norms
from rmsprop.kernels.plan import Plan
from rmsprop.rule import Rule
from rmsprop.schedules import Schedule, as_schedule
from rmsprop.state import FILE_KIND, SLOTS, State, check_same_averages
from rmsprop.tree import Array, Tree

NanPolicy = Literal["propagate", "skip", "raise"]


class Optimizer:
    """A Rule that updates nested dicts and lists of arrays in place.

    Parameters
    ----------
    rule
        The update. Its `lr` is used unless `learning_rate` is given.
    learning_rate
        A number, or a schedule: a callable of the step (from 0), as those of `rmsprop.schedules`.
    nan_policy
        What a NaN or an infinity in any gradient does: `"propagate"` it to the parameters, as every
        framework does; `"skip"` the whole update, leaving parameters, state and step as they were, and
        count it in `skipped`; or `"raise"` FloatingPointError before anything changes.
    state
        Where to go on from, in arrays that this optimizer may change; default the start.

    Examples
    --------
    >>> from rmsprop import Rule
    >>> optimizer = Optimizer(Rule.from_dialect("keras", lr=0.1))
    >>> optimizer.update([np.ones(2)], [np.full(2, 0.5)])[0].round(4).tolist()
    [0.6838, 0.6838]
    """

    def __init__(
        self,
        rule: Rule,
        learning_rate: Schedule | float | None = None,
        nan_policy: NanPolicy = "propagate",
        state: State | None = None,
    ):
        if nan_policy not in ("propagate", "skip", "raise"):
            raise ValueError(f"nan_policy must be propagate, skip or raise; got {nan_policy!r}")
        self._rule = rule
        self.learning_rate = rule.lr if learning_rate is None else learning_rate
        self.nan_policy = nan_policy
        self.skipped = 0
        self._state = State() if state is None else state
        self._plan: Plan | None = None

    @property
    def rule(self) -> Rule:
        """The update, with the learning rate of the next step.

        Setting it changes the rule mid-run; with the learning rate as it is, a schedule goes on.
        Momentum that is switched on starts from an empty buffer; switching centering on, or the kind of an
        average, is refused, as no state can be made up for it.
        """
        return self._rule.replace(lr=self.current_learning_rate)

    @rule.setter
    def rule(self, rule: Rule) -> None:
        if self._state.slots:
            check_same_averages(self._rule, rule)
        if rule.lr != self.current_learning_rate:  # else a schedule goes on
            self.learning_rate = rule.lr
        # At once: a buffer that waited for momentum to come back might be read with other units.
        self._state.slots = {s: a for s, a in self._state.slots.items() if s in rule.slots}
        self._rule = rule
        self._plan = None

    @property
    def learning_rate(self) -> Schedule | float:
        """The learning rate, a number or a schedule; assign either at any time."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Schedule | float) -> None:
        self._learning_rate = value if callable(value) else self._rule.replace(lr=value).lr
        self._schedule = as_schedule(self._learning_rate)

    @property
    def current_learning_rate(self) -> float:
        """The learning rate that the next update will use."""
        lr = float(self._schedule(self._state.step))
        if not 0 <= lr < float("inf"):
            raise ValueError(
                f"the learning rate must be finite and at least 0; the schedule gave {lr} at step "
                f"{self._state.step}"
            )
        return lr

    @property
    def step_count(self) -> int:
        """Updates made so far."""
        return self._state.step

    @property
    def state(self) -> State:
        """What the optimizer remembers: the arrays themselves, to look at."""
        return self._state

    def update(self, params: Tree, grads: Tree) -> Tree:
        """Move the parameters one step, in place, and return them.

        Parameters
        ----------
        params
            Arrays of float16, float32 or float64 and any shape (also empty, 0-d and non-contiguous), in
            nested dicts and lists. The state belongs to the paths: other arrays may come next time.
        grads
            The same tree of gradients of the same shapes. They are not changed.

        Raises
        ------
        KeyError, TypeError, ValueError
            For names, dtypes, shapes that do not match, and for parameters that are read-only or share
            memory. Nothing has changed then.
        FloatingPointError
            For a gradient that is not finite, under nan_policy="raise".

        Examples
        --------
        >>> from rmsprop.numpy import RMSprop
        >>> optimizer, params = RMSprop(0.1), {"layer": [np.zeros(2), np.zeros(())]}
        >>> _ = optimizer.update(params, {"layer": [np.ones(2), np.ones(())]})
        >>> params["layer"][0].round(4).tolist()
        [-0.3162, -0.3162]
        """
        lr = self.current_learning_rate
        plan = self._bind(params, grads)
        lengths = norms(plan.flat_grads) if self._wants_norms() else None
        if lengths is not None and self._refuses(plan, lengths):
            self.skipped += 1
            return params
        self._state.step += 1
        h = scalars_of(self._rule, lr, self._state.step)
        plan.step(self._flags, h, self._scales(lengths))
        return params

    def _bind(self, params: Tree, grads: Tree) -> Plan:
        """The plan for these arrays: the last one as it is, if they are the same objects."""
        p, g = tree.flatten(params, "params"), tree.flatten(grads, "grads")
        plan = self._plan
        if plan is not None and plan.holds(p):
            if plan.holds_grads(g):
                return plan
            tree.check_grads(p, g)
        else:
            tree.check_params(p)
            tree.check_grads(p, g)
            self._state.grow(self._rule, p)
            self._flags = flags_of(self._rule)
            self._plan = plan = Plan(p, self._state.slots)
        plan.bind(g)
        return plan

    def _wants_norms(self) -> bool:
        rule = self._rule
        return bool(self.nan_policy != "propagate" or rule.clip_norm or rule.clip_global_norm)

    def _refuses(self, plan: Plan, lengths: Array) -> bool:
        """Whether the NaN policy skips this update."""
        if self.nan_policy == "propagate" or np.isfinite(lengths).all():
            return False
        if self.nan_policy == "skip":
            return True
        path = list(plan.params)[int(np.flatnonzero(~np.isfinite(lengths))[0])]
        g = plan.grads[path]
        raise FloatingPointError(
            f"the gradient{tree.at(path)} holds {np.isnan(g).sum()} NaN and {np.isinf(g).sum()} "
            f"infinities of {g.size} values at step {self._state.step}: nothing was changed; lower the "
            "learning rate, clip, or use nan_policy='skip'"
        )

    def _scales(self, lengths: Array | None) -> Array | None:
        """A factor for each gradient: clipping by norm, and the sign of maximize; None for 1."""
        rule = self._rule
        factor: Any = -1.0 if rule.maximize else 1.0
        if lengths is not None:
            # fmin passes over the NaN of 0/0 and of a gradient that is NaN itself.
            with np.errstate(divide="ignore", invalid="ignore"):
                if rule.clip_norm is not None:
                    factor = factor * np.fmin(1.0, rule.clip_norm / lengths)
                if rule.clip_global_norm is not None:
                    factor = factor * np.fmin(1.0, rule.clip_global_norm / np.hypot.reduce(lengths))
        if self._plan is None or np.all(factor == 1.0):
            return None
        return np.broadcast_to(np.float64(factor), len(self._plan.params)).copy()

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the optimizer remembers.

        Returns
        -------
        dict
            `"rule"`: the rule's fields; `"step"`; `"skipped"`; and `"square_avg"`, `"grad_avg"`,
            `"momentum_buffer"`, as far as the rule keeps them: arrays by path.

        Examples
        --------
        >>> from rmsprop.numpy import RMSprop
        >>> optimizer = RMSprop()
        >>> _ = optimizer.update({"w": np.ones(1)}, {"w": np.ones(1)})
        >>> optimizer.state_dict()["square_avg"]["w"].round(3).tolist()
        [0.1]
        """
        return self._state.copy().to_dict(self.rule, self.skipped)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned. The optimizer keeps its own rule and schedule.

        Raises
        ------
        ValueError
            For a state of a rule that averages otherwise, or one that is not complete: nothing is loaded
            then. Whether it fits the parameters is checked now if they are known, else at the next update.

        Examples
        --------
        >>> from rmsprop.numpy import RMSprop
        >>> first, second = RMSprop(), RMSprop()
        >>> _ = first.update({"w": np.ones(1)}, {"w": np.ones(1)})
        >>> second.load_state_dict(first.state_dict())
        >>> second.step_count
        1
        """
        loaded = State.from_dict(state, self._rule)
        skipped = int(state.get("skipped", 0))
        if self._plan is not None:
            loaded.check_fits(self._plan.params)
        self._state, self.skipped, self._plan = loaded, skipped, None

    def save(self, path: str | Path) -> None:
        """Write the state to one safetensors file, replaced as a whole or not at all.

        Raises OSError where the file cannot be written; what was there before is kept.
        """
        header = self._state.to_dict(self.rule, self.skipped)
        arrays = {
            f"{name}/{where}": a
            for name in SLOTS.values()
            for where, a in header.pop(name, {}).items()
        }
        names = list(next(iter(self._state.slots.values()), {}))  # the file has an order of its own
        files.save_arrays(path, arrays, {"kind": FILE_KIND, "names": names} | header)

    def load(self, path: str | Path) -> None:
        """Go on from the file that `save` wrote.

        Raises ValueError for a file that is damaged or not such a state, and as `load_state_dict`.
        """
        arrays, state = files.load_arrays(path, FILE_KIND)
        try:
            for key, a in arrays.items():
                name, _, where = key.partition("/")
                state.setdefault(name, {})[where] = a
            self.load_state_dict(state)
        except TypeError as error:  # the header holds values of other kinds than `save` wrote
            raise ValueError(f"{path} is damaged: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        # The plan holds addresses: a copy, or a pickle, that kept it would step the original's memory.
        return self.__dict__ | {"_plan": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rule!r}, step={self._state.step})"
