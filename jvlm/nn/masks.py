"""Attention masks: boolean, True where attention is allowed, broadcastable to [B, heads, queries, keys]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def causal(length: int) -> Bool[Array, "1 1 T T"]:
    """Each position attends to itself and to what precedes it."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def padding(keep: Bool[Array, "B T"]) -> Bool[Array, "B 1 1 T"]:
    """Keys where `keep` is True are visible to every query."""
    return keep[:, None, None, :]


def row(mask: Bool[Array, "#B #H #S T"], at: int | Int[Array, "B"]) -> Bool[Array, "#B #H 1 T"]:
    """The part of a mask that concerns the query at position `at`, one for all or one for each sequence."""
    if mask.shape[2] == 1:
        return mask
    if isinstance(at, int):
        return mask[:, :, at : at + 1]
    mask = jnp.broadcast_to(mask, (at.shape[0], *mask.shape[1:]))
    return jnp.take_along_axis(mask, at[:, None, None, None], axis=2)


def combine(*masks: jax.Array | None) -> jax.Array | None:
    """Logical and of the masks that are given; None when none is."""
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    out = given[0]
    for mask in given[1:]:
        out = out & mask
    return out
