"""A recurrent network over texts, or over images row by row."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
POOLS = ("last", "mean", "max")


class Recurrent(nn.Module):
    """Embedding, recurrent layer over the real tokens alone (packed), pooling, dense layer.

    The same function as `rmsprop.models.Recurrent`, by PyTorch's cells, with their own start and their second
    bias; and an LSTM.

    Parameters
    ----------
    inputs
        Width of the word vectors, or of an image's rows.
    hidden
        Width of the state.
    outputs
        Scores for each row.
    cell
        "rnn" (tanh), "gru" or "lstm".
    words
        Size of the vocabulary; None for images.
    pool
        What the dense layer sees of the states: the "last", or their "mean" or "max" over the real tokens.
    dropout
        The probability that an input of the dense layer is left out, in training.

    Examples
    --------
    >>> network = Recurrent(8, 16, 1, cell="lstm", words=100)
    >>> network(torch.tensor([[5, 7, 0], [9, 2, 4]])).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        cell: str = "gru",
        words: int | None = None,
        pool: str = "last",
        dropout: float = 0.0,
    ):
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}")
        self.embedding = None if words is None else nn.Embedding(words, inputs, padding_idx=0)
        if self.embedding is not None:  # as small as NumPy's; PyTorch's own start has deviation 1
            with torch.no_grad():
                self.embedding.weight *= 0.1
        self.cell = CELLS[cell](inputs, hidden, batch_first=True)
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (rows, outputs) of tokens (rows, longest), 0 for padding, or of images (rows, 1, h, w)."""
        if self.embedding is None:
            states, _ = self.cell(x.flatten(0, 1))
            lengths = torch.full((len(x),), states.shape[1])
        else:
            lengths = (x != 0).sum(1)
            packed = pack_padded_sequence(
                self.embedding(x), lengths, batch_first=True, enforce_sorted=False
            )
            states, _ = pad_packed_sequence(self.cell(packed)[0], batch_first=True)
        return self.output(self.dropout(self._pooled(states, lengths)))

    def _pooled(self, states: Tensor, lengths: Tensor) -> Tensor:
        if self.pool == "last":
            return states[torch.arange(len(states)), lengths - 1]
        real = (torch.arange(states.shape[1]) < lengths[:, None])[:, :, None]
        if self.pool == "mean":
            return (states * real).sum(1) / lengths[:, None]
        return states.masked_fill(~real, -torch.inf).max(1).values
