"""From a sequence to one vector: the token picked by the text, and attention pooling."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jvlm.nn.attention import Attention
from jvlm.nn.axes import named
from jvlm.nn.mlp import Mlp
from jvlm.nn.norms import LayerNorm


def pick(x: Float[Array, "B S D"], at: int | Int[Array, "B"]) -> Float[Array, "B D"]:
    """The token of each sequence at the position `at`, one for all or one for each."""
    if isinstance(at, int):
        return x[:, at]
    return jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]


def text_position(tokens: Int[Array, "B T"], pool: str, eos_id: int) -> int | Int[Array, "B"]:
    """Where the hidden state lies that stands for a text.

    `highest`: at the highest token id (OpenAI CLIP, whose end token is the last of the vocabulary); `eos`: at the
    first `eos_id`; `first`; `last`. Position 0 where the end token is absent, as both references do.
    """
    if pool == "highest":
        return jnp.argmax(tokens, axis=-1)
    if pool == "eos":
        return jnp.argmax(tokens == eos_id, axis=-1)
    if pool == "first":
        return 0
    if pool == "last":
        return tokens.shape[1] - 1
    raise ValueError(f"text pooling {pool!r} is unknown; valid: highest, eos, first, last")


class MapHead(nn.Module):
    """Attention pooling: a learned `probe` attends to `x` [B, N, D], then an MLP with a residual (arXiv:2106.04560)."""

    num_heads: int
    mlp_dim: int
    act: str = "gelu"
    eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        init = nn.initializers.xavier_uniform()
        probe = self.param("probe", named(init, (None, None, "embed")), (1, 1, width), jnp.float32)
        query = jnp.broadcast_to(probe.astype(self.dtype), (x.shape[0], 1, width))
        y = Attention(self.num_heads, dtype=self.dtype, name="attn")(query, memory=x)
        z = LayerNorm(self.eps, self.dtype, name="norm")(y)
        y = y + Mlp(self.mlp_dim, act=self.act, dtype=self.dtype, name="mlp")(z)
        return y[:, 0]  # [B, D]
