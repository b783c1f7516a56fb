"""Watches the loss: a step whose loss or gradient is not finite, or spikes, must not change anything."""

import jax
import jax.numpy as jnp
from flax import struct

from jvlm.core.types import Leaf


class Guard(struct.PyTreeNode):
    """The last accepted losses (`losses` [W], `seen` of them so far) and counts of skipped steps."""

    losses: Leaf
    seen: Leaf
    skipped: Leaf
    skipped_in_row: Leaf

    @classmethod
    def create(cls, window: int) -> "Guard":
        """An empty window of `window` losses."""
        zero = jnp.zeros((), jnp.int32)
        return cls(losses=jnp.zeros((window,), jnp.float32), seen=zero, skipped=zero, skipped_in_row=zero)

    def accepts(self, loss: jax.Array, grad_norm: jax.Array, sigmas: float = 6.0) -> jax.Array:
        """Whether to apply the update: finite, and not over `sigmas` deviations above the window's mean.

        Spikes are judged once the window is full: the first losses of a run fall too fast for a deviation to mean
        anything.
        """
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        limit = self.losses.mean() + sigmas * self.losses.std()
        return finite & ((self.seen < self.losses.size) | (loss <= limit))

    def record(self, loss: jax.Array, accepted: jax.Array) -> "Guard":
        """The guard after a step: an accepted loss enters the window, a refused one is counted."""
        slot = self.seen % self.losses.size
        losses = self.losses.at[slot].set(jnp.where(accepted, loss, self.losses[slot]))
        refused = (~accepted).astype(jnp.int32)
        return Guard(
            losses=losses,
            seen=self.seen + accepted.astype(jnp.int32),
            skipped=self.skipped + refused,
            skipped_in_row=(self.skipped_in_row + refused) * refused,
        )
