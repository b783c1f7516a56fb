"""Group normalization of feature maps, computed in float32 whatever the dtype around it."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.nn.axes import named


class GroupNorm(nn.Module):
    """Normalization over positions and the channels of a group (Wu and He, arXiv:1803.08494).

    `x` [B, ..., C], whose C must be a multiple of `groups`; parameters `scale` and `bias` [C].
    """

    groups: int = 32
    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        if width % self.groups:
            raise ValueError(f"{width} channels are no multiple of {self.groups} groups")
        scale = self.param("scale", named(nn.initializers.ones_init(), ("embed",)), (width,), jnp.float32)
        bias = self.param("bias", named(nn.initializers.zeros_init(), ("embed",)), (width,), jnp.float32)
        flat = x.astype(jnp.float32).reshape(x.shape[0], -1, width)  # [B, N, C]
        # Channel by channel first: what is left to gather by group is small. Two passes, as in layer_norm.
        centered = flat - self._by_group(flat.mean(1))
        inverse = jax.lax.rsqrt(self._by_group(jnp.square(centered).mean(1)) + self.eps)
        y = centered * (inverse * scale) + bias
        return y.astype(self.dtype).reshape(x.shape)

    def _by_group(self, x: jax.Array) -> jax.Array:
        """Means [B, C] of the channels to those of their groups, [B, 1, C]."""
        batch, width = x.shape
        means = x.reshape(batch, self.groups, -1).mean(-1)
        return jnp.repeat(means, width // self.groups, axis=1)[:, None]
