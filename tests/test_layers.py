"""The shape of the package: imports go down only, little is loaded at first, all is documented.

The source is read, not imported, so that this holds for modules whose frameworks are not installed.
"""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rmsprop

SOURCE = Path(rmsprop.__file__).parent

# From the bottom up: a module may import those of lower rows only, and a package its own parts.
LAYERS = [
    ["dialects", "schedules", "signals", "statistics", "user_code"],
    ["environment", "files", "rule", "surfaces", "tree", "verdict"],
    ["__init__", "space"],
    ["data", "entries", "ledger", "models", "page", "reference"],
    ["baseline", "checkpoint", "kernels"],
    ["state"],
    ["optimizer"],
    ["convert", "jax", "numpy", "simulate", "torch"],
    ["keras"],
    ["learners", "networks"],
    ["run"],
    ["style", "tasks"],
    ["settings", "tensorboard", "train"],
    ["saved", "stacked"],
    ["compare_surfaces", "evaluate", "search"],
    ["compare_tuned"],
    ["compare", "limits", "maps"],
    ["plots", "plots_scales"],
    ["plots_limits", "plots_maps", "plots_run", "plots_search"],
    ["lab", "report", "report_words"],
    ["report_limits", "report_maps", "report_run", "report_search", "report_style"],
    ["session"],
    ["console"],
    ["console_convert"],
    ["cli"],
]
LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}

# What the modules at the heart may import when they are loaded, beside the standard library.
THIRD_PARTY: dict[str, set[str]] = {
    "__init__": set(),
    "cli": {"typer"},
    "convert": {"numba", "numpy", "safetensors"},
    "dialects": set(),
    "files": {"numpy", "safetensors"},
    "jax": {"jax", "optax"},
    "keras": {"keras", "torch"},
    "kernels": {
        "llvmlite",
        "numba",
        "numpy",
        "triton",
    },  # triton: kernels.gpu, loaded by rmsprop.torch
    "numpy": {"numpy"},
    "optimizer": {"numpy"},
    "reference": {"numpy"},
    "rule": set(),
    "schedules": set(),
    "simulate": {"numba", "numpy"},
    "state": {"numpy"},
    "signals": set(),
    "surfaces": set(),
    "torch": {"numba", "numpy", "torch"},
    "tree": {"numpy"},
    "user_code": set(),
}
# And beside their own framework: of the package, when loaded.
OWN: dict[str, set[str]] = {
    "__init__": {"dialects", "rule"},
    "cli": {"__init__", "dialects", "rule", "schedules"},
    "convert": {"dialects", "files", "kernels", "rule", "state"},
    "dialects": set(),
    "jax": {"rule"},
    "keras": {"dialects", "rule", "state", "torch"},
    "kernels": {"reference", "rule"},
    "numpy": {"files", "kernels", "optimizer", "rule", "schedules", "state", "tree"},
    "optimizer": {"files", "kernels", "rule", "schedules", "state", "tree"},
    "reference": {"rule"},
    "rule": {"dialects"},
    "schedules": set(),
    "simulate": {"kernels", "reference", "rule", "schedules", "surfaces"},
    "signals": set(),
    "surfaces": {"user_code"},
    "torch": {"kernels", "rule", "state"},
    "user_code": set(),
}
FRAMEWORKS = {"jax", "keras", "optax", "tensorflow", "torch"}


def modules() -> dict[str, Path]:
    """Each module and package of the first level, by name."""
    found = {path.stem: path for path in SOURCE.glob("*.py")}
    return found | {path.parent.name: path.parent for path in SOURCE.glob("*/__init__.py")}


