"""Any rule as an Optax gradient transformation: its state, and the two functions that it consists of."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmsprop.jax import rounding
from rmsprop.jax.arithmetic import Numbers, Slots, clip, update
from rmsprop.jax.hyperparameters import scalar, with_rate
from rmsprop.rule import Rule


class State(NamedTuple):
    """What the transformation remembers; a pytree.

    Attributes
    ----------
    count
        Steps taken, int32.
    v, m, b
        The averages of squares and of gradients, and the momentum buffer: trees like the parameters', of
        arrays of their shapes; None where the rule keeps none. They are float64 for float64 parameters, else
        float32; bfloat16 where `state_dtype` says so.
    key
        What the next step draws its rounding from, plain numbers; None where nothing is drawn.

    Examples
    --------
    >>> state = from_rule(Rule(lr=0.1)).init({"w": jnp.ones(2)})
    >>> print(state.v, state.b)
    {'w': Array([0., 0.], dtype=float32)} None
    """

    count: Any
    v: Any = None
    m: Any = None
    b: Any = None
    key: Any = None


def from_rule(
    rule: Rule,
    learning_rate: Any = None,
    *,
    state_dtype: Any = None,
    key: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """An Optax transformation of any rule: RMSprop in any dialect, SGD, momentum, AdaGrad, Adam, AdamW.

    `print(rule.equations())` shows what it computes. It works where Optax's own do: in `optax.chain`,
    `masked`, `partition`, `MultiSteps`, under `jit`, `vmap`, `scan` and over a mesh. Parameters of float16
    and bfloat16 are computed in float32; updates have the gradients' dtype.

    Parameters
    ----------
    rule
        The update.
    learning_rate
        In place of the rule's: a number, an array of one (which may be traced), or a schedule: the count of
        steps, from 0, in, the rate out. The count is traced, so a schedule must be one of Optax's, or be
        written with `jax.numpy`; those of `rmsprop.schedules` are Python's. Default: the rule's.
    state_dtype
        "bfloat16" keeps v, m and b in two bytes, rounded stochastically: half the memory, a step that is no
        faster on a CPU, and a program that compiles longer (about 30 ms for each array). Default, and
        "float32": float32, for float64 parameters float64.
    key
        A seed or a `jax.random.key`, which stochastic rounding draws from: the same key, the same bits.
        Default 0.

    Raises
    ------
    TypeError, ValueError
        For a value out of its range; at `init` for parameters, and at `update` for gradients, that are not
        real floating-point numbers; at `update` where weight decay needs the parameters and has none.

    Examples
    --------
    >>> optimizer = from_rule(Rule.from_dialect("adam", lr=0.1))
    >>> params = {"w": jnp.ones(2)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": jnp.array([1.0, 5.0])}, state)
    >>> optax.apply_updates(params, updates)
    {'w': Array([0.9, 0.9], dtype=float32)}
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"rule must be a rmsprop.Rule; got {rule!r}")
    return make(rule, with_rate(rule, learning_rate), learning_rate, state_dtype, key)


