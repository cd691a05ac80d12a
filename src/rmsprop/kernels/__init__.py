"""The Rule fused into one pass over memory.

`cpu` holds the loop (Numba), `element` the arithmetic that it shares with `rmsprop.simulate`,
`norms` the sums of squares that clipping and the NaN policy need.
"""
