"""8-bit state of the real bitsandbytes, on its CPU backend: read, written, and gone on with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import needs

torch = needs.package("torch")
bnb = needs.package("bitsandbytes")

import bitsandbytes.functional as functional  # noqa: E402

from rmsprop import Rule, convert  # noqa: E402
from rmsprop.convert.torch import bitsandbytes  # noqa: E402
from rmsprop.torch import from_rule  # noqa: E402


def layer() -> Any:
    torch.manual_seed(0)
    return torch.nn.Linear(80, 64)


def train(module: Any, optimizer: Any, first: int, steps: int = 5) -> None:
    for step in range(first, first + steps):
        x = torch.randn(8, 80, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()


@pytest.fixture
def written(tmp_path: Path) -> tuple[Any, Any, Path]:
    module = layer()
    optimizer = bnb.optim.RMSprop8bit(module.parameters(), lr=0.01, alpha=0.95)
    train(module, optimizer, 0)
    torch.save(optimizer.state_dict(), tmp_path / "bnb.pt")
    return module, optimizer, tmp_path / "bnb.pt"


def test_the_map_is_theirs() -> None:
    theirs = functional.create_dynamic_map(signed=True).numpy()
    np.testing.assert_array_equal(bitsandbytes.dynamic_map(), theirs)


def test_every_number_is_theirs(written: Any) -> None:
    module, optimizer, path = written
    found = convert.read(path)
    assert found.kind == "bitsandbytes"
    assert found.step == 5
    assert found.rule() == Rule.from_dialect("torch", lr=0.01, decay=0.95)
    state = optimizer.state[module.weight]
    expected = functional.dequantize_blockwise(
        state["state1"], absmax=state["absmax1"], code=state["qmap1"], blocksize=256
    )
    np.testing.assert_array_equal(found.entries["0"].slots["v"], expected.numpy())
    np.testing.assert_array_equal(
        found.entries["1"].slots["v"], optimizer.state[module.bias]["state1"].numpy()
    )


def test_it_goes_on_there_with_the_same_bits(written: Any, tmp_path: Path) -> None:
    """What is written from its own numbers is what it had."""
    module, optimizer, path = written
    found = convert.read(path)
    with pytest.raises(convert.Unfaithful, match="precision: 0, 1 would be rounded to 8 bits"):
        convert.write(found, tmp_path / "new.pt", "bitsandbytes")
    convert.write(found, tmp_path / "new.pt", "bitsandbytes", accept=["precision"])
    other = layer()
    other.load_state_dict(module.state_dict())
    again = bnb.optim.RMSprop8bit(other.parameters(), lr=0.5)
    again.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True))
    train(module, optimizer, 5)
    train(other, again, 5)
    assert torch.equal(module.weight, other.weight)
    assert torch.equal(module.bias, other.bias)


def test_it_goes_on_here(written: Any) -> None:
    """In float32: the first step differs by what one rounding of v to 8 bits does, and not by more."""
    module, optimizer, path = written
    other = layer()
    other.load_state_dict(module.state_dict())
    found = convert.read(path)
    ours = from_rule(other.parameters(), found.rule())
    convert.write(found, ours)
    train(module, optimizer, 5, 1)
    train(other, ours, 5, 1)
    torch.testing.assert_close(other.weight, module.weight, rtol=0, atol=1e-6)
