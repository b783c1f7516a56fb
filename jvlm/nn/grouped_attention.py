"""The attention of language models: grouped heads, rotary positions, a cache, soft-capped logits, a position bias."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jvlm.nn import masks
from jvlm.nn.attention import join_heads, split_heads
from jvlm.nn.cache import Fresh, insert
from jvlm.nn.dense import Initializer
from jvlm.nn.rope import rotate
from jvlm.nn.splash import splash_attention


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """`cap * tanh(x / cap)`, which keeps `x` within +-cap (Gemma 2, arXiv:2408.00118, section 2); None: `x`."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def grouped_attention(
    query: Float[Array, "B T H D"],
    key: Float[Array, "B K S D"],
    value: Float[Array, "B K S D"],
    mask: Bool[Array, "#B 1 #T M"] | None = None,
    bias: Float[Array, "#B H T M"] | None = None,
    scale: float = 1.0,
    cap: float | None = None,
) -> Float[Array, "B T H D"]:
    """softmax(cap(scale q k') + bias) v, the softmax in float32; H / K queries share a key (arXiv:2305.13245).

    `mask` True = attend. Keys that `mask` and `bias` do not know stand first (`masks.extended`). Keys and values lie as
    in the cache, and queries are laid beside them, so that a product needs no transposed copy of what is large.
    """
    batch, length, heads, width = query.shape
    groups = heads // key.shape[1]
    query = (query * scale).reshape(batch, length, key.shape[1], groups, width).transpose(0, 2, 3, 1, 4)
    logits = jnp.einsum("bkgtd,bksd->bkgts", query, key.astype(query.dtype), preferred_element_type=jnp.float32)
    logits = softcap(logits, cap)
    mask = masks.extended(mask, key.shape[2])
    if bias is not None:
        bias = jnp.pad(bias, [(0, 0)] * 3 + [(key.shape[2] - bias.shape[3], 0)])
        logits = logits + bias.reshape(-1, key.shape[1], groups, *bias.shape[2:]).astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask[:, :, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
    y = jnp.einsum("bkgts,bksd->bkgtd", weights, value.astype(query.dtype))
    return y.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


PARTS, LEAST = 4, 16
"""Of a prompt: with four parts 5/8 of all pairs are computed. Parts of fewer tokens than `LEAST` would not pay."""


def ordered_attention(
    query: Float[Array, "B T H D"],
    key: Float[Array, "B K S D"],
    value: Float[Array, "B K S D"],
    mask: Bool[Array, "#B 1 T M"],
    scale: float = 1.0,
    cap: float | None = None,
) -> Float[Array, "B T H D"]:
    """`grouped_attention` where `mask` hides from a token whatever stands after it: most of that is not computed.

    The last T keys are the queries' own.
    """
    length = query.shape[1]
    parts = min(PARTS, max(1, length // LEAST))
    ends = [length * part // parts for part in range(1, parts + 1)]
    out = []
    for start, end in zip([0, *ends], ends):
        after = length - end
        seen = mask[:, :, start:end, : mask.shape[3] - after]
        keys, values = (x[:, :, : x.shape[2] - after] for x in (key, value))
        out.append(grouped_attention(query[:, start:end], keys, values, seen, None, scale, cap))
    return jnp.concatenate(out, axis=1)


class GroupedAttention(nn.Module):
    """Self-attention over `x` [B, T, D], or cross-attention from it to a memory [B, M, D'].

    Parameters `query`, `key`, `value` and `out`, each a Dense. `scale` multiplies the queries. What `past` (the keys
    and values [B, K, S, D] of one layer of a cache) holds is attended to as well, the new ones written from slot `at`
    on. Returns the output and the new keys and values.

    With `tiled` self-attention that is given no mask is causal, within `window`, and computed by `splash_attention`.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    cap: float | None = None
    tiled: bool = False
    window: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        turns: tuple[jax.Array, jax.Array] | None = None,
        past: tuple[jax.Array, jax.Array] | None = None,
        at: jax.Array | None = None,
        memory: jax.Array | None = None,
        remembered: bool = False,
        ordered: bool = False,
        segments: jax.Array | None = None,
        tail: bool = False,
    ) -> tuple[jax.Array, Fresh | None]:
        """`remembered`: `past` is the whole memory, as an earlier call returned it, and nothing is new.

        `ordered`: `mask` lets no token see what stands after it. `segments` [B, T] are those of `splash_attention`.
        `tail`: only the last token asks, and the output is [B, 1, D].
        """
        query = self._heads(x[:, -1:] if tail else x, self.num_heads, "query")
        asking = slice(-1 if tail else None, None)
        query = query if turns is None else rotate(query, (turns[0][:, asking], turns[1][:, asking]))
        mask, bias = (None if part is None else part[:, :, asking] for part in (mask, bias))
        fresh = None
        if remembered and past is not None:
            key, value = past
        else:
            source = x if memory is None else memory
            key = self._heads(source, self.num_kv_heads, "key")
            value = self._heads(source, self.num_kv_heads, "value")
            # Rows that an adapter has put before the tokens' own; those of a memory are kept with it.
            learned = 0 if memory is not None else key.shape[1] - source.shape[1]
            before = (key[:, :learned].swapaxes(1, 2), value[:, :learned].swapaxes(1, 2))
            key = key[:, learned:] if turns is None else rotate(key[:, learned:], turns)
            key, value = key.swapaxes(1, 2), value[:, learned:].swapaxes(1, 2)  # [B, K, T, D]
            fresh = Fresh(key=key, value=value)
            if past is not None:
                key, value = insert(past[0], key, at), insert(past[1], value, at)
            if learned:
                key, value = (jnp.concatenate([x, y.astype(x.dtype)], axis=2) for x, y in zip(before, (key, value)))
        if self.tiled and mask is None and memory is None and past is None:
            y = splash_attention(query, key, value, segments, self.scale, self.cap, self.window)
        elif ordered and not tail and mask is not None and bias is None:
            y = ordered_attention(query, key, value, mask, self.scale, self.cap)
        else:
            y = grouped_attention(query, key, value, mask, bias, self.scale, self.cap)
        return join_heads(y, x.shape[-1], self.out_bias, self.kernel_init, self.dtype), fresh

    def _heads(self, source: jax.Array, heads: int, name: str) -> jax.Array:
        return split_heads(source, heads, self.head_dim, name, self.qkv_bias, self.kernel_init, self.dtype)
