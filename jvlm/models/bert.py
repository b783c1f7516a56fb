"""BERT: a bidirectional text encoder whose blocks are normalized after each half."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.build import call
from jvlm.core.sharding import constrain
from jvlm.models.text import TextOutput
from jvlm.nn import masks
from jvlm.nn.axes import named
from jvlm.nn.block import Block
from jvlm.nn.dense import Dense, Embed, normal
from jvlm.nn.norms import LayerNorm
from jvlm.nn.stack import Stack


class Bert(nn.Module):
    """BERT (Devlin et al., arXiv:1810.04805).

    Padding (`pad_id`) is attended by nobody unless an explicit `mask` [B, T] (True = attend) is given. `pool` says
    what stands for the text: `pooler`, BERT's dense-tanh on the first token, or `first`, the first token itself, as
    ALIGN takes it. `pooler` tells whether the dense-tanh exists.
    """

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    length: int = 512
    num_types: int = 2
    pad_id: int = 0
    pooler: bool = True
    pool: str = "pooler"
    act: str = "gelu"
    eps: float = 1e-12
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        types: jax.Array | None = None,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> TextOutput:
        """`tokens` [B, T] and `types` [B, T] (the segment of each token, by default 0)."""
        if self.pool not in ("pooler", "first") or (self.pool == "pooler" and not self.pooler):
            raise ValueError(
                f"pooling {self.pool!r} with pooler={self.pooler}; valid: first, or pooler where it exists"
            )
        keep = tokens != self.pad_id if mask is None else mask.astype(bool)
        x = self._embed(tokens, jnp.zeros_like(tokens) if types is None else types, train)  # [B, T, D]
        block = Block(
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            act=self.act,
            eps=self.eps,
            post_norm=True,
            dropout=self.dropout,
            dtype=self.dtype,
        )
        stack = Stack(block, self.depth, self.scan, self.remat, name="blocks")
        x, token = stack(x, masks.padding(keep), train, at=0)
        pooled = x[:, 0] if token is None else token
        if self.pooler:
            # Applied also where `pool` does not want it: its parameters belong to the published model.
            dense = Dense(self.width, axes=("embed", None), kernel_init=normal(0.02), dtype=self.dtype, name="pooler")
            projected = jnp.tanh(dense(pooled))
            pooled = projected if self.pool == "pooler" else pooled
        return TextOutput(tokens=x, pooled=pooled)

    def _embed(self, tokens: jax.Array, types: jax.Array, train: bool) -> jax.Array:
        length = tokens.shape[1]
        if length > self.length:
            raise ValueError(f"{length} tokens, but the text tower has {self.length} positions")
        x = Embed(self.vocab_size, self.width, dtype=self.dtype, name="token_embed")(tokens)
        x = x + Embed(self.num_types, self.width, (None, "embed"), dtype=self.dtype, name="type_embed")(types)
        table = self.param("pos_embed", named(normal(0.02), (None, "embed")), (self.length, self.width), jnp.float32)
        x = x + table[:length].astype(self.dtype)
        x = LayerNorm(self.eps, self.dtype, name="norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return constrain(x, ("batch", None, None))


def bert(*, dtype: Any = "float32", **fields: Any) -> Bert:
    """A `Bert` from plain fields."""
    return call(Bert, dict(fields, dtype=jnp.dtype(dtype)), "model 'bert'")


_BASE: dict[str, Any] = dict(width=768, depth=12, num_heads=12, mlp_dim=3072)
_LARGE: dict[str, Any] = dict(width=1024, depth=24, num_heads=16, mlp_dim=4096)

VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:1810.04805, section 3; the vocabularies are those of the released models
    "base": dict(_BASE, vocab_size=30522),
    "base-cased": dict(_BASE, vocab_size=28996),
    "large": dict(_LARGE, vocab_size=30522),
    "large-cased": dict(_LARGE, vocab_size=28996),
}

TINY: dict[str, Any] = dict(vocab_size=64, length=8, width=32, depth=2, num_heads=2, mlp_dim=48)
