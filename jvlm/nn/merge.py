"""Image features into the places that a text keeps for them, with static shapes."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NEWLINE, TEXT = -1, -2
"""Places that take the vector which ends a line of patches, and none at all."""


def feature_places(wanted: Bool[Array, "B T"], keep: Any, per_image: int) -> Int[Array, "B T"]:
    """Which of a row's features, flattened over its pictures, each place takes; TEXT for what takes none.

    `wanted` [B, T] marks the places, filled in order. Pictures where `keep` [B, M] is False (None: all are there) are
    passed over. A place for which no feature is left takes none.
    """
    rank = jnp.cumsum(wanted, axis=1) - 1
    if keep is None:
        return jnp.where(wanted, rank, TEXT)
    order = jnp.argsort(~keep, axis=1, stable=True)  # pictures that are there, then those that are not
    nth, within = jnp.maximum(rank, 0) // per_image, jnp.maximum(rank, 0) % per_image
    image = jnp.take_along_axis(order, jnp.minimum(nth, keep.shape[1] - 1), axis=1)
    return jnp.where(wanted & (nth < keep.sum(1, keepdims=True)), image * per_image + within, TEXT)


def merge_image_features(
    embeddings: Float[Array, "B T D"], features: Float[Array, "B S D"], places: Int[Array, "B T"], newline: Any = None
) -> Float[Array, "B T D"]:
    """`embeddings` of tokens with `features[places]` where a place is one of the S features of its row.

    `newline` [D] stands where a place is NEWLINE.
    """
    taken = (places >= 0) & (places < features.shape[1])
    at = jnp.clip(places, 0, features.shape[1] - 1)[:, :, None]
    merged = jnp.take_along_axis(features.astype(embeddings.dtype), at, axis=1)
    merged = jnp.where(taken[:, :, None], merged, embeddings)
    if newline is None:
        return merged
    return jnp.where((places == NEWLINE)[:, :, None], newline.astype(embeddings.dtype), merged)
