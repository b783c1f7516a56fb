"""Attention masks: boolean, True where attention is allowed, broadcastable to [B, heads, queries, keys]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def causal(length: int) -> Bool[Array, "1 1 T T"]:
    """Each position attends to itself and to what precedes it."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def padding(keep: Bool[Array, "B T"]) -> Bool[Array, "B 1 1 T"]:
    """Keys where `keep` is True are visible to every query."""
    return keep[:, None, None, :]


def combine(*masks: jax.Array | None) -> jax.Array | None:
    """Logical and of the masks that are given; None when none is."""
    given = [mask for mask in masks if mask is not None]
    if not given:
        return None
    out = given[0]
    for mask in given[1:]:
        out = out & mask
    return out
