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


def extended(mask: jax.Array | None, keys: int) -> jax.Array | None:
    """`mask` for that many keys: those it does not know stand before the others and are visible to all."""
    before = 0 if mask is None else keys - mask.shape[-1]
    if mask is None or before <= 0:
        return mask
    return jnp.concatenate([jnp.ones((*mask.shape[:-1], before), bool), mask], axis=-1)


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


def visible(
    queries: Int[Array, "B T"],
    keys: Int[Array, "B S"],
    keep: Bool[Array, "B S"] | None = None,
    window: int | None = None,
    segments: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None = None,
    prefix: Bool[Array, "B S"] | None = None,
) -> Bool[Array, "B 1 T S"]:
    """Which keys each query of a decoder attends to, by the positions of both: those at or before its own.

    `keep` False hides a key (padding, an empty slot of a cache). `window` hides what lies that far back. `segments`
    of queries and keys separate the texts packed into a row, whose positions start again with each; a key of a negative
    segment belongs to all of them. Keys in `prefix` are visible to what precedes them as well.
    """
    back = queries[:, :, None] - keys[:, None, :]
    out = back >= 0
    if prefix is not None:
        out = out | prefix[:, None, :]
    if window is not None:
        out = out & (back < window)
    if segments is not None:
        theirs = segments[1][:, None, :]
        out = out & ((segments[0][:, :, None] == theirs) | (theirs < 0))
    if keep is not None:
        out = out & keep[:, None, :]
    return out[:, None]
