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
from jvlm.nn.hidden import hidden_states
from jvlm.nn.norms import LayerNorm
from jvlm.nn.pooling import pick, text_position
from jvlm.nn.stack import Stack


class TextOutput(struct.PyTreeNode):
    """`tokens` [B, T, D], the normalized sequence; `pooled` [B, D]; `hidden` [B, T, D] of the layer asked for."""

    tokens: jax.Array
    pooled: jax.Array
    hidden: jax.Array | None = None


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
    def __call__(self, tokens: jax.Array, train: bool = False, layer: int | None = None) -> TextOutput:
        """`layer`: after how many blocks the `hidden` states are wanted, not normalized; -1 is all but the last."""
        length = tokens.shape[1]
        if length > self.length:
            raise ValueError(f"{length} tokens, but the text tower has {self.length} positions")
        x = Embed(self.vocab_size, self.width, dtype=self.dtype, name="token_embed")(tokens)
        init = nn.initializers.normal(0.01)
        table = self.param("pos_embed", named(init, (None, "embed")), (self.length, self.width), jnp.float32)
        x = constrain(x + table[:length].astype(self.dtype), ("batch", "sequence", None))  # [B, T, D]
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
        norm = LayerNorm(self.eps, self.dtype, name="norm")
        token, hidden = None, None
        if layer is None or self.is_initializing():
            x, token = Stack(block, self.depth, self.scan, self.remat, name="blocks")(x, mask, train, at)
            hidden = None if layer is None else x  # initialization makes every parameter, and this shape
        else:
            key = self.make_rng("dropout") if train and self.has_rng("dropout") else None
            params = self.variables["params"]["blocks"]
            after = [layer % self.depth, self.depth]
            states = hidden_states(
                block, params, x, after, scan=self.scan, remat=self.remat, train=train, key=key, mask=mask
            )
            hidden, x = jnp.split(states, 2, axis=-1)
        x = norm(x)
        return TextOutput(tokens=x, pooled=pick(x, at) if token is None else norm(token), hidden=hidden)
