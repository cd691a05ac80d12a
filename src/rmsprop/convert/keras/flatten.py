"""Which layers of a Keras model stand behind a Flatten, and of what: PyTorch flattens in another order."""

from typing import Any

from rmsprop.convert.checkpoint import Checkpoint

Shape = tuple[int, ...]

# What leaves each number where it was, so that the order of the flattened ones lasts through it.
_THROUGH = {
    "Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Dropout", "ELU",
    "GaussianDropout", "GaussianNoise", "LayerNormalization", "LeakyReLU", "PReLU", "ReLU", "Softmax",
}  # fmt: skip
_SPATIAL = ("Conv", "DepthwiseConv", "SeparableConv", "MaxPooling", "AveragePooling", "UpSampling")
_FAR = 100  # layers between the two; a stranger's file may have 100,000 of them
_MARKED = {"kernel", "gamma", "beta"}


def marked(checkpoint: Checkpoint, config: dict[str, Any] | None) -> Checkpoint:
    """The checkpoint, with the shape that was flattened in the roles of what comes behind.

    "kernel" of a dense layer behind a Flatten of (6, 6, 16) becomes "flatten6x6x16/kernel".
    """
    sizes = flattened(config or {})
    for name, entry in checkpoint.entries.items():
        layer, _, part = name.rpartition("/")
        found = sizes.get(layer.rpartition("/")[2])
        if found and part in _MARKED and entry.role == part:
            entry.role = f"flatten{'x'.join(map(str, found))}/{part}"
    return checkpoint


def flattened(config: dict[str, Any]) -> dict[str, Shape]:
    """Of each layer behind a Flatten, by its name, the (height, width, channels) that were flattened.

    Parameters
    ----------
    config
        Of a Sequential or Functional model, as config.json has it; models in it are looked through too.

    Examples
    --------
    >>> flat = {"class_name": "Flatten", "build_config": {"input_shape": [None, 6, 6, 2]}}
    >>> layers = [flat, {"class_name": "Dense", "config": {"name": "d"}}]
    >>> flattened({"class_name": "Sequential", "config": {"layers": layers}})
    {'d': (6, 6, 2)}
    """
    found: dict[str, Shape] = {}
    layers = _layers(config)
    sources = {_name(layer): layer for layer in layers}
    before: dict[str, Any] = {}
    for k, layer in enumerate(layers):
        found |= flattened(layer) if _layers(layer) else {}
        names = _inbound(layer)
        previous = sources.get(names[0]) if names else layers[k - 1] if k else None
        # Of several, as of a concatenation, no order is known.
        before[_name(layer)] = None if len(names) > 1 else previous
    for layer in layers:
        shape = _behind(layer, before)
        if shape:
            found[_name(layer)] = shape
    return found


def _behind(layer: Any, before: dict[str, Any]) -> Shape | None:
    """The shape that was flattened ahead of a layer, with nothing between that mixes."""
    for _ in range(_FAR):
        layer = before.get(_name(layer))
        if layer is None:
            return None
        kind = str(layer.get("class_name"))
        if kind == "Flatten":
            return _shape(layer, before)
        if kind not in _THROUGH:
            return None
    return None


def _shape(flatten: Any, before: dict[str, Any]) -> Shape | None:
    """Of what a Flatten gets, channels last; None where PyTorch would flatten it in the same order."""
    built = flatten.get("build_config")
    known = built.get("input_shape") if isinstance(built, dict) else None
    sizes = list(known[1:]) if isinstance(known, list | tuple) else []
    if len(sizes) < 2 or not all(type(n) is int and 0 < n < 1 << 32 for n in sizes):
        return None
    own = flatten.get("config")
    if isinstance(own, dict) and own.get("data_format") == "channels_first":
        sizes = [*sizes[1:], sizes[0]]
    # A sequence's (steps, features) lie alike in both, but for those that a convolution has made.
    return tuple(sizes) if len(sizes) > 2 or _is_spatial(flatten, before) else None


def _is_spatial(layer: Any, before: dict[str, Any]) -> bool:
    for _ in range(_FAR):
        layer = before.get(_name(layer))
        if layer is None:
            return False
        kind = str(layer.get("class_name"))
        if kind.startswith(_SPATIAL):
            return True
        if kind not in _THROUGH:
            return False
    return False


def _layers(config: Any) -> list[Any]:
    own = config.get("config") if isinstance(config, dict) else None
    layers = own.get("layers") if isinstance(own, dict) else None
    return [x for x in layers if isinstance(x, dict)] if isinstance(layers, list) else []


def _name(layer: Any) -> str:
    own = layer.get("config")
    return str(layer.get("name") or (own.get("name") if isinstance(own, dict) else ""))


def _inbound(layer: Any) -> list[str]:
    """Of a Functional model: the names of the layers whose output this one takes, at its first call."""
    nodes = layer.get("inbound_nodes")
    found: list[str] = []
    if isinstance(nodes, list | tuple) and nodes and isinstance(nodes[0], dict):
        _histories(nodes[0].get("args"), found, 0)
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
