"""Attention among the positions of a feature map, and from them to a text."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.sharding import constrain
from jvlm.nn.activations import gelu
from jvlm.nn.attention import Attention
from jvlm.nn.dense import Dense
from jvlm.nn.group_norm import GroupNorm
from jvlm.nn.norms import LayerNorm
from jvlm.nn.stack import Stack


class SpatialAttention(nn.Module):
    """`x` [B, H, W, C] plus self-attention among its normalized positions (Ho et al., arXiv:2006.11239, appendix B)."""

    num_heads: int = 1
    groups: int = 32
    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        y = GroupNorm(self.groups, self.eps, self.dtype, name="norm")(x).reshape(batch, height * width, channels)
        y = Attention(self.num_heads, dtype=self.dtype, name="attn")(y)
        return x + y.reshape(x.shape)


class FusedMlp(nn.Module):
    """A gated MLP whose first kernel [D, 2 F] is fused: values, then the gates whose GELU multiplies them.

    GEGLU of Shazeer, arXiv:2002.05202, eq. 5.
    """

    mlp_dim: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        y = Dense(2 * self.mlp_dim, ("embed", "mlp"), dtype=self.dtype, name="up")(x)
        value, gate = jnp.split(constrain(y, ("batch", None, "mlp")), 2, axis=-1)
        y = nn.Dropout(self.dropout, deterministic=not train)(value * gelu(gate))
        return Dense(x.shape[-1], ("mlp", "embed"), dtype=self.dtype, name="down")(y)


class CrossBlock(nn.Module):
    """`x` [B, S, D] through self-attention, attention to `context` [B, T, E] and a gated MLP, each residual."""

    num_heads: int
    mlp_dim: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, train: bool = False, at: int | jax.Array | None = None
    ) -> jax.Array:
        def norm(name: str) -> LayerNorm:
            return LayerNorm(1e-5, self.dtype, name=name)

        def attend(name: str) -> Attention:
            return Attention(self.num_heads, qkv_bias=False, dtype=self.dtype, name=name)

        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = x + drop(attend("attn")(norm("norm_attn")(x)))
        x = x + drop(attend("cross")(norm("norm_cross")(x), memory=context))
        y = FusedMlp(self.mlp_dim, self.dropout, self.dtype, name="mlp")(norm("norm_mlp")(x), train)
        return constrain(x + y, ("batch", None, None))


class SpatialTransformer(nn.Module):
    """`x` [B, H, W, C] plus what `depth` blocks over its positions return (Rombach et al., arXiv:2112.10752, 3.3)."""

    depth: int
    num_heads: int
    groups: int = 32
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None, train: bool = False) -> jax.Array:
        batch, height, width, channels = x.shape
        y = GroupNorm(self.groups, 1e-6, self.dtype, name="norm")(x).reshape(batch, height * width, channels)
        y = Dense(channels, (None, "embed"), dtype=self.dtype, name="proj_in")(y)
        block = CrossBlock(self.num_heads, 4 * channels, self.dropout, self.dtype)
        y, _ = Stack(block, self.depth, self.scan, self.remat, name="blocks")(y, context, train)
        y = Dense(channels, ("embed", None), dtype=self.dtype, name="proj_out")(y)
        return x + y.reshape(x.shape)
