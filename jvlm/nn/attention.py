"""Multi-head attention with 2-D kernels; heads are split after the product."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jvlm.core.sharding import constrain
from jvlm.nn import masks
from jvlm.nn.dense import Dense, Initializer


def dot_product_attention(
    query: Float[Array, "B S H D"],
    key: Float[Array, "B T K D"],
    value: Float[Array, "B T K D"],
    mask: Bool[Array, "..."] | None = None,
) -> Float[Array, "B S H D"]:
    """softmax(q k' / sqrt(D)) v, the softmax in float32 (Vaswani et al., arXiv:1706.03762, eq. 1).

    `mask` broadcasts to [B, H, S, T], True = attend. Key and value heads may be fewer than query heads, each then
    shared by H / K of them (arXiv:2305.13245). Keys that `mask` does not know stand first (`masks.extended`).
    Without a mask no more than `MOST_LOGITS` of a head are kept at a time.
    """
    rows = _block(query.shape[1], key.shape[1])
    if mask is None and rows < query.shape[1]:
        blocks = query.reshape(query.shape[0], -1, rows, *query.shape[2:]).swapaxes(0, 1)
        # Computed again for the backward pass: what a scan keeps of every block would be all logits once more.
        attend = jax.checkpoint(functools.partial(_attend, key=key, value=value, mask=None), prevent_cse=False)
        return jax.lax.map(attend, blocks).swapaxes(0, 1).reshape(query.shape)
    return _attend(query, key, value, mask)


MOST_LOGITS = 2**21


def _block(queries: int, keys: int) -> int:
    """How many queries are answered at once: the most whose logits are few enough, in blocks of one size."""
    fitting = min(max(MOST_LOGITS // keys, 1), queries)
    return next(rows for rows in range(fitting, 0, -1) if queries % rows == 0)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = (jnp.repeat(x, groups, axis=2) for x in (key, value))
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bshd,bthd->bhst", query, key, preferred_element_type=jnp.float32)
    mask = masks.extended(mask, key.shape[1])
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
    return jnp.einsum("bhst,bthd->bshd", weights, value)


def split_heads(
    x: jax.Array, heads: int, head_dim: int, name: str, use_bias: bool, kernel_init: Initializer, dtype: Any
) -> jax.Array:
    """`x` [B, S, D] through the calling module's Dense `name`, as heads [B, S, heads, head_dim]."""
    y = Dense(
        heads * head_dim,
        axes=("embed", "heads"),
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
    )(x)
    y = constrain(y, ("batch", None, "heads"))
    return y.reshape(*y.shape[:-1], heads, head_dim)


def join_heads(y: jax.Array, width: int, use_bias: bool, kernel_init: Initializer, dtype: Any) -> jax.Array:
    """Heads `y` [B, S, H, D] through the calling module's Dense `out`, to [B, S, width]."""
    out = Dense(
        width, axes=("heads", "embed"), use_bias=use_bias, kernel_init=kernel_init, dtype=dtype, name="out"
    )  # fmt: skip
    return out(y.reshape(*y.shape[:2], -1))


class Attention(nn.Module):
    """Self-attention over `x` [B, S, D], or cross-attention from it to `memory` [B, T, M].

    Parameters `query`, `key`, `value` and `out`, each a Dense. `head_dim` defaults to width / num_heads.
    """

    num_heads: int
    head_dim: int | None = None
    num_kv_heads: int | None = None
    qkv_bias: bool = True
    out_bias: bool = True
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array | None = None, mask: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]
        head_dim = self.head_dim or width // self.num_heads
        kv_heads = self.num_kv_heads or self.num_heads
        memory = x if memory is None else memory

        def project(source: jax.Array, heads: int, name: str) -> jax.Array:
            return split_heads(source, heads, head_dim, name, self.qkv_bias, self.kernel_init, self.dtype)

        query = project(x, self.num_heads, "query")
        key = project(memory, kv_heads, "key")
        value = project(memory, kv_heads, "value")
        y = dot_product_attention(query, key, value, mask)
        return join_heads(y, width, self.out_bias, self.kernel_init, self.dtype)