def make(
    rule: Rule, numbers: Numbers, rate: Any, state_dtype: Any, key: Any
) -> optax.GradientTransformationExtraArgs:
    """The transformation of a rule's switches and these numbers; `rate` counts if it is a schedule."""
    small = _small(state_dtype)
    data, generator = rounding.key_data(key) if small else (None, None)

    def init(params: Any) -> State:
        def like(start: Any) -> Any:
            return jax.tree.map(lambda p: jnp.full_like(p, start, dtype=_kept(p, small)), params)

        _check(params, "parameter")
        starts = {slot: numbers.initial_scale if slot == "v" else 0.0 for slot in rule.slots}
        slots = {slot: like(start) for slot, start in starts.items()}
        # A copy: what is donated to a step is gone, and init may be called again.
        key = None if data is None else jnp.array(data)
        return State(jnp.zeros((), jnp.int32), **slots, key=key)

    def step(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        _check(updates, "gradient")
        count: Any = optax.safe_increment(state.count)
        now = numbers._replace(lr=scalar("lr", rate(state.count))) if callable(rate) else numbers
        leaves, tree = jax.tree.flatten(updates, is_leaf=_absent)
        columns = _columns(rule, leaves, tree, state, params)
        _check_shapes(tree, leaves, columns)
        following, drawn = rounding.draw(state.key, generator) if small else (state.key, None)
        moves, rows = _steps(rule, now, count, leaves, columns, drawn)
        slots = {slot: tree.unflatten([getattr(row, slot) for row in rows]) for slot in rule.slots}
        return tree.unflatten(moves), State(count, **slots, key=following)

    return optax.GradientTransformationExtraArgs(init, step)


def _steps(
    rule: Rule, numbers: Numbers, count: Any, leaves: list[Any], columns: Any, drawn: Any
) -> tuple[list[Any], list[Slots]]:
    """The update and the new slots of each leaf; one without a gradient keeps its slots."""
    updates: list[Any] = [None] * len(leaves)
    rows = [Slots(*[column[k] for column in columns[1:]]) for k in range(len(leaves))]
    there = [k for k, g in enumerate(leaves) if g is not None]
    wide = [_wide(leaves[k], columns[0][k], *rows[k]) for k in there]
    grads = [jnp.asarray(leaves[k]).astype(dtype) for k, dtype in zip(there, wide, strict=True)]
    for k, g in zip(there, clip(rule, numbers, grads), strict=True):
        p, row = columns[0][k], rows[k]
        work = Slots(*[x if x is None else x.astype(g.dtype) for x in row])
        p = None if p is None else jnp.asarray(p).astype(g.dtype)
        change, found = update(rule, numbers.cast(g.dtype), count.astype(g.dtype), p, g, work)
        updates[k] = change.astype(_dtype(leaves[k]))
        pairs = zip(found, row, strict=True)
        places = range(len(row) * k, len(row) * (k + 1))
        rows[k] = Slots(*[_store(x, y, drawn, n) for (x, y), n in zip(pairs, places, strict=True)])
    return updates, rows


def _store(x: Any, kept: Any, drawn: Any, n: int) -> Any:
    """A slot as it is kept, the n-th of all."""
    if x is None or drawn is None:
        return x if x is None else x.astype(kept.dtype)
    return rounding.stochastic(x, rounding.seed_of(drawn, n))


def _columns(
    rule: Rule, leaves: list[Any], tree: Any, state: State, params: Any
) -> list[list[Any]]:
    """The leaves of the parameters (where the rule needs them), of v, m and b; None for what is not kept."""
    nothing = [None] * len(leaves)
    some = any(g is not None for g in leaves)
    if some and rule.weight_decay and params is None:
        raise ValueError(
            "weight_decay needs the parameters: call update(grads, state, params) with all three"
        )
    for slot in rule.slots:
        if some and getattr(state, slot) is None:
            raise ValueError(f"the state has no {slot}, which this rule keeps: make one with init")
    p = tree.flatten_up_to(params) if some and rule.weight_decay else nothing
    return [p] + [
        tree.flatten_up_to(getattr(state, slot)) if slot in rule.slots else nothing
        for slot in Slots._fields
    ]


def _check_shapes(tree: Any, leaves: list[Any], columns: list[list[Any]]) -> None:
    """Raise ValueError for a gradient of another shape than what belongs to it, which might broadcast."""
    for k, g in enumerate(leaves):
        others = [column[k] for column in columns if column[k] is not None]
        if g is not None and any(jnp.shape(x) != jnp.shape(g) for x in others):
            path = jax.tree_util.tree_leaves_with_path(tree.unflatten(range(len(leaves))))[k][0]
            at = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(
                f"the gradient{at} has the shape {jnp.shape(g)}, and its parameter or state "
                f"{[jnp.shape(x) for x in others]}: they must be the same"
            )


def _check(tree: Any, what: str) -> None:
    """Raise TypeError for a leaf that is not of real floating-point numbers."""
    if all(jnp.issubdtype(_dtype(x), jnp.floating) for x in jax.tree.leaves(tree)):
        return
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(_dtype(x), jnp.floating):
            continue
        at = f" at {jax.tree_util.keystr(path)}" if path else ""
        remedy = (
            "give its real and imaginary parts as two arrays"
            if jnp.issubdtype(_dtype(x), jnp.complexfloating)
            else "leave it out with optax.masked or optax.partition"
        )
        raise TypeError(
            f"rmsprop.jax moves real floating-point numbers; the {what}{at} is {_dtype(x)}: {remedy}"
        )


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else jnp.result_type(x)


def _wide(*arrays: Any) -> Any:
    """What to compute in."""
    double = any(x is not None and _dtype(x) == jnp.float64 for x in arrays)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def _kept(p: Any, small: bool) -> Any:
    return jnp.dtype(jnp.bfloat16) if small else _wide(p)


def _absent(x: Any) -> bool:
    return x is None


def _small(state_dtype: Any) -> bool:
    """Whether the state is kept in bfloat16; ValueError for what it cannot be kept in."""
    known = {None: False} | {jnp.dtype(name): name == "bfloat16" for name in rounding.DTYPES}
    try:
        return known[None if state_dtype is None else jnp.dtype(state_dtype)]
    except (KeyError, TypeError):
        raise ValueError(
            f"state_dtype must be None, 'float32' or 'bfloat16'; got {state_dtype!r}: float16 has no "
            "range for squares"
        ) from None
