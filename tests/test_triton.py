"""The Triton kernel without a GPU: what it computes, in Triton's interpreter, and what it compiles to."""

import functools
import itertools
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs
import rmsprop
from cases import FLOAT32, RULES, allowance, assert_within
from rmsprop import Rule, reference

torch = needs.package("torch")
triton = needs.package("triton")

import triton_worker  # noqa: E402
from rmsprop.torch import gpu  # noqa: E402
from triton_worker import BF16, CASES, F16, F32, F64, U8  # noqa: E402

pytestmark = pytest.mark.long
Array = np.ndarray[Any, Any]
Past = list[dict[str, Any]]
INTERPRETED = os.environ | {
    "TRITON_INTERPRET": "1",
    "PYTHONPATH": str(Path(rmsprop.__file__).parents[1]),
}
WORKERS = 2


class Runs(dict[str, Any]):
    """By case; one that failed fails the tests that look at it."""

    def __getitem__(self, case: str) -> Any:
        one = super().__getitem__(case)
        assert "error" not in one, one["error"]
        return one


@pytest.fixture(scope="module")
def runs(tmp_path_factory: Any) -> Runs:
    """What every case returned with backend="triton", and how it launched the kernel."""
    folder = tmp_path_factory.mktemp("triton")
    # The interpreter computes with NumPy, which warns of the overflows and NaN that some cases are about.
    words = [sys.executable, "-W", "ignore::RuntimeWarning", triton_worker.__file__]
    started = [
        subprocess.Popen(
            [*words, str(folder / str(k)), str(k), str(WORKERS)],
            env=INTERPRETED,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(WORKERS)
    ]
    try:
        for process in started:
            errors = process.communicate(timeout=240)[1]
            assert (process.returncode, errors) == (0, "")
    finally:
        for process in started:
            process.kill()
            process.wait()
    found = Runs()
    for k in range(WORKERS):
        found.update(pickle.loads((folder / str(k)).read_bytes()))
    assert set(found) == set(CASES)
    return found


def assert_same(found: Past, expected: Past, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Parameters, state and counters of two runs."""
    for t, (one, two) in enumerate(zip(found, expected, strict=True)):
        for k, (ours, theirs) in enumerate(zip(one["params"], two["params"], strict=True)):
            for key in "tpvmb":
                assert (ours[key] is None) == (theirs[key] is None), key
                if ours[key] is not None:
                    what = f"{key} of parameter {k} after {t} steps"
                    np.testing.assert_allclose(ours[key], theirs[key], rtol, atol, err_msg=what)


def kept(rule: Rule, one: dict[str, Any], real: Any = np.float64) -> reference.State:
    """The state that was looked at; what was not made yet as it will start."""
    new = reference.init(rule, one["p"].astype(real))
    v, m, b = (getattr(new, s) if one[s] is None else one[s].astype(real) for s in "vmb")
    return reference.State(int(one["t"]), v, m, b)


def by_reference(rule: Rule, before: Any, now: Any, real: Any) -> dict[int, Any]:
    """The step from what was kept before: gradient, parameter and state of each parameter that moves."""
    moving = [k for k, x in enumerate(now["params"]) if x["t"] > before["params"][k]["t"]]
    params = [before["params"][k]["p"].astype(real) for k in moving]
    grads = [now["params"][k]["g"].astype(real) for k in moving]
    states = [kept(rule, before["params"][k], real) for k in moving]
    found = reference.step(rule.replace(lr=now["lr"]), params, grads, states)
    return dict(zip(moving, zip(reference.clip(rule, grads), *found, strict=True), strict=True))


# What it computes.


@pytest.mark.parametrize("name", RULES)
def test_every_rule_in_float64(runs: Runs, name: str) -> None:
    """Parameters at different steps, one of which waits: as by Numba, and each step as by the reference."""
    case, rule = f"{name} float64", RULES[name]
    past: Past = runs[case]["result"]
    assert_same(past, CASES[case]("numba"), 1e-11, 1e-12)
    assert [x["t"] for x in past[-1]["params"]] == [4, 6, 7]
    for before, now in itertools.pairwise(past):
        for k, (_, p, state) in by_reference(rule, before, now, np.float64).items():
            one = now["params"][k]
            np.testing.assert_allclose(one["p"], p, 1e-11, 1e-12)
            for slot in rule.slots:
                np.testing.assert_allclose(one[slot], getattr(state, slot), 1e-11, 1e-12)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_in_float32(runs: Runs, name: str) -> None:
    """The same to a few units in the last place."""
    case, rule = f"{name} float32", RULES[name]
    past: Past = runs[case]["result"]
    assert_same(past, CASES[case]("numba"), 1e-4, 1e-5)
    for before, now in itertools.pairwise(past):
        for k, (g, p, state) in by_reference(rule, before, now, np.float32).items():
            one, old = now["params"][k], before["params"][k]
            start = kept(rule, old, np.float32)
            slack = allowance(
                rule, old["p"].astype(np.float32), g, start, np.dtype("float32"), FLOAT32.ulps,
                now["lr"],
            )  # fmt: skip
            assert_within(one["p"], p, slack["p"], "p")
            for slot in rule.slots:
                assert_within(one[slot], getattr(state, slot), slack[slot], slot)


STORED = [
    name
    for name, case in CASES.items()
    if isinstance(case, functools.partial)
    and case.func in (triton_worker.walk, triton_worker.scaled)
    and case.keywords["rule"] in (triton_worker.KERAS, triton_worker.ALL)
]
# Stochastic rounding goes to either neighbour: a whole unit in the last place, not half of one. So does the
# interpreter, which cuts bfloat16 off where GPUs round to the nearest ("nearest" among `COMPILED`).
BOUNDS = {F64: 1e-11, F32: 1e-6, F16: 2.0**-11 * 1.01, BF16: 2.0**-7, U8: 2.0**-3}


@pytest.mark.parametrize("case", STORED)
def test_each_step_as_far_as_it_is_stored(runs: Runs, case: str) -> None:
    """Every mix of dtypes, size and layout: one step from what was stored is the reference's, rounded."""
    options: Any = CASES[case].keywords  # type: ignore[attr-defined]
    rule, dtype = options["rule"], options.get("dtype", F32)
    real = np.float64 if dtype == F64 else np.float32
    exact = BOUNDS[F64 if dtype == F64 else F32]
    state = options.get("state_dtype") or (F64 if dtype == F64 else F32)
    other = BOUNDS[BF16 if state == U8 else state]
    bounds = {"p": BOUNDS[dtype], "v": BOUNDS[state], "m": other, "b": other}
    past: Past = runs[case]["result"]
    moved = 0
    for before, now in itertools.pairwise(past):
        for k, (_, p, after) in by_reference(rule, before, now, real).items():
            one = now["params"][k]
            for key in ("p", *rule.slots):
                expected = p if key == "p" else getattr(after, key)
                rtol = max(exact, bounds[key])
                atol = 1e-12 if rtol < 1e-9 else 1e-6
                np.testing.assert_allclose(one[key], expected, rtol, atol, err_msg=f"{key} of {k}")
            moved += 1
    assert moved


@pytest.mark.parametrize("case", ["plain", "bfloat16", "uint8"])
def test_layouts_do_not_change_the_numbers(runs: Runs, case: str) -> None:
    """The same parameter and gradients in other orders of memory; low-bit noise follows memory."""
    pasts = [runs[f"{p} by {g}, {case}"]["result"] for p, g in triton_worker.PLACES]
    for past in pasts[1:]:
        if case == "plain":
            assert_same(past, pasts[0])
        else:
            near = {"bfloat16": 0.05, "uint8": 0.3}[case]
            p, q = (x[-1]["params"][0]["p"] for x in (past, pasts[0]))
            assert 0 < np.abs(p - q).max() <= near


@pytest.mark.parametrize(
    "case", [name for name in CASES if "scaled" in name or name == "everything"]
)
def test_scaled_gradients_and_those_that_overflowed(runs: Runs, case: str) -> None:
    """Under GradScaler the first and the third step change nothing; the others are as by Numba."""
    past: Past = runs[case]["result"]
    rule = CASES[case].keywords["rule"]  # type: ignore[attr-defined]
    for t, (before, now) in enumerate(itertools.pairwise(past)):
        for old, new in zip(before["params"], now["params"], strict=True):
            if t in (0, 2):
                for one, two in zip(kept(rule, old), kept(rule, new), strict=True):
                    np.testing.assert_array_equal(one, two)
                np.testing.assert_array_equal(old["p"], new["p"])
            else:
                assert new["t"] == old["t"] + 1
                assert (old["p"] != new["p"]).any()
    assert np.isinf(past[1]["params"][0]["g"]).any()
    assert np.isnan(past[3]["params"][1]["g"]).any()
    constants = [x["constants"] for x in runs[case]["launches"]]
    assert all(x["FOUND"] for x in constants)
    unscaled = CASES[case].keywords.get("unscale", False)  # type: ignore[attr-defined]
    assert {x["GRAD_SCALE"] for x in constants} == {not unscaled}
    if CASES[case].keywords.get("state_dtype") is None:  # type: ignore[attr-defined]
        assert_same(past, CASES[case]("numba"), 1e-5, 1e-6)


def test_an_overflow_on_two_devices(runs: Runs) -> None:
    """found_inf is then 2: the step is left out, and not counted backwards."""
    past: Past = runs["overflow on two devices"]["result"]
    assert [x["params"][0]["t"] for x in past] == [1, 1, 2]
    assert_same(past, CASES["overflow on two devices"]("numba"), 1e-6, 1e-7)


@pytest.mark.parametrize("name", triton_worker.RATES)
def test_a_rate_that_only_the_device_knows(runs: Runs, name: str) -> None:
    case = f"{name}, tensor lr"
    assert_same(runs[case]["result"], CASES[case]("numba"), 1e-11, 1e-12)
    assert all(x["constants"]["LR"] for x in runs[case]["launches"])


# Noise.


def last(past: Past) -> Array:
    one = past[-1]["params"][0]
    return np.concatenate([one[key].ravel() for key in "pvb"])


@pytest.mark.parametrize("name", triton_worker.EXCHANGED)
def test_seeds_and_going_on_elsewhere(runs: Runs, name: str) -> None:
    """The same seed draws the same bits, also after a reload; Numba and Triton go on from each other's state.

    That the steps after an exchange start from what was stored is tested above, with the other cases.
    """
    ways = ("seed 0", "again", "seed 1", "resumed", "to numba", "from numba")
    found = {way: runs[f"{name}, {way}"]["result"] for way in ways}
    first = found["seed 0"]
    assert_same(first, found["again"])
    assert_same(first, found["resumed"])
    assert_same(first[:3], found["to numba"][:3])
    assert_same(CASES[f"{name}, seed 0"]("numba")[:3], found["from numba"][:3], 1e-15)
    if name == "float64":  # nothing is rounded
        for way in ("seed 1", "to numba", "from numba"):
            assert_same(first, found[way], 1e-11, 1e-12)
    else:
        assert not np.array_equal(last(first), last(found["seed 1"]))
        assert {x["t"] for way in found.values() for x in way[-1]["params"]} == {4}


@pytest.mark.parametrize(("name", "spread"), [("bfloat16", 0.08), ("uint8", 0.35)])
def test_no_bias(runs: Runs, name: str, spread: float) -> None:
    """An average of random and of constant squares is right on average over elements and steps."""
    case = f"average, {name}"
    options: Any = CASES[case].keywords  # type: ignore[attr-defined]
    looks = iter(runs[case]["result"])
    exact, ratios = np.zeros(options["shape"]), []
    for t in range(options["steps"]):
        exact = (
            0.9 * exact + 0.1 * triton_worker.gradient(options["shape"], t).double().numpy() ** 2
        )
        if triton_worker.looked_at(t):
            ratios.append(next(looks) / exact)
    assert next(looks, None) is None
    for ratio in np.array(ratios).swapaxes(0, 1):
        assert 0 < ratio.std() < spread
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(ratio.size)


def test_steps_below_the_last_place(runs: Runs) -> None:
    """Tenths of a unit in the last place are made one time in ten, independently from step to step."""
    past = runs["small steps"]["result"]
    moves = (past[:-1] - past[1:]) * 2**8
    assert set(np.unique(moves)) == {0.0, 1.0}
    assert abs(moves.mean() - 0.1) < 5 * np.sqrt(0.09 / moves.size)
    assert_independent(moves)


def assert_independent(rows: Array) -> None:
    """No two rows go together more than chance lets them."""
    together = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(together).max() < 6 / np.sqrt(rows.shape[1])


def test_every_number_has_noise_of_its_own(runs: Runs) -> None:
    """Of equal elements: p, v, m and b, two tiles of a tensor, and two tensors."""
    (past,) = runs["draws"]["result"]
    rows = [half for x in past["params"] for key in "pvmb" for half in x[key].reshape(2, -1)]
    assert_independent(np.array([row > row.mean() for row in rows], float))


def test_zeros_and_what_is_not_finite(runs: Runs) -> None:
    """As tests/test_lowbit.py says of the other backends."""
    past: Past = runs["extremes"]["result"]
    p, v = past[0]["params"][0]["p"], past[0]["params"][0]["v"]
    assert (v[0] == 0).all()
    assert (v[6:] == 0.5).all()
    assert np.isfinite(v).all()
    for row, column in ((1, 0), (4, 5), (5, 7)):
        others = np.delete(v[row], column)
        np.testing.assert_allclose(others, 0.5, 0.13, err_msg="its neighbours are not harmed")
        assert v[row, column] >= others.max(), "as the largest of its block"
    np.testing.assert_allclose(v[2, 0], 5e35, 0.13)
    np.testing.assert_allclose(v[3], 5e-37, 0.13)
    assert np.isnan(p[4]).sum() == np.isnan(p[5]).sum() == 1
    moved = np.abs(past[-1]["params"][0]["p"] - p)
    assert moved[np.isfinite(moved)].max() < 3 * 0.01 / np.sqrt(0.5) * 1.01, "no huge step"
    by_numba = CASES["extremes"]("numba")[0]["params"][0]["p"]
    np.testing.assert_allclose(p, by_numba, 1e-6, err_msg="before anything was rounded")


# How it is launched.


def test_one_launch_for_all_tensors_of_a_kind(runs: Runs) -> None:
    launches = runs["many"]["launches"]
    assert [x["grid"] for x in launches] == [(160,)], "200 tensors, of which 40 are empty"
    assert_same(runs["many"]["result"], CASES["many"]("numba"), 1e-5, 1e-6)
    kinds = [
        (x["constants"]["CODED"], x["constants"]["V"]) for x in runs["sizes, uint8"]["launches"]
    ]
    assert sorted(kinds) == [(False, "fp32")] * 3 + [(True, "uint8")] * 3


@pytest.mark.parametrize("name", triton_worker.CAPTURED)
def test_a_step_like_the_last_sends_nothing(runs: Runs, name: str) -> None:
    """A CUDA graph cannot capture a copy from the host: what the kernel is given is there already."""
    case = f"{name}, captured"
    assert_same(runs[case]["result"], CASES[case]("numba"), 1e-5, 1e-6)
    _, launch = runs[case]["launches"]
    assert launch["again"] == set(launch["types"])


WITHOUT = """
import sys
sys.modules["triton"] = None
import torch
from rmsprop.torch import RMSprop
for backend, number in (("triton", 1.0), ("auto", 1.0), ("auto", 1j)):
    weight = torch.nn.Parameter(torch.full((3,), number))
    optimizer = RMSprop([weight], lr=0.1, alpha=0.0, backend=backend)
    weight.grad = torch.ones_like(weight)
    try:
        optimizer.step()
    except RuntimeError as error:
        print(error)
        continue
    (plan,) = optimizer._plans.values()
    print(type(plan.parts[0][1]).__name__, (weight - number).abs().max().item())
"""


def test_without_triton() -> None:
    """By name it says what to install; auto takes what there is, also where only Triton was left to ask."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT],
        env=INTERPRETED,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    refused, auto, left = done.stdout.splitlines()
    assert "Triton is not installed: pip install triton" in refused
    assert "use backend='auto'" in refused
    assert auto.startswith("CpuTable 0.1")
    assert left.startswith("Rows 0.1")


# What it compiles to.

COMPILED = {
    "float32": "plain float32",
    "float64": "plain float64",
    "bfloat16": "sizes, bfloat16 parameters",
    "uint8": "sizes, uint8",
    "everything": "everything",
    "nearest": "bfloat16 with bfloat16, plain",
    "unaligned": "offset by channels last, plain",
}
"""Cases whose launches are compiled, with the types and the constants that they had."""
WRITTEN = {"float32": 4 + 4, "float64": 8 + 8, "uint8": 4 + 2}
"""For some, the bytes of an element that are written 16 at a time: of p and v, or of p and b."""
POINTERS = {torch.int64: "*i64", torch.int32: "*i32", F64: "*fp64", F32: "*fp32"}
TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}


@pytest.fixture(scope="module")
def fresh_cache(tmp_path_factory: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


BUILDS = [
    *[(name, target) for name in COMPILED for target in TARGETS if name not in ("nearest", "unaligned")],
    ("nearest", "sm_90"), ("unaligned", "sm_90"), ("unaligned", "gfx942"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION is unset:UserWarning")
@pytest.mark.parametrize(("name", "target"), BUILDS)
def test_it_compiles_for_real_gpus(
    runs: Runs, fresh_cache: None, tmp_path: Path, name: str, target: str
) -> None:
    """What was launched, to the end: nothing is spilled, and aligned memory moves by 16 bytes."""
    kernels = gpu.kernel()
    if kernels.INTERPRETED:
        pytest.skip("TRITON_INTERPRET=1: nothing is compiled")
    compiler = needs.package("triton.compiler")
    backends = needs.package("triton.backends.compiler")
    launch = max(runs[COMPILED[name]]["launches"], key=lambda x: x["constants"]["CODED"])
    constants = dict(launch["constants"])
    assert constants["ALIGNED"] == (name != "unaligned")
    options = {"num_warps": constants.pop("num_warps")}
    language = triton.language
    constants = {k: language.dtype(x) if isinstance(x, str) else x for k, x in constants.items()}
    signature = {k: POINTERS[x] for k, x in launch["types"].items()}
    signature |= dict.fromkeys(constants, "constexpr")
    source = compiler.ASTSource(fn=kernels.step, signature=signature, constexprs=constants)
    built = triton.compile(source, target=backends.GPUTarget(*TARGETS[target]), options=options)
    if target == "gfx942":
        text = built.asm["amdgcn"]
        assert re.findall(r"[sv]gpr_spill_count: *(\d+)", text) == ["0", "0"]
        loads, stores = (len(re.findall(f"global_{x}_dwordx4", text)) for x in ("load", "store"))
    else:
        text = built.asm["ptx"]
        assert spilled(built.asm["cubin"], tmp_path) == {"STACK": 0, "LOCAL": 0}
        loads, stores = (
            len(re.findall(rf"\b{x}\.global\S*\.v(?:4\.b32|2\.b64)", text)) for x in ("ld", "st")
        )
        assert not re.search(r"approx|div\.full|cvt\.rz\.bf16", text), "as exact as on the CPU"
        assert name != "nearest" or "cvt.rn.bf16" in text
    if name in WRITTEN:
        threads = options["num_warps"] * TARGETS[target][2]
        assert stores == kernels.TILE * WRITTEN[name] // (16 * threads)
        assert loads > stores, "the gradient too"
    if name == "unaligned":
        assert stores == 0


def spilled(cubin: bytes, folder: Path) -> dict[str, int]:
    """Bytes of memory that each thread takes where registers did not suffice."""
    file = folder / "step.cubin"
    file.write_bytes(cubin)
    tool = Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    words = [str(tool), "--dump-resource-usage", str(file)]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return {name: int(x) for name, x in re.findall(r"\b(STACK|LOCAL):(\d+)", text)}
