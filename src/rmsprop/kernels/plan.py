"""Named NumPy arrays made ready for the kernel: flat views or copies, grouped by dtype, kept for reuse."""

from typing import Any

import numpy as np

from rmsprop.kernels.cpu import KINDS, Batch, address

Array = np.ndarray[Any, Any]
Named = dict[str, Array]


class Plan:
    """Parameters, gradients and state of one optimizer, bound to their memory.

    Contiguous arrays are used where they lie. Parameters that are not (a transposed or strided view) are
    copied in and out at each step; gradients that are not, or that overlap a parameter, are copied at
    each `bind`, so that the result is as if nothing overlapped.

    Parameters
    ----------
    params
        Arrays by path, checked by `tree.check_params`.
    slots
        For each of "v", "m", "b" that the rule keeps, the state arrays by path.
    """

    def __init__(self, params: Named, slots: dict[str, Named]):
        self.params = params
        self.slots = slots
        self.grads: Named = {}
        self._grad_ids: list[int] = []
        self._reusable = False
        self.flat_grads: list[Array] = []
        self._ids = [id(p) for p in params.values()]
        self._sizes = [p.size for p in params.values()]
        self._flat: list[Array] = []
        self._copied: list[tuple[Array, Array]] = []
        for p in params.values():
            flat = p.reshape(-1) if _direct(p) else np.empty(p.size, p.dtype)
            self._flat.append(flat)
            if not _direct(p):
                self._copied.append((p, flat))
        lows, highs = _spans(self._flat)
        order = np.argsort(lows)
        # Sorted by where they begin, and the ends as a running maximum: ready for a search.
        self._lows, self._highs = lows[order], np.maximum.accumulate(highs[order])
        self._batches: list[tuple[list[int], Batch]] = []
        self._grouping: list[Any] = []

    def holds(self, params: Named) -> bool:
        """Whether these are the same arrays under the same names, still writeable and of their sizes."""
        return (
            self._ids == [id(p) for p in params.values()]
            and list(self.params) == list(params)
            and all([p.flags.writeable for p in params.values()])
            and self._sizes == [p.size for p in params.values()]
        )

    def holds_grads(self, grads: Named) -> bool:
        """Whether these are the gradients of the last `bind`, and could be used where they lie."""
        return (
            self._reusable
            and self._grad_ids == [id(g) for g in grads.values()]
            and list(self.grads) == list(grads)
            and self._sizes == [grads[path].size for path in self.params]
        )

    def bind(self, grads: Named) -> None:
        """Use these gradients from now on; they are in the parameters' shapes."""
        self.grads = grads
        ordered = [grads[path] for path in self.params]
        direct = [_direct(g) for g in ordered]
        flat = [g.reshape(-1) if ok else g.ravel() for g, ok in zip(ordered, direct, strict=True)]
        lows, highs = _spans(flat)
        overlapping = self._overlapping(lows, highs)
        for k in overlapping:
            flat[k] = flat[k].copy()
            lows[k] = address(flat[k])
        self.flat_grads = flat
        self._grad_ids = [id(g) for g in grads.values()]
        self._reusable = all(direct) and not len(overlapping)
        grouping = [g.dtype for g in flat]
        if grouping == self._grouping:
            for members, batch in self._batches:
                batch.table[:, 1] = lows[members]
        else:
            self._group(flat)
            self._grouping = grouping

    def _overlapping(self, lows: Array, highs: Array) -> Array:
        """The positions of the spans of memory that meet a parameter's."""
        if not len(self._lows):
            return self._lows
        before = np.searchsorted(self._lows, highs) - 1
        return np.flatnonzero((before >= 0) & (self._highs[before] > lows) & (highs > lows))

    def _group(self, flat: list[Array]) -> None:
        groups: dict[tuple[str, str, str], list[int]] = {}
        for k, (p, g) in enumerate(zip(self._flat, flat, strict=True)):
            kinds = (KINDS[p.dtype.name], KINDS[g.dtype.name], KINDS[state_dtype(p).name])
            groups.setdefault(kinds, []).append(k)
        paths = list(self.params)
        kept = [self.slots.get(slot) for slot in "vmb"]

        def row(k: int) -> tuple[Array | None, ...]:
            state = [None if slot is None else slot[paths[k]].reshape(-1) for slot in kept]
            return (self._flat[k], flat[k], *state)

        self._batches = [
            (members, Batch.of([row(k) for k in members], kinds))
            for kinds, members in groups.items()
        ]

    def step(self, flags: int, h: Array, scales: Array | None) -> None:
        """Update parameters and state in place; `scales` as in `Batch.step`, in the parameters' order."""
        for p, buffer in self._copied:
            buffer[:] = p.reshape(-1)
        for members, batch in self._batches:
            batch.step(flags, h, None if scales is None else scales[members])
        for p, buffer in self._copied:
            p[...] = buffer.reshape(p.shape)


def state_dtype(p: Array) -> np.dtype[Any]:
    """float64 for a float64 parameter, else float32: averages of squares do not live in float16."""
    return np.dtype(np.float64 if p.dtype == np.float64 else np.float32)


def _direct(x: Array) -> bool:
    flags = x.flags
    return flags.c_contiguous and flags.aligned


def _spans(flat: list[Array]) -> tuple[Array, Array]:
    """The addresses where flat arrays begin and end."""
    lows = np.array([address(a) for a in flat], dtype=np.int64)
    return lows, lows + np.array([a.nbytes for a in flat], dtype=np.int64)
