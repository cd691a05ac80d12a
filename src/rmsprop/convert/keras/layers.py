"""Which variables of a Keras model its optimizer keeps state for, in which order, without Keras.

Keras keeps an optimizer's state as one list, in the order of `model.trainable_variables`: of each layer its
own variables, then those of the layers in it, in the order in which they became attributes.  A `.keras` file
tells that order by its config; a `.weights.h5` file only by shapes, and where two orders fit, none is taken.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rmsprop.convert.keras.hdf5 import Tree

Shape = tuple[int, ...]
LIMIT = 10_000
"""Steps of the search for an order, after which it counts as not found."""


class Variable(NamedTuple):
    """One of a layer's variables."""

    path: str
    """Of its dataset."""
    name: str
    """As Keras names it, from the outermost model inwards: "lstm/lstm_cell/kernel"."""
    role: str = ""
    """As `Entry.role`."""


@dataclass
class Node:
    """A layer: its own variables, of which the first `trained` are trained, and the layers in it.

    Each of the chains is a list of layers in their order; how chains interleave is not known.  `trained` is
    None where it is not known, and `frozen` says whether the layer may be one that is not trained at all.
    """

    own: list[Variable] = field(default_factory=list)
    trained: int | None = 0
    chains: list[list["Node"]] = field(default_factory=list)
    frozen: bool = False


_BIAS = (("kernel", ""), ("bias", "use_bias"))
_NORM = (("gamma", "scale"), ("beta", "center"))
_CELL = (("kernel", ""), ("recurrent_kernel", ""), ("bias", "use_bias"))
_SEPARABLE = (("depthwise_kernel", ""), ("pointwise_kernel", ""), ("bias", "use_bias"))
OWN: dict[str, tuple[tuple[str, str], ...]] = {
    "Dense": _BIAS,
    "EinsumDense": (("kernel", ""), ("bias", "bias_axes")),
    **{f"Conv{n}D{kind}": _BIAS for n in (1, 2, 3) for kind in ("", "Transpose")},
    **{f"DepthwiseConv{n}D": _BIAS for n in (1, 2)},
    **{f"SeparableConv{n}D": _SEPARABLE for n in (1, 2)},
    "Embedding": (("embeddings", ""),),
    "BatchNormalization": _NORM,
    "LayerNormalization": _NORM,
    "GroupNormalization": _NORM,
    "RMSNormalization": (("scale", ""),),
    "Normalization": (),
    "PReLU": (("alpha", ""),),
    **{f"{kind}Cell": _CELL for kind in ("SimpleRNN", "GRU", "LSTM", "ConvLSTM")},
}
"""Of each class the variables that are trained, and the switch of its config that each depends on."""

_UNTRAINED = {"BatchNormalization": (2, 5), "Normalization": (0, 2, 3)}
_CELLS = {"SimpleRNN": "SimpleRNNCell", "GRU": "GRUCell", "LSTM": "LSTMCell"} | {
    f"ConvLSTM{n}D": "ConvLSTMCell" for n in (1, 2, 3)
}
_ATTENTION = ("query_dense", "key_dense", "value_dense", "output_dense")
_NESTED = ("Bidirectional", "TimeDistributed", "RNN", "StackedRNNCells", *_CELLS)
_NESTED += ("MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention")
_MODELS = ("Sequential", "Functional", "Model")


def snake(name: str) -> str:
    """A class as Keras writes it into paths.

    Examples
    --------
    >>> snake("Conv2DTranspose"), snake("PReLU")
    ('conv2d_transpose', 'p_re_lu')
    """
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


_CLASSES = {snake(name): name for name in (*OWN, *_NESTED, *_MODELS)}


