"""Normalization layers, computed in float32 whatever the dtype around them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.nn.axes import named


class LayerNorm(nn.Module):
    """Layer normalization over the last axis (Ba et al., arXiv:1607.06450)."""

    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        scale = self.param("scale", named(nn.initializers.ones_init(), ("embed",)), (width,), jnp.float32)
        bias = self.param("bias", named(nn.initializers.zeros_init(), ("embed",)), (width,), jnp.float32)
        x = x.astype(jnp.float32)
        mean = x.mean(-1, keepdims=True)
        # Two passes: E[x^2] - E[x]^2 loses the variance of activations with a large mean.
        centered = x - mean
        y = centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + self.eps)
        return (y * scale + bias).astype(self.dtype)
