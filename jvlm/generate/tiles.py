"""Pictures larger than memory: latents decoded in overlapping tiles that fade into each other."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

OVERLAP = 0.25
Decode = Callable[[Float[Array, "B h w Z"]], Float[Array, "B H W C"]]


def tiled(decode: Decode, latents: Float[Array, "B h w Z"], tile: int, factor: int) -> Float[np.ndarray, "B H W C"]:
    """`decode(latents)` from tiles of at most `tile` latents a side, a quarter of which the next one shares.

    Only a tile's activations are in memory at once. A normalization sees its own tile alone, so the picture is not
    quite that of the whole, which is why tiles fade into each other: linearly, as diffusers' autoencoder has them.
    """
    step, extent = int(tile * (1 - OVERLAP)), int(tile * factor * OVERLAP)
    kept = tile * factor - extent
    rows, above = [], []
    for top in range(0, latents.shape[1], step):
        row: list[np.ndarray] = []
        for left in range(0, latents.shape[2], step):
            piece = np.array(decode(jax.numpy.asarray(latents[:, top : top + tile, left : left + tile])))
            if above:
                _fade(above[len(row)], piece, extent, axis=1)
            if row:
                _fade(row[-1], piece, extent, axis=2)
            row.append(piece)
        rows.append(np.concatenate([piece[:, :kept, :kept] for piece in row], axis=2))
        above = row
    return np.concatenate(rows, axis=1)


def _fade(before: np.ndarray, piece: np.ndarray, extent: int, axis: int) -> None:
    """Lets the end of `before` along `axis` go over into the beginning of `piece`, in place."""
    extent = min(before.shape[axis], piece.shape[axis], extent)
    share = (np.arange(extent, dtype=np.float32) / extent).reshape([-1 if at == axis else 1 for at in range(4)])
    ends, begins = [slice(None)] * 4, [slice(None)] * 4
    ends[axis], begins[axis] = slice(before.shape[axis] - extent, None), slice(0, extent)
    piece[tuple(begins)] = before[tuple(ends)] * (1 - share) + piece[tuple(begins)] * share