def role_of(kind: str, name: str) -> str:
    """What a variable is to a layer of this class, in the words of `Entry.role`.

    Examples
    --------
    >>> role_of("GRUCell", "bias"), role_of("Conv2DTranspose", "kernel"), role_of("DepthwiseConv1D", "kernel")
    ('gru/bias', 'conv_transpose/kernel', 'depthwise_kernel')
    """
    if kind.endswith("Cell"):
        return f"{snake(kind.removesuffix('Cell'))}/{name}"
    if kind == "EinsumDense":
        return f"einsum/{name}"
    if name == "kernel" and kind.endswith("Transpose"):
        return "conv_transpose/kernel"
    if name == "kernel" and kind.startswith("Depthwise"):
        return "depthwise_kernel"
    return name


def model_of(tree: Tree, config: dict[str, Any] | None) -> Node:
    """The model whose weights these are.

    Parameters
    ----------
    tree
        The file.
    config
        The content of config.json; None where there is none, as beside a `.weights.h5` file.
    """
    reader = _Reader(tree)
    if config is None:
        return reader.guessed("", "", "Model")
    return reader.layer(config, "", "", outermost=True)


def certain(node: Node) -> list[Variable] | None:
    """The trained variables in their order; None where the order is not known without looking at shapes."""
    chains = [chain for chain in node.chains if chain]
    if node.trained is None or node.frozen or len(chains) > 1:
        return None
    found = list(node.own[: node.trained])
    for below in chains[0] if chains else []:
        inner = certain(below)
        if inner is None:
            return None
        found += inner
    return found


def everything(node: Node) -> list[Variable]:
    """All variables that may be trained, in some order."""
    own = node.own if node.trained is None else node.own[: node.trained]
    return own + [v for chain in node.chains for below in chain for v in everything(below)]


def in_order(node: Node, tree: Tree, shapes: list[Shape]) -> list[Variable] | None:
    """The trained variables, of these shapes one by one; None where no order fits, or more than one."""
    known = certain(node)
    if known is not None:
        return known if [tree.arrays[v.path].shape for v in known] == shapes else None
    search = _Search(tree, shapes)
    found: set[tuple[Variable, ...]] = set()
    try:
        for order in search.layer(node, 0):
            if len(order) == len(shapes):
                found.add(order)
            if len(found) > 1:
                return None
    except (_Exhausted, RecursionError):
        return None
    return list(found.pop()) if found else None


class _Exhausted(Exception):
    """The search took too long."""


class _Search:
    """All orders of a model's variables that have the shapes."""

    def __init__(self, tree: Tree, shapes: list[Shape]):
        self.tree, self.shapes, self.steps = tree, shapes, 0

    def layer(self, node: Node, at: int) -> Iterator[tuple[Variable, ...]]:
        self.steps += 1
        if self.steps > LIMIT:
            raise _Exhausted
        if node.frozen:
            yield ()
        for count in range(len(node.own) + 1) if node.trained is None else [node.trained]:
            own = tuple(node.own[:count])
            if [self.tree.arrays[v.path].shape for v in own] == self.shapes[at : at + count]:
                for rest in self.merged([c for c in node.chains if c], at + count):
                    yield own + rest

    def merged(self, chains: list[list[Node]], at: int) -> Iterator[tuple[Variable, ...]]:
        if not chains:
            yield ()
            return
        for k, chain in enumerate(chains):
            left = [*chains[:k], *([chain[1:]] if chain[1:] else []), *chains[k + 1 :]]
            for head in self.layer(chain[0], at):
                for tail in self.merged(left, at + len(head)):
                    yield head + tail


