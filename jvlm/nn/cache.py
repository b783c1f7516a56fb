"""The keys and values of the tokens seen so far, in arrays of fixed shape."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jvlm.core.types import Leaf


class Cache(struct.PyTreeNode):
    """What a decoder keeps of S tokens for each of B texts.

    `key` and `value` are [L, B, K, S, D] (or tuples of L arrays [B, K, S, D]: a CPU then copies no layer out of the
    stack). What a slot holds is visible by `positions` [B, S] and `keep` [B, S], not by where it lies, so texts may
    start anywhere and a full cache may wrap around. `index` [] counts the slots written. `memory_key` and
    `memory_value` [L, B, K, M, D] with `memory_keep` [B, M] are those of what a decoder cross-attends to.
    """

    key: Leaf
    value: Leaf
    positions: Leaf
    keep: Leaf
    index: Leaf
    memory_key: Leaf = None
    memory_value: Leaf = None
    memory_keep: Leaf = None

    @property
    def length(self) -> int:
        """Number of slots, S."""
        return self.keep.shape[1]


class Fresh(struct.PyTreeNode):
    """What one layer adds: `key` and `value` [B, K, T, D], and those of the memory where it was given."""

    key: Leaf
    value: Leaf
    memory_key: Leaf = None
    memory_value: Leaf = None


def empty(
    depth: int, batch: int, heads: int, length: int, head_dim: int, dtype: Any = jnp.float32, stacked: bool = True
) -> Cache:
    """A cache of `length` slots that holds nothing."""
    shape = (batch, heads, length, head_dim)

    def zeros() -> Any:
        return jnp.zeros((depth, *shape), dtype) if stacked else tuple(jnp.zeros(shape, dtype) for _ in range(depth))

    return Cache(
        key=zeros(),
        value=zeros(),
        positions=jnp.zeros((batch, length), jnp.int32),
        keep=jnp.zeros((batch, length), bool),
        index=jnp.zeros((), jnp.int32),
    )


def insert(into: Float[Array, "B K S D"], tokens: Float[Array, "B K T D"], at: Any) -> Float[Array, "B K S D"]:
    """`into` with `tokens` from slot `at` on; a single token wraps around the end, several must fit before it."""
    return jax.lax.dynamic_update_slice_in_dim(into, tokens.astype(into.dtype), at % into.shape[2], axis=2)


def note(cache: Cache, positions: Int[Array, "B T"], keep: Any) -> Cache:
    """`cache` whose slots from `index` on are those of tokens at `positions`, visible where `keep` [B, T]."""
    at = cache.index % cache.length
    return cache.replace(
        positions=jax.lax.dynamic_update_slice_in_dim(cache.positions, positions.astype(jnp.int32), at, axis=1),
        keep=jax.lax.dynamic_update_slice_in_dim(cache.keep, keep, at, axis=1),
        index=cache.index + positions.shape[1],
    )


def take_rows(cache: Cache, rows: Int[Array, "B"], memory: bool = True) -> Cache:
    """The cache of the texts `rows`, which may repeat. Without `memory`, each row stays with what it remembers."""

    def pick(x: jax.Array, axis: int) -> jax.Array:
        return jnp.take(x, rows, axis=axis)

    def layered(x: Any) -> Any:
        return jax.tree.map(lambda leaf: pick(leaf, leaf.ndim - 4), x)

    cache = cache.replace(
        key=layered(cache.key),
        value=layered(cache.value),
        positions=pick(cache.positions, 0),
        keep=pick(cache.keep, 0),
    )
    if not memory:
        return cache
    return cache.replace(
        memory_key=layered(cache.memory_key),
        memory_value=layered(cache.memory_value),
        memory_keep=None if cache.memory_keep is None else pick(cache.memory_keep, 0),
    )
