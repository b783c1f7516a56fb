"""Gated cross-attention: what a frozen language model is told about pictures, from nothing at first."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.sharding import constrain
from jvlm.nn.axes import named
from jvlm.nn.cache import Fresh, insert
from jvlm.nn.decoder_block import Layer, Shared
from jvlm.nn.dense import Dense
from jvlm.nn.grouped_attention import grouped_attention
from jvlm.nn.layers import at_layer
from jvlm.nn.mlp import Mlp
from jvlm.nn.norms import RMSNorm
from jvlm.nn.remat import recomputed, scanned


class GatedCross(nn.Module):
    """`x` [B, T, D] plus tanh(gate) of what it reads in `memory` [B, S, D'], then plus tanh(gate) of an MLP.

    Flamingo's GATED XATTN-DENSE (arXiv:2204.14198, section 2.2): with gates at zero, x itself. `vector` has a gate for
    each channel. `mask` [B, 1, T, S]; a token that sees nothing reads nothing.
    """

    num_heads: int
    head_dim: int
    mlp_dim: int
    act: str = "silu"
    gated: bool = True
    qk_norm: bool = False
    vector: bool = False
    eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, memory: jax.Array | None, mask: jax.Array, past: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, Fresh]:
        """`past` are the keys and values of an earlier call's memory, which is then not needed."""
        y = RMSNorm(self.eps, dtype=self.dtype, name="norm_cross")(x)
        query = self._heads(y, "query")
        if past is None:
            assert memory is not None
            key, value = (self._heads(memory, name).swapaxes(1, 2) for name in ("key", "value"))  # [B, H, S, d]
            if self.qk_norm:
                key = RMSNorm(self.eps, dtype=self.dtype, name="norm_key")(key)
        else:
            key, value = past
        if self.qk_norm:
            query = RMSNorm(self.eps, dtype=self.dtype, name="norm_query")(query)
        y = grouped_attention(query, key, value, mask, scale=self.head_dim**-0.5)
        y = y.reshape(*x.shape[:2], self.num_heads * self.head_dim)
        y = Dense(x.shape[-1], axes=("heads", "embed"), use_bias=False, dtype=self.dtype, name="out")(y)
        x = x + self._gate("gate_cross", x) * jnp.where(mask.any(-1)[:, 0, :, None], y, 0)
        mlp = Mlp(self.mlp_dim, act=self.act, gated=self.gated, use_bias=False, dtype=self.dtype, name="mlp")
        x = x + self._gate("gate_mlp", x) * mlp(RMSNorm(self.eps, dtype=self.dtype, name="norm_mlp")(x))
        x = constrain(x, ("batch", "sequence", None))
        return x, Fresh(key=None, value=None, memory_key=key, memory_value=value)

    def _heads(self, x: jax.Array, name: str) -> jax.Array:
        dense = Dense(
            self.num_heads * self.head_dim, axes=("embed", "heads"), use_bias=False, dtype=self.dtype, name=name
        )
        return dense(x).reshape(*x.shape[:2], self.num_heads, self.head_dim)

    def _gate(self, name: str, x: jax.Array) -> jax.Array:
        width = x.shape[-1] if self.vector else 1
        init = named(nn.initializers.zeros_init(), ("embed" if self.vector else None,))
        return jnp.tanh(self.param(name, init, (width,), jnp.float32)).astype(self.dtype)


class Gates(nn.Module):
    """The parameters of `count` blocks, stacked under `layers`; `interleave` applies them."""

    block: GatedCross
    count: int

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array, mask: Any) -> jax.Array:
        def body(block: Any, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(x, memory, mask)[0], None

        return scanned(body, self.count, "none")(self.block.copy(name="layers"), x, None)[0]


def interleave(
    gates: Gates,
    stack: Any,
    every: int,
    x: jax.Array,
    shared: Shared,
    cache: Any,
    train: bool,
    memory: jax.Array | None,
    mask: jax.Array,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """The blocks of a `DecoderStack` with a gate before every `every`-th, the first one included.

    Returns x and the cache with these tokens, and with the gates' keys and values of `memory` [B, S, D'] where it is
    given; without, the cache's own are read. `key` is that of dropout.
    """
    block, gate = stack.block.clone(parent=None, name=None), gates.block.clone(parent=None, name=None)
    params, gate_params = stack.variables["params"], gates.variables["params"]

    def group(x: jax.Array, gate_p: Any, layers: Sequence[Any], known: Any, first: Any) -> tuple[jax.Array, Any, Any]:
        past = None if memory is not None or known is None else known
        x, told = gate.apply({"params": gate_p}, x, memory, mask, past)
        news = []
        for index, (layer_p, past) in enumerate(layers):
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, first + index)}
            x, fresh = block.apply({"params": layer_p}, x, shared, Layer(past=past), train, rngs=rngs)
            news.append(fresh)
        return x, told, news

    group = recomputed(group, stack.remat)
    if cache is None and stack.scan and stack.depth % every == 0 and "layers" in params:

        def body(x: jax.Array, item: Any) -> tuple[jax.Array, None]:
            gate_p, layers, first = item
            parts = [(jax.tree.map(lambda leaf, i=index: leaf[i], layers), None) for index in range(every)]
            return group(x, gate_p, parts, None, first)[0], None

        grouped = jax.tree.map(lambda leaf: leaf.reshape(-1, every, *leaf.shape[1:]), params["layers"])
        firsts = jnp.arange(0, stack.depth, every)
        return jax.lax.scan(body, x, (gate_params["layers"], grouped, firsts))[0], None

    told, keys, values = [], [], []
    for number, first in enumerate(range(0, stack.depth, every)):
        span = range(first, min(first + every, stack.depth))
        pasts = [None if cache is None else (cache.key[index], cache.value[index]) for index in span]
        layers = [(at_layer(params, index), past) for index, past in zip(span, pasts, strict=True)]
        known = (
            None
            if cache is None or cache.memory_key is None
            else (cache.memory_key[number], cache.memory_value[number])
        )
        x, fresh, news = group(x, at_layer(gate_params, number), layers, known, first)
        told.append(fresh)
        for past, new in zip(pasts, news, strict=True):
            if past is not None:
                keys.append(insert(past[0], new.key, shared.at))
                values.append(insert(past[1], new.value, shared.at))
    if cache is None:
        return x, None

    def joined(parts: list[Any]) -> Any:
        return tuple(parts) if isinstance(cache.key, tuple) else jnp.stack(parts)

    memory_key, memory_value = ([getattr(fresh, name) for fresh in told] for name in ("memory_key", "memory_value"))
    return x, cache.replace(
        key=joined(keys), value=joined(values), memory_key=joined(memory_key), memory_value=joined(memory_value)
    )
