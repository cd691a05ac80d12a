"""Which layers of a Keras model stand behind a Flatten, and of what: PyTorch flattens in another order."""

from dataclasses import dataclass, field
from typing import Any

from rmsprop.convert.checkpoint import Checkpoint

Shape = tuple[int, ...]
MIXED: Shape = (0,)
"""Numbers were flattened, and stand in an order of which only the model's author knows PyTorch's."""

# What leaves each number where it was, so that the order of the flattened ones lasts through it.
_THROUGH = {
    "Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Dropout", "ELU",
    "GaussianDropout", "GaussianNoise", "InputLayer", "LayerNormalization", "LeakyReLU", "PReLU", "ReLU",
    "Relu", "Rescaling", "Softmax", "UnitNormalization",
}  # fmt: skip
_MERGING = {"Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"}
_NORMS = {"BatchNormalization", "LayerNormalization"}
_SPATIAL = ("Conv", "DepthwiseConv", "SeparableConv", "MaxPooling", "AveragePooling", "UpSampling",
            "ZeroPadding", "Cropping")  # fmt: skip
_ENDING = {"Dense", "LSTM", "GRU", "SimpleRNN", "Bidirectional", "MultiHeadAttention"}
"""Layers behind which nothing is left of the order of what they take."""
_FAR = 100  # layers between the two; a stranger's file may have 100,000 of them
_DEEP = 20  # models in models
_MARKED = {"kernel", "gamma", "beta"}


@dataclass
class _Place:
    """A layer where a model calls it: its config, its path from the outermost model, and what it takes."""

    layer: dict[str, Any]
    path: str
    inputs: list["_Place"] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return str(self.layer.get("class_name"))

    @property
    def own(self) -> dict[str, Any]:
        own = self.layer.get("config")
        return own if isinstance(own, dict) else {}


def marked(checkpoint: Checkpoint, config: dict[str, Any] | None) -> Checkpoint:
    """The checkpoint, with the shape that was flattened in the roles of what comes behind.

    "kernel" of a dense layer behind a Flatten of (6, 6, 16) becomes "flatten6x6x16/kernel"; "mixed/kernel"
    where the order is not known.
    """
    sizes = flattened(config or {})
    for name, entry in checkpoint.entries.items():
        layer, _, part = name.rpartition("/")
        found = sizes.get(layer)
        outer = layer
        while found is None and "/" in outer and part == "kernel":  # a cell in a recurrent layer
            outer = outer.rpartition("/")[0]
            found = MIXED if sizes.get(outer) else None
        if not found:
            continue
        if found == MIXED and part in (*_MARKED, "bias"):
            if part != "bias" or f"{layer}/bias" in sizes:
                entry.role = f"mixed/{part}"
        elif part in _MARKED and entry.role == part:
            entry.role = f"flatten{'x'.join(map(str, found))}/{part}"
    return checkpoint


def flattened(config: dict[str, Any]) -> dict[str, Shape]:
    """Of each layer behind a Flatten, by its path, the (height, width, channels) that were flattened.

    Parameters
    ----------
    config
        Of a Sequential or Functional model, as config.json has it; models in it are looked through too.

    Returns
    -------
    dict
        `MIXED` where the order is not known: behind a concatenation, or a layer that is not Keras's. A dense
        layer ahead of a Reshape into an image, whose outputs PyTorch orders otherwise, is so too, and has
        "PATH/bias" beside it.

    Examples
    --------
    >>> flat = {"class_name": "Flatten", "build_config": {"input_shape": [None, 6, 6, 2]}}
    >>> layers = [flat, {"class_name": "Dense", "config": {"name": "d"}}]
    >>> flattened({"class_name": "Sequential", "config": {"layers": layers}})
    {'d': (6, 6, 2)}
    """
    places: list[_Place] = []
    _called(config, "", [], places, 0)
    known: dict[int, Shape | None] = {}
    found: dict[str, Shape] = {}
    for place in places:  # in the order of the calls, so that what one takes is known
        taken = _taken(place, known)
        known[id(place)] = _given(place, taken)
        marks = place.kind in _ENDING or place.kind in _NORMS
        if taken is not None and marks:
            before = found.get(place.path, taken)
            plain = place.kind in (*_NORMS, "Dense")
            found[place.path] = taken if plain and before == taken else MIXED
    for place in places:
        if place.kind == "Reshape" and len(_target(place)) > 2:
            for dense in _dense_ahead(place):
                found[dense.path] = found[f"{dense.path}/bias"] = MIXED
    return found


def _called(
    config: Any, prefix: str, feeding: list[_Place], places: list[_Place], depth: int
) -> list[_Place]:
    """Note a model's layers, and those of the models in it; what the model gives."""
    by_name: dict[str, list[_Place]] = {}
    last = feeding
    for layer in _layers(config):
        names = _inbound(layer)
        inputs = _of(names, by_name) if names else last
        if str(layer.get("class_name")) == "InputLayer":
            inputs = feeding
        path = f"{prefix}{_name(layer)}"
        if _layers(layer) and depth < _DEEP:
            last = _called(layer, f"{path}/", inputs, places, depth + 1)
        else:
            last = [_Place(layer, path, inputs)]
            places += last
        by_name[_name(layer)] = last
    own = config.get("config") if isinstance(config, dict) else None
    ends = own.get("output_layers") if isinstance(own, dict) else None
    named: list[str] = []
    _words(ends, named, 0)
    return _of(named, by_name) or last


