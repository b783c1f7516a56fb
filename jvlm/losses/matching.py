"""Does this text belong to this picture: the loss of a matching head."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def matching_loss(
    logits: Float[Array, "N 2"], matches: Float[Array, "N"], weights: Float[Array, "N"]
) -> tuple[Float[Array, ""], Float[Array, ""], Any]:
    """Sum of the cross-entropies in nats, sum of their weights, and weighted number of pairs told right.

    `matches` is 1 where picture and text belong together, else 0 (ALBEF, arXiv:2107.07651, eq. 4). A pair of weight 0
    has no effect.
    """
    belongs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    losses = -(matches * belongs[:, 1] + (1 - matches) * belongs[:, 0])
    right = (logits[:, 1] > logits[:, 0]) == (matches > 0.5)
    kept = weights > 0
    total = jnp.where(kept, losses * weights, 0.0).sum()
    return total, weights.sum(), jnp.where(kept, right * weights, 0.0).sum()