class _Reader:
    """Nodes from the groups of a file, with or without a config."""

    def __init__(self, tree: Tree):
        self.tree = tree
        self.visited: set[str] = set()
        self.below: dict[str, list[str]] = {}
        for path in [*tree.names, *tree.arrays]:
            parent, _, name = path.rpartition("/")
            if name:
                self.below.setdefault(parent, []).append(name)

    def children(self, path: str) -> list[str]:
        """The groups in a group, but for its own variables and the optimizer's."""
        names = [n for n in self.below.get(path, []) if _join(path, n) in self.tree.names]
        return [n for n in names if n != "vars" and not (path == "" and n == "optimizer")]

    def name(self, path: str, default: str) -> str:
        return self.tree.names.get(_join(path, "vars"), "") or default

    def datasets(self, path: str) -> list[str]:
        """A layer's own variables, in their order."""
        group = _join(path, "vars")
        names = [n for n in self.below.get(group, []) if f"{group}/{n}" in self.tree.arrays]
        numbered = sorted((n for n in names if n.isdecimal() and n.isascii()), key=int)
        return [f"{group}/{n}" for n in numbered]

    def layer(
        self, config: dict[str, Any], path: str, prefix: str, outermost: bool = False
    ) -> Node:
        """A layer of which the config is known."""
        if path in self.visited or (path and path not in self.tree.names):
            return Node()  # it is shared, and stored where it came first; or it has no variables
        self.visited.add(path)
        kind, own = _text(config.get("class_name")), _dict(config.get("config"))
        name = "" if outermost else self.name(path, _text(own.get("name")))
        inside = f"{prefix}{name}/" if name else prefix
        module = _text(config.get("module")).split(".")[0]
        known = module == "keras" and ">" not in _text(config.get("registered_name"))
        layers = own.get("layers")
        if own.get("trainable") is False:
            return Node()
        if isinstance(layers, list) and (known or f"{_join(path, 'layers')}" in self.tree.names):
            node = self.variables("" if known else kind, path, inside, own)
            return Node(node.own, node.trained, self.listed(layers, _join(path, "layers"), inside))
        if not known:
            return self.guessed(path, inside, "")
        node = self.variables(kind, path, inside, own)
        node.chains = self.nested(kind, own, path, inside)
        return node

    def nested(self, kind: str, own: dict[str, Any], path: str, inside: str) -> list[list[Node]]:
        """The layers in one of Keras's own."""
        if kind in _CELLS:
            cell = _config(_CELLS[kind], own)
            return [[self.layer(cell, _join(path, "cell"), inside)]]
        if kind == "Bidirectional":
            ahead = _dict(own.get("layer"))
            back = _dict(own.get("backward_layer")) or ahead
            pair = [("forward_layer", ahead), ("backward_layer", back)]
            return [[self.layer(c, _join(path, sub), inside) for sub, c in pair]]
        if kind in ("TimeDistributed", "RNN"):
            sub = "layer" if kind == "TimeDistributed" else "cell"
            return [[self.layer(_dict(own.get(sub)), _join(path, sub), inside)]]
        if kind == "StackedRNNCells" and isinstance(own.get("cells"), list):
            return self.listed(own["cells"], _join(path, "cells"), inside)
        if "Attention" in kind and not own.get("use_gate"):
            dense = _config("EinsumDense", {"bias_axes": own.get("use_bias", True) or None})
            known = [s for s in _ATTENTION if _join(path, s) in self.tree.names]
            return [[self.layer(dense, _join(path, sub), inside) for sub in known]]
        return self.guessed(path, inside, "").chains

    def listed(self, layers: list[Any], path: str, inside: str) -> list[list[Node]]:
        """A model's layers: in the file by their class and a number, so found by their name there."""
        named = {self.name(_join(path, n), ""): n for n in self.children(path)}
        used: dict[str, int] = {}
        nodes = []
        for config in map(_dict, layers):
            if _text(config.get("module")).startswith(("keras.src.ops", "keras.ops")):
                continue  # an operation, which has no variables
            name = _text(_dict(config.get("config")).get("name"))
            kind = snake(_text(config.get("class_name")))
            place = f"{kind}_{used[kind]}" if kind in used else kind
            used[kind] = used.get(kind, 0) + 1
            if name and any(
                named
            ):  # a custom layer's config may have no name, and old files have none
                place = named.get(name, "")
            if place:
                nodes.append(self.layer(config, _join(path, place), inside))
        lost = [n for n in self.children(path) if _join(path, n) not in self.visited]
        rest = [self.guessed(_join(path, n), f"{inside}{n}/", "") for n in lost]
        return [nodes, *([n] for n in rest if everything(n))]

    def variables(self, kind: str, path: str, inside: str, own: dict[str, Any] | None) -> Node:
        """A layer's own variables, by its class."""
        paths = self.datasets(path)
        floating = [self.tree.arrays[p].dtype.kind in "fV" for p in paths]
        unknown = [Variable(p, f"{inside}{p.rpartition('/')[2]}") for p in paths]
        if not all(floating):
            return Node([v for v, yes in zip(unknown, floating, strict=True) if yes], None)
        if kind not in OWN:
            return Node(unknown, None if paths else 0)
        still = _UNTRAINED.get(kind, (0,))
        if own is None:
            names = _names_by_count(kind, len(paths), still)
        else:
            names = [
                n
                for n, switch in OWN[kind]
                if not switch or own.get(switch, True) not in (False, None)
            ]
            names = names if len(paths) - len(names) in still else None
        if names is None or (own or {}).get("lora_rank") or (own or {}).get("quantization_config"):
            return Node(unknown, None if paths else 0)
        named = [
            Variable(p, inside + n, role_of(kind, n)) for p, n in zip(paths, names, strict=False)
        ]
        return Node(named + unknown[len(names) :], len(names))

    def guessed(self, path: str, inside: str, kind: str) -> Node:
        """A layer of which no config is known; of its class at most what its group's name says."""
        node = self.variables(kind, path, inside, None)
        if kind in _CELLS:
            sub = _join(path, "cell")
            cell = self.guessed(sub, f"{inside}{self.name(sub, 'cell')}/", _CELLS[kind])
            return Node(node.own, node.trained, [[cell]])
        order = {"Bidirectional": ("forward_layer", "backward_layer")}.get(kind, ())
        if "Attention" in kind:
            order = _ATTENTION
        chains: list[list[Node]] = [[]] if order else []
        for sub in sorted(self.children(path), key=lambda s: order.index(s) if s in order else -1):
            below = _join(path, sub)
            if _join(below, "vars") not in self.tree.names and self.children(below):
                chains += self.container(below, inside)
                continue
            label = "EinsumDense" if "Attention" in kind and sub in order else ""
            inner = self.guessed(below, f"{inside}{self.name(below, sub)}/", label)
            inner.frozen = sub not in order
            if everything(inner):
                (chains[0] if sub in order else chains.append([]) or chains[-1]).append(inner)
        return Node(node.own, node.trained, chains)

    def container(self, path: str, inside: str) -> list[list[Node]]:
        """A list of layers, of which each class is in its order, but not one class with another."""
        families: dict[str, list[tuple[int, str]]] = {}
        for sub in self.children(path):
            stem, number = re.fullmatch(r"(.*?)(?:_(\d{1,6}))?", sub).groups()  # type: ignore[union-attr]
            families.setdefault(stem, []).append((int(number or 0), sub))
        chains = []
        for stem, members in families.items():
            members.sort()
            nodes = []
            for _, sub in members:
                below = _join(path, sub)
                name = self.name(below, sub)
                nodes.append(self.guessed(below, f"{inside}{name}/", _CLASSES.get(stem, "")))
                nodes[-1].frozen = True
            nodes = [n for n in nodes if everything(n)]
            in_turn = [number for number, _ in members] == list(range(len(members)))
            chains += [nodes] if in_turn else [[n] for n in nodes]
        return [c for c in chains if c]


def thawed(node: Node) -> Node:
    """The same model with every layer trained."""
    chains = [[thawed(below) for below in chain] for chain in node.chains]
    return Node(node.own, node.trained, chains)


def _names_by_count(kind: str, count: int, still: tuple[int, ...]) -> list[str] | None:
    names = [n for n, _ in OWN[kind]]
    if count - len(names) in still:
        return names
    without = names[:-1] if names[-1:] == ["bias"] else None
    return without if without and count == len(without) else None


def _config(kind: str, own: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": kind,
        "config": {k: x for k, x in own.items() if k != "name"},
    }


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