def _of(names: list[str], by_name: dict[str, list[_Place]]) -> list[_Place]:
    """What these layers gave, each once, and not more than a model has use for."""
    found = {id(place): place for name in dict.fromkeys(names) for place in by_name.get(name, [])}
    return [*found.values()][:_FAR]


def _taken(place: _Place, known: dict[int, Shape | None]) -> Shape | None:
    """The order of what a layer takes: None where nothing was flattened."""
    orders = [known.get(id(p)) for p in place.inputs]
    if not any(orders):
        return None
    alike = all(order == orders[0] for order in orders)
    return orders[0] if alike and (len(orders) == 1 or place.kind in _MERGING) else MIXED


def _given(place: _Place, taken: Shape | None) -> Shape | None:
    """The order of what a layer gives."""
    kind = place.kind
    if kind == "Flatten":
        return taken if taken is not None else _flattened(place)
    if kind == "Reshape" and len(_target(place)) == 1:
        return taken if taken is not None else _reshaped(place)
    if kind == "TimeDistributed" and "'Flatten'" in str(place.own.get("layer"))[:100_000]:
        return MIXED
    if kind in _ENDING:
        return None
    return taken if kind in _THROUGH or kind in _MERGING or taken is None else MIXED


def _flattened(flatten: _Place) -> Shape | None:
    """Of what a Flatten gets, channels last; None where PyTorch would flatten it in the same order."""
    built = flatten.layer.get("build_config")
    known = built.get("input_shape") if isinstance(built, dict) else None
    sizes = list(known[1:]) if isinstance(known, list | tuple) else []
    if len(sizes) < 2 or not all(type(n) is int and 0 < n < 1 << 32 for n in sizes):
        return None
    spatial = _spatial(flatten)
    first = spatial is not None and spatial.own.get("data_format") == "channels_first"
    turns = flatten.own.get("data_format") == "channels_first"
    if first and not turns:
        return None  # (channels, height, width), as PyTorch has it
    if spatial is not None and turns and not first:
        return MIXED
    if turns:
        sizes = [*sizes[1:], sizes[0]]
    # A sequence's (steps, features) lie alike in both, but for those that a convolution has made.
    return tuple(sizes) if len(sizes) > 2 or spatial is not None else None


def _reshaped(place: _Place) -> Shape | None:
    """As `_flattened`, of a Reshape to one dimension, which does not say of what."""
    spatial = _spatial(place)
    if spatial is not None:
        return None if spatial.own.get("data_format") == "channels_first" else MIXED
    images = (
        p.kind == "InputLayer" and len(_listed(p.own.get("batch_shape"))) > 3 for p in place.inputs
    )
    return MIXED if any(images) else None


def _target(reshape: _Place) -> list[Any]:
    """The shape of one example that a Reshape makes; keras.ops.reshape names the batch's too."""
    own = reshape.own
    return _listed(own.get("target_shape")) or _listed(own.get("newshape"))[1:]


def _spatial(place: _Place) -> _Place | None:
    """The convolution, or the like, that made what a layer takes."""
    for _ in range(_FAR):
        if not place.inputs:
            return None
        place = place.inputs[0]
        if place.kind.startswith(_SPATIAL):
            return place
        if place.kind not in _THROUGH and place.kind not in _MERGING:
            return None
    return None


def _dense_ahead(place: _Place) -> list[_Place]:
    """The dense layer whose outputs a Reshape takes, and what is normalised between."""
    found = []
    for _ in range(_FAR):
        if len(place.inputs) != 1:
            return found
        place = place.inputs[0]
        if place.kind == "Dense":
            return [*found, place]
        if place.kind not in _THROUGH:
            return []
        found += [place] if place.kind in _NORMS else []
    return []


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _layers(config: Any) -> list[Any]:
    own = config.get("config") if isinstance(config, dict) else None
    layers = own.get("layers") if isinstance(own, dict) else None
    return [x for x in layers if isinstance(x, dict)] if isinstance(layers, list) else []


def _name(layer: Any) -> str:
    own = layer.get("config")
    return str(layer.get("name") or (own.get("name") if isinstance(own, dict) else ""))


def _words(value: Any, found: list[str], depth: int) -> None:
    """The names in [["dense", 0, 0], ...], or in ["dense", 0, 0]."""
    if depth > 8 or len(found) > 1000:
        return
    if isinstance(value, str):
        found.append(value)
    for x in value if isinstance(value, list | tuple) else ():
        _words(x, found, depth + 1)


def _inbound(layer: Any) -> list[str]:
    """Of a Functional model: the names of the layers whose output this one takes, at each of its calls."""
    nodes = layer.get("inbound_nodes")
    found: list[str] = []
    for node in nodes[:_FAR] if isinstance(nodes, list | tuple) else ():
        if isinstance(node, dict):
            _histories(node.get("args"), found, 0)
    return found


def _histories(value: Any, found: list[str], depth: int) -> None:
    if depth > 8 or len(found) > 1000:
        return
    if isinstance(value, list | tuple):
        for x in value:
            _histories(x, found, depth + 1)
    elif isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        own = value.get("config")
        history = own.get("keras_history") if isinstance(own, dict) else None
        if isinstance(history, list | tuple) and history:
            found.append(str(history[0]))
