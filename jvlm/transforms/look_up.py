"""Entries of a small constant table, by selections."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Integer


def look_up(table: Float32[np.ndarray, "entries"], index: Integer[Array, "..."]) -> Float[Array, "..."]:
    """`table[index]` for a power of two of entries.

    A tree of selections, one level for each bit of the index, fuses into what uses it. A gather would go to memory for
    every element: on a TPU a hundred times the bytes of the kernel whose codes are looked up.
    """
    index = index.astype(jnp.int32)
    values: list[jax.Array] = [jnp.float32(value) for value in table]
    for bit in range(len(table).bit_length() - 1):
        odd = (index >> bit) & 1 != 0
        values = [jnp.where(odd, high, low) for low, high in zip(values[::2], values[1::2], strict=True)]
    return values[0]
