"""A transformer encoder block, normalized before (ViT, CLIP) or after (BERT) each half."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.sharding import constrain
from jvlm.nn.attention import Attention
from jvlm.nn.mlp import Mlp
from jvlm.nn.norms import LayerNorm


class Block(nn.Module):
    """`x` [B, S, D] through self-attention and an MLP, each with a residual connection.

    `post_norm` normalizes the sum after each half as BERT does, instead of the input before it.
    """

    num_heads: int
    mlp_dim: int
    act: str = "gelu"
    eps: float = 1e-5
    head_dim: int | None = None
    qkv_bias: bool = True
    post_norm: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        attend = Attention(
            self.num_heads, head_dim=self.head_dim, qkv_bias=self.qkv_bias, dtype=self.dtype, name="attn"
        )
        feed = Mlp(self.mlp_dim, act=self.act, dtype=self.dtype, name="mlp")
        norm_attn = LayerNorm(self.eps, self.dtype, name="norm_attn")
        norm_mlp = LayerNorm(self.eps, self.dtype, name="norm_mlp")
        drop = nn.Dropout(self.dropout, deterministic=not train)
        if self.post_norm:
            x = norm_attn(x + drop(attend(x, mask=mask)))
            x = norm_mlp(x + drop(feed(x)))
        else:
            x = x + drop(attend(norm_attn(x), mask=mask))
            x = x + drop(feed(norm_mlp(x)))
        return constrain(x, ("batch", None, None))
