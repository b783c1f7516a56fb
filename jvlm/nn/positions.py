"""Fixed embeddings of positions and times."""

import math

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


def waves(times: Float[Array, "B"], dim: int, cosine_first: bool = True, shift: float = 0.0) -> Float[Array, "B D"]:
    """Sine-cosine embedding of diffusion times, in float32 (Ho et al., arXiv:2006.11239, appendix B).

    Frequencies fall geometrically from 1 to 1 / 10,000, which the last of them reaches with `shift` 1.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half, dtype=jnp.float32) / (half - shift))
    phase = times.astype(jnp.float32)[:, None] * frequencies
    parts = (jnp.cos(phase), jnp.sin(phase)) if cosine_first else (jnp.sin(phase), jnp.cos(phase))
    return jnp.pad(jnp.concatenate(parts, axis=-1), ((0, 0), (0, dim % 2)))
