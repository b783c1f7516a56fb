"""Decoder blocks repeated over depth, with a cache: one set of stacked parameters, scanned or unrolled."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.nn.cache import Cache, Fresh, insert
from jvlm.nn.decoder_block import Layer, Shared
from jvlm.nn.layers import by_layer
from jvlm.nn.remat import recomputed, scanned


class DecoderStack(nn.Module):
    """Applies `block` `depth` times; the block takes `(x, shared, layer, train)` and returns x and what is new.

    Parameters lie under `layers`, each with a leading axis [depth] as in `Stack`; unrolled, a tree that `unstack`
    took apart serves as well. `local` tells for each layer whether it attends within the window, None: as one.

    Returns x, unrolled and with `shared.tail` [B, 1, D] of the last token, and the cache with the keys and values of
    all these tokens in it.
    """

    block: Any
    depth: int
    local: tuple[bool, ...] | None = None
    scan: bool = True
    remat: str = "none"

    @nn.compact
    def __call__(
        self, x: jax.Array, shared: Shared, cache: Cache | None = None, train: bool = False
    ) -> tuple[jax.Array, Cache | None]:
        if self.scan or self.is_initializing():
            return self._scanned(x, shared, cache, train)
        return self._unrolled(x, shared, cache, train)

    def _scanned(self, x: jax.Array, shared: Shared, cache: Cache | None, train: bool) -> Any:
        def body(block: Any, carry: Any, xs: Any) -> Any:
            x, key, value = carry
            index, local, remembered = xs
            past = None
            if cache is not None:
                past = tuple(jax.lax.dynamic_index_in_dim(part, index, keepdims=False) for part in (key, value))
            x, fresh = block(x, shared, Layer(local=local, past=past, remembered=remembered), train)
            if cache is not None:
                key, value = (
                    _write(part, tokens, index, shared.at) for part, tokens in ((key, fresh.key), (value, fresh.value))
                )
                fresh = fresh.replace(key=None, value=None)
            return (x, key, value), None if cache is None else fresh

        run = scanned(body, self.depth, self.remat)
        local = None if self.local is None else jnp.asarray(self.local)
        key, value = (None, None) if cache is None else (cache.key, cache.value)
        xs = (jnp.arange(self.depth), local, _remembered(cache))
        (x, key, value), fresh = run(self.block.copy(name="layers"), (x, key, value), xs)
        return x, _merge(cache, fresh, key, value)

    def _unrolled(self, x: jax.Array, shared: Shared, cache: Cache | None, train: bool) -> Any:
        block = self.block.clone(parent=None, name=None)
        params = by_layer(self.variables["params"], self.depth)
        rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}
        news = []
        for index in range(self.depth):
            past = None if cache is None else (cache.key[index], cache.value[index])
            known = _remembered(cache)
            known = None if known is None else (known[0][index], known[1][index])
            # Known before compilation, a choice costs nothing.
            is_local = self.local is not None and self.local[index]
            seen = shared.replace(mask=shared.local) if is_local else shared
            layer = Layer(past=past, remembered=known, tail=shared.tail and index == self.depth - 1)
            keys = {name: jax.random.fold_in(key, index) for name, key in rngs.items()}

            def run(params: Any, x: jax.Array, layer: Layer, seen: Shared, keys: Any = keys) -> Any:
                return block.apply({"params": params}, x, seen, layer, train, rngs=keys)

            x, fresh = recomputed(run, self.remat)(params[index], x, layer, seen)
            if cache is not None and past is not None:
                fresh = fresh.replace(
                    key=insert(past[0], fresh.key, shared.at), value=insert(past[1], fresh.value, shared.at)
                )
            news.append(fresh)
        if cache is None:
            return x, None
        apart = isinstance(cache.key, tuple)
        fresh = jax.tree.map(lambda *leaves: leaves if apart else jnp.stack(leaves), *news)
        return x, _merge(cache, fresh.replace(key=None, value=None), fresh.key, fresh.value)


def _write(stack: jax.Array, tokens: jax.Array, layer: jax.Array, at: Any) -> jax.Array:
    slot = at % stack.shape[-2]
    return jax.lax.dynamic_update_slice(stack, tokens[None].astype(stack.dtype), (layer, 0, 0, slot, 0))


def _remembered(cache: Cache | None) -> tuple[Any, Any] | None:
    return None if cache is None or cache.memory_key is None else (cache.memory_key, cache.memory_value)


def _merge(cache: Cache | None, fresh: Fresh | None, key: Any, value: Any) -> Cache | None:
    if cache is None or fresh is None:
        return None
    memory = {} if fresh.memory_key is None else dict(memory_key=fresh.memory_key, memory_value=fresh.memory_value)
    return cache.replace(key=key, value=value, **memory)
