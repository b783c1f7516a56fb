"""Fixed position embeddings."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def sincos_2d(height: int, width: int, dim: int, temperature: float = 10_000.0) -> Float[Array, "1 N D"]:
    """Fixed sine-cosine embedding of a `height` x `width` grid, row-major (MoCo v3, arXiv:2104.02057; the form of
    arXiv:2205.01580). `dim` must be a multiple of 4: quarters sin(x), cos(x), sin(y), cos(y).
    """
    if dim % 4:
        raise ValueError(f"a 2-D sine-cosine embedding needs a width divisible by 4, not {dim}")
    y, x = np.mgrid[:height, :width]
    omega = 1.0 / temperature ** (np.arange(dim // 4) / max(dim // 4 - 1, 1))
    phase_y, phase_x = y.reshape(-1, 1) * omega, x.reshape(-1, 1) * omega
    table = np.concatenate([np.sin(phase_x), np.cos(phase_x), np.sin(phase_y), np.cos(phase_y)], axis=1)
    return jnp.asarray(table[None], jnp.float32)
