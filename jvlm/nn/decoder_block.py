"""A block of a language model: self-attention, cross-attention where wanted, and an MLP."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jvlm.core.build import lookup
from jvlm.core.sharding import constrain
from jvlm.core.types import Leaf
from jvlm.nn.cache import Fresh
from jvlm.nn.grouped_attention import GroupedAttention
from jvlm.nn.mlp import Mlp
from jvlm.nn.norms import LayerNorm, RMSNorm


class Shared(struct.PyTreeNode):
    """What every layer of a stack sees alike.

    `mask` [B, 1, T, S] and `local`, the same within a window; `turns` of rotary positions; `bias` [1, H, T, S];
    `at` [] the slot of a cache from which the new tokens are written; `memory` [B, M, D'] for cross-attention, and
    `memory_mask` [B, 1, 1, M]; `segments` [B, T] in place of a mask, where attention is `tiled`. `alone`: the cache
    holds nothing that these tokens could see, only each other; `ordered`: and no mask lets one see what stands after.
    `tail`: of what the stack makes of the tokens only the last one is asked for.
    """

    mask: Leaf = None
    local: Leaf = None
    turns: Leaf = None
    bias: Leaf = None
    at: Leaf = None
    memory: Leaf = None
    memory_mask: Leaf = None
    segments: Leaf = None
    alone: bool = struct.field(pytree_node=False, default=False)
    ordered: bool = struct.field(pytree_node=False, default=False)
    tail: bool = struct.field(pytree_node=False, default=False)


class Layer(struct.PyTreeNode):
    """What one layer sees alone: whether it attends within the window, its part of a cache, its memory.

    `tail`: it returns the last token only, and what all of them add to a cache.
    """

    local: Leaf = None
    past: Leaf = None
    remembered: Leaf = None
    tail: bool = struct.field(pytree_node=False, default=False)


NORMS = {"rms": RMSNorm, "layer": LayerNorm}
PLACES = ("pre", "post", "both")


class DecoderBlock(nn.Module):
    """`x` [B, T, D] through attention (and cross-attention) and an MLP, each with a residual connection.

    `place` says what is normalized: the input of each half (`pre`), the sum after it (`post`), or its input and its
    output before the sum (`both`, Gemma 2). `tiled` and `window`: see `GroupedAttention`. Returns x and what the layer
    adds to a cache.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    scale: float
    act: str = "silu"
    gated: bool = True
    norm: str = "rms"
    norm_offset: float = 0.0
    place: str = "pre"
    eps: float = 1e-6
    cap: float | None = None
    tiled: bool = False
    window: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    cross: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, shared: Shared, layer: Layer, train: bool = False) -> tuple[jax.Array, Fresh]:
        if self.place not in PLACES:
            raise ValueError(f"normalization {self.place!r} is unknown; valid: {', '.join(PLACES)}")
        mask = shared.mask
        if layer.local is not None:
            mask = jnp.where(layer.local, shared.local, shared.mask)
        attn, mlp = self._attention("attn"), self._mlp()

        def attend(y: jax.Array) -> tuple[jax.Array, Fresh | None]:
            past = None if shared.alone else layer.past
            options: dict[str, Any] = dict(segments=shared.segments, ordered=shared.ordered, tail=layer.tail)
            return attn(y, mask, shared.bias, shared.turns, past, shared.at, **options)

        x, fresh = self._half(x, "attn", attend, train)
        assert fresh is not None
        if self.cross:
            cross = self._attention("cross")

            def remember(y: jax.Array) -> tuple[jax.Array, Fresh | None]:
                known = layer.remembered is not None
                return cross(y, shared.memory_mask, memory=shared.memory, past=layer.remembered, remembered=known)

            x, memory = self._half(x, "cross", remember, train)
            if memory is not None:
                fresh = fresh.replace(memory_key=memory.key, memory_value=memory.value)
        x, _ = self._half(x, "mlp", lambda y: (mlp(y), None), train)
        return constrain(x, ("batch", "sequence", None)), fresh

    def _half(self, x: jax.Array, name: str, fn: Any, train: bool) -> tuple[jax.Array, Any]:
        y = x if self.place == "post" else self._norm(f"norm_{name}")(x)
        y, extra = fn(y)
        if self.place == "both":
            y = self._norm(f"norm_{name}_out")(y)
        x = x[:, -y.shape[1] :] + nn.Dropout(self.dropout, deterministic=not train)(y)
        return (self._norm(f"norm_{name}")(x) if self.place == "post" else x), extra

    def _norm(self, name: str) -> nn.Module:
        fields: dict[str, Any] = dict(eps=self.eps, dtype=self.dtype, name=name)
        if self.norm == "rms":
            fields["offset"] = self.norm_offset
        return lookup(NORMS, self.norm, "normalization")(**fields)

    def _attention(self, name: str) -> GroupedAttention:
        return GroupedAttention(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scale=self.scale,
            cap=self.cap,
            tiled=self.tiled,
            window=self.window,
            qkv_bias=self.qkv_bias,
            out_bias=self.out_bias,
            dtype=self.dtype,
            name=name,
        )

    def _mlp(self) -> Mlp:
        return Mlp(self.mlp_dim, act=self.act, gated=self.gated, use_bias=self.mlp_bias, dtype=self.dtype, name="mlp")