def sources(name: str) -> list[Path]:
    path = modules()[name]
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def statements(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """The imports, and whether each stands in a function; those for the type checker are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if not checking:
            yield from statements(child, inside or function)


def imports(name: str, *, loading: bool = False) -> Iterator[tuple[str, str, Path]]:
    """(package, module of the first level within it, file); only those run at loading, if asked."""
    known = modules()
    for path in sources(name):
        for node, inside in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if inside and loading:
                continue
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                assert isinstance(node, ast.ImportFrom)
                assert node.level == 0, f"{path.name}: relative imports hide the layer"
                targets = [f"{node.module}.{alias.name}" for alias in node.names]
            for target in targets:
                package, _, rest = target.partition(".")
                module = rest.partition(".")[0]
                yield package, module if module in known else "__init__", path


def test_every_module_has_its_layer() -> None:
    assert len(LEVEL) == sum(len(row) for row in LAYERS), "a module in two layers"
    unknown = set(modules()) - set(LEVEL)
    assert not unknown, f"name the layer of {sorted(unknown)} in LAYERS"
    assert {"dialects", "rule", "reference", "kernels", "numpy"} <= set(modules())


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down_only(name: str) -> None:
    for package, module, path in imports(name):
        if package == "rmsprop" and module != name:
            up = f"{path.relative_to(SOURCE)} imports {module}, which is not below {name}"
            assert LEVEL[module] < LEVEL[name], up


@pytest.mark.parametrize("name", sorted(modules()))
def test_what_is_loaded_with_a_module(name: str) -> None:
    found = list(imports(name, loading=True))
    outside = {package for package, _, _ in found} - sys.stdlib_module_names - {"rmsprop"}
    own = {module for package, module, _ in found if package == "rmsprop"} - {name}
    assert outside <= THIRD_PARTY.get(name, outside), f"{name} may not load {sorted(outside)}"
    assert own <= OWN.get(name, own), f"{name} may not load {sorted(own)}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_frameworks_are_imported_by_their_front_ends_only(name: str) -> None:
    used = {package for package, _, _ in imports(name)} & FRAMEWORKS
    allowed = {
        "convert": FRAMEWORKS,
        "jax": {"jax", "optax"},
        "keras": {"keras", "torch"},
        "learners": {"torch"},
        "networks": {"torch"},
        "style": {"torch"},
    }.get(name, {name})
    assert used <= allowed, f"{name} imports {sorted(used - allowed)}"


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    """The tests above can fail: imports in functions, handlers and branches are found."""
    text = """
import a
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import unseen
if True:
    import b
try:
    import c
except ImportError:
    import d
else:
    import e
class K:
    import f
    def method(self):
        with x:
            import g
def outer():
    async def inner():
        import h
"""
    found = list(statements(ast.parse(text)))
    names = {node.names[0].name: inside for node, inside in found if isinstance(node, ast.Import)}
    assert names == dict.fromkeys("abcdef", False) | dict.fromkeys("gh", True)


def test_import_rmsprop_loads_no_numpy_and_no_numba() -> None:
    code = "import json, sys, rmsprop; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(json.loads(done.stdout))
    assert "rmsprop" in loaded
    heavy = {"llvmlite", "matplotlib", "numba", "numpy", "safetensors", "scipy", "sklearn", "typer"}
    assert not loaded & (heavy | FRAMEWORKS)


# Documentation.

EXAMPLES_IN = [
    "convert.layouts", "convert.losses", "convert.names", "convert.optax.states", "convert.reading",
    "convert.tensorflow.tf1", "convert.translate", "convert.writing", "dialects", "jax.alias",
    "jax.arithmetic", "jax.hyperparameters", "jax.rounding", "jax.transform", "keras.optimizer", "numpy",
    "optimizer", "reference", "rule", "schedules", "space", "torch.backward", "torch.optimizer",
]  # fmt: skip
DOCUMENTED_IN = [
    *EXAMPLES_IN, "files", "jax", "keras", "keras.fused", "keras.words", "kernels.cpu", "kernels.element",
    "kernels.formats", "kernels.gpu", "kernels.loops", "kernels.norms", "kernels.plan", "kernels.threads",
    "maps", "maps.cells", "maps.surfaces", "maps.tasks", "search", "search.tuning", "stacked", "state",
    "torch", "torch.cpu", "torch.foreach", "torch.gpu", "torch.groups", "torch.memory", "torch.plan",
    "torch.table", "tree",
]  # fmt: skip
NO_EXAMPLE = {
    "convert.layouts.Move": "a record",
    "convert.layouts.moved_shape": "`moved`, without the array",
    "convert.layouts.without_gru_halves": "`with_gru_halves`, back",
    "convert.losses.Loss": "a record",
    "convert.losses.readers": "a table, read",
    "convert.names.Place": "a record",
    "convert.names.places": "what `translate` begins with",
    "convert.names.read_map": "reads a file",
    "convert.reading.plainly": "around an error",
    "convert.reading.with_params": "`read`, with params",
    "convert.writing.Unfaithful": "an error",
    "convert.writing.check_accepted": "raises it",
    "dialects.Dialect": "a row of a table",
    "jax.arithmetic.Numbers": "a record",
    "jax.arithmetic.Slots": "a record",
    "jax.transform.make": "`from_rule`, after its checks",
    "reference.State": "a record; `init` makes it, and shows it",
    "reference.clip": "one line of `step`",
    "reference.step": "`update`, for many arrays",
    "rule.near": "part of the text of errors",
}


def public(module: str) -> dict[str, Any]:
    """The classes and functions that a module defines, and their public methods."""
    found = {}
    home = importlib.import_module(f"rmsprop.{module}")
    for name, thing in vars(home).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != home.__name__:
            continue
        if not (inspect.isclass(thing) or inspect.isfunction(thing) or hasattr(thing, "py_func")):
            continue
        found[f"{module}.{name}"] = thing
        for key, member in vars(thing).items() if inspect.isclass(thing) else ():
            if not key.startswith("_") and (
                callable(member) or isinstance(member, property | classmethod)
            ):
                found[f"{module}.{name}.{key}"] = member
    return found


@pytest.mark.parametrize("module", DOCUMENTED_IN)
def test_every_public_symbol_is_documented(module: str) -> None:
    assert importlib.import_module(f"rmsprop.{module}").__doc__
    known = public(module)
    missing = [name for name, thing in known.items() if not inspect.getdoc(thing)]
    assert not missing


@pytest.mark.parametrize("module", EXAMPLES_IN)
def test_every_class_and_function_shows_an_example(module: str) -> None:
    assert importlib.import_module(f"rmsprop.{module}").__doc__
    top = module.count(".") + 1
    known = {name: x for name, x in public(module).items() if name.count(".") == top}
    assert known or module == "dialects"
    lacking = {name for name, x in known.items() if ">>> " not in (inspect.getdoc(x) or "")}
    expected = {name for name in NO_EXAMPLE if name.startswith(f"{module}.")}
    assert lacking == expected & set(known), "examples are not optional"


def test_exemptions_exist() -> None:
    known = {name for module in EXAMPLES_IN for name in public(module)}
    assert set(NO_EXAMPLE) <= known
