"""Where the tokens of a decoder's call stand and what they see, with a cache or without."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jvlm.nn import masks
from jvlm.nn.cache import Cache, note


class View(NamedTuple):
    """`mask` and `local` (within the window; None where no layer asks for it) [B, 1, T, S]; `at` [], the slot of the
    first new token; the cache with the new tokens noted in it.
    """

    mask: jax.Array | None = None
    local: jax.Array | None = None
    at: jax.Array | None = None
    cache: Cache | None = None


def token_positions(
    shape: tuple[int, ...], positions: jax.Array | None, mask: jax.Array | None, cache: Cache | None
) -> jax.Array:
    """`positions` as [B, T]; where they are None, those of what is not padding, after what the cache holds."""
    if positions is None:
        count = jnp.arange(shape[1])[None] if mask is None else jnp.cumsum(mask, axis=1) - 1
        seen = 0 if cache is None else jnp.where(cache.keep, cache.positions + 1, 0).max(1, keepdims=True)
        positions = jnp.maximum(count, 0) + seen
    return jnp.broadcast_to(positions, shape).astype(jnp.int32)


def view(
    positions: jax.Array,
    mask: jax.Array | None = None,
    segments: jax.Array | None = None,
    prefix: jax.Array | None = None,
    cache: Cache | None = None,
    window: int | None = None,
    by_layer: bool = False,
    learned: int = 0,
    alone: bool = False,
) -> View:
    """What tokens at `positions` [B, T] see of each other and of the cache.

    `mask` [B, T] is False for padding, `segments` [B, T] number packed texts, tokens of `prefix` [B, T] are seen also
    by what precedes them. `by_layer` gives the mask with the `window` beside the one without. The first `learned` keys
    are those of a prefix, at the positions before the tokens'. `alone`: the cache is empty, and the tokens see each
    other only: S is T.
    """
    at, keys, keep = None, positions, None if mask is None else mask.astype(bool)
    if cache is not None:
        if segments is not None:
            raise ValueError("packed rows take no cache: decode one text a row")
        at = cache.index
        cache = note(cache, positions, jnp.ones(positions.shape, bool) if keep is None else keep)
        if not alone:
            keys, keep = cache.positions, cache.keep
            if prefix is not None:
                start = jnp.zeros(keep.shape, bool)
                prefix = jax.lax.dynamic_update_slice_in_dim(start, prefix.astype(bool), at, axis=1)
    packed = None if segments is None else (segments, segments)

    def visible(window: int | None) -> jax.Array:
        own = masks.visible(positions, keys, keep, window, packed, prefix)
        if not learned:
            return own
        before = jnp.broadcast_to(jnp.arange(learned), (positions.shape[0], learned))
        return jnp.concatenate([masks.visible(positions + learned, before, window=window), own], axis=-1)

    return View(visible(None if by_layer else window), visible(window) if by_layer else None, at, cache)
