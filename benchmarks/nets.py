"""The networks and the data that the benchmarks of training use, in PyTorch."""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np

from peers import Missing, torch

CONTEXT = 64


def mlp(seed: int, widths: tuple[int, ...] = (784, 128, 10)) -> Any:
    torch.manual_seed(seed)
    nn, layers = torch.nn, []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def transformer(seed: int, symbols: int, width: int = 128, layers: int = 2) -> Any:
    """A small causal language model over characters: logits [batch, CONTEXT, symbols]."""
    torch.manual_seed(seed)
    nn = torch.nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.symbol, self.place = nn.Embedding(symbols, width), nn.Embedding(CONTEXT, width)
            layer = nn.TransformerEncoderLayer(
                width,
                4,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols)
            mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
            self.register_buffer("mask", mask)

        def forward(self, x: Any) -> Any:
            h = self.symbol(x) + self.place(torch.arange(x.shape[1]))
            return self.head(self.norm(self.body(h, mask=self.mask, is_causal=True)))

    return Model()


def loss_of(model: Any, x: Any, y: Any) -> Any:
    return torch.nn.functional.cross_entropy(model(x).flatten(0, -2), y.flatten())


def characters(limit: int = 1_000_000) -> Any:
    """The movie reviews as numbers of characters, and how many characters there are."""
    folder = os.environ.get("RMSPROP_DATA")
    files = sorted(Path(folder, "reviews").glob("*")) if folder else []
    text = "".join(f.read_text(encoding="utf-8", errors="replace") for f in files if f.is_file())
    if len(text) < 100_000:
        raise Missing("no text: set RMSPROP_DATA to a folder with reviews/")
    text = "".join(c if c in KNOWN else "?" for c in text.lower()[:limit])
    symbols = sorted(set(text))
    numbers = {c: k for k, c in enumerate(symbols)}
    return torch.tensor([numbers[c] for c in text]), len(symbols)


KNOWN = set("abcdefghijklmnopqrstuvwxyz0123456789 .,;:!?'\"()-\n")


def windows(text: Any, count: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Random pieces of text and the characters that follow each of theirs."""
    starts = rng.integers(0, len(text) - CONTEXT - 1, count)
    at = torch.from_numpy(starts[:, None] + np.arange(CONTEXT)[None])
    return text[at], text[at + 1]
