"""A transformer encoder block, normalized before (ViT, CLIP) or after (BERT) each half."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.sharding import constrain
from jvlm.nn import masks
from jvlm.nn.attention import Attention
from jvlm.nn.mlp import Mlp
from jvlm.nn.norms import LayerNorm
from jvlm.nn.pooling import pick


class Block(nn.Module):
    """`x` [B, S, D] through self-attention and an MLP, each with a residual connection.

    `post_norm` normalizes the sum after each half as BERT does, instead of the input before it. With `at`, a position
    for all sequences or one [B] for each, only that token leaves the block, as [B, D]: what a last block need not
    compute of the others is everything but their keys and values.
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
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, train: bool = False, at: int | jax.Array | None = None
    ) -> jax.Array:
        attend = Attention(
            self.num_heads, head_dim=self.head_dim, qkv_bias=self.qkv_bias, dtype=self.dtype, name="attn"
        )
        feed = Mlp(self.mlp_dim, act=self.act, dtype=self.dtype, name="mlp")
        norm_attn = LayerNorm(self.eps, self.dtype, name="norm_attn")
        norm_mlp = LayerNorm(self.eps, self.dtype, name="norm_mlp")
        drop = nn.Dropout(self.dropout, deterministic=not train)

        def wanted(tokens: jax.Array) -> jax.Array:
            return tokens if at is None else pick(tokens, at)[:, None]

        if at is not None and mask is not None:
            mask = masks.row(mask, at)
        if self.post_norm:
            y = wanted(x)
            y = norm_attn(y + drop(attend(y, memory=x, mask=mask)))
            y = norm_mlp(y + drop(feed(y)))
        else:
            normal = norm_attn(x)
            y = wanted(x) + drop(attend(wanted(normal), memory=normal, mask=mask))
            y = y + drop(feed(norm_mlp(y)))
        y = constrain(y, ("batch", "sequence", None))
        return y if at is None else y[:, 0]
