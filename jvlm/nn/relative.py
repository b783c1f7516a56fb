"""A bias on attention logits by the distance of two tokens, in buckets (T5)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Int


def buckets(distance: Int[Array, "..."], num_buckets: int, max_distance: int, bidirectional: bool) -> Int[Array, "..."]:
    """The bucket of each `distance` (key minus query): one each nearby, growing with the logarithm further away.

    Raffel et al., arXiv:1910.10683, section 2.1. Without `bidirectional` what follows a query shares the first bucket.
    """
    offset = jnp.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(distance > 0, num_buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = num_buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    far = jnp.minimum(exact + (ratio * (num_buckets - exact)).astype(jnp.int32), num_buckets - 1)
    return offset + jnp.where(distance < exact, distance, far)
