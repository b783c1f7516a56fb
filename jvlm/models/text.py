"""The text towers of CLIP and SigLIP: one transformer, two conventions of masking and pooling."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jvlm.core.sharding import constrain
from jvlm.nn import masks
from jvlm.nn.axes import named
from jvlm.nn.block import Block
from jvlm.nn.dense import Embed
from jvlm.nn.norms import LayerNorm
from jvlm.nn.pooling import pick, text_position
from jvlm.nn.stack import Stack


class TextOutput(struct.PyTreeNode):
    """`tokens` [B, T, D], the normalized sequence; `pooled` [B, D]."""

    tokens: jax.Array
    pooled: jax.Array


class TextTransformer(nn.Module):
    """Text tower (CLIP: Radford et al., arXiv:2103.00020, section 2.4; SigLIP: arXiv:2303.15343).

    CLIP: `causal`, `pool` `highest` (OpenAI's convention) or `eos` (at the first `eos_id`). SigLIP: bidirectional over
    padding too, `pool` `last`.
    """

    vocab_size: int
    length: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    causal: bool = True
    pool: str = "eos"
    eos_id: int = 49407
    act: str = "quick_gelu"
    eps: float = 1e-5
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False) -> TextOutput:
        length = tokens.shape[1]
        if length > self.length:
            raise ValueError(f"{length} tokens, but the text tower has {self.length} positions")
        x = Embed(self.vocab_size, self.width, dtype=self.dtype, name="token_embed")(tokens)
        init = nn.initializers.normal(0.01)
        table = self.param("pos_embed", named(init, (None, "embed")), (self.length, self.width), jnp.float32)
        x = constrain(x + table[:length].astype(self.dtype), ("batch", None, None))  # [B, T, D]
        block = Block(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            act=self.act,
            eps=self.eps,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        mask = masks.causal(length) if self.causal else None
        at = text_position(tokens, self.pool, self.eos_id)
        x, token = Stack(block, self.depth, self.scan, self.remat, name="blocks")(x, mask, train, at)
        norm = LayerNorm(self.eps, self.dtype, name="norm")
        x = norm(x)
        return TextOutput(tokens=x, pooled=pick(x, at) if token is None else norm(token))
