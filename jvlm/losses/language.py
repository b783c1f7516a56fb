"""The loss of a language model, over chunks of positions: the logits of all of them never exist at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def next_token(
    tokens: Int[Array, "B T"], answer: Any = None, segments: Any = None, weight: Any = None
) -> tuple[Int[Array, "B T"], Float[Array, "B T"]]:
    """What each position is to predict, the token after it, and the weight of that.

    Only tokens where `answer` [B, T] is True are learnt (None: all); never across `segments` [B, T], nor what is 0
    there, padding. `weight` [B] is that of a row.
    """
    targets = jnp.roll(tokens, -1, axis=1)
    learnt = jnp.ones(tokens.shape, bool) if answer is None else jnp.roll(answer.astype(bool), -1, axis=1)
    learnt = learnt.at[:, -1].set(False)
    if segments is not None:
        learnt = learnt & (jnp.roll(segments, -1, axis=1) == segments) & (segments > 0)
    weights = learnt.astype(jnp.float32)
    return targets, weights if weight is None else weights * weight[:, None].astype(jnp.float32)


def language_loss(
    logits_of: Callable[[jax.Array], jax.Array],
    hidden: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    chunk: int = 256,
    smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Sum of the cross-entropies in nats, sum of their weights, and weighted number of right first choices.

    `logits_of` turns [B, n, D] into logits [B, n, V]; at most `chunk` positions of each row at a time, computed again
    in the backward pass. A position of weight 0 has no effect, whatever its logits. `smoothing` moves that part of the
    target's probability to all tokens alike (arXiv:1512.00567, section 7).
    """
    length = hidden.shape[1]
    count = -(-length // min(chunk, length))
    size = -(-length // count)

    def chunks(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), (0, count * size - length)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(padded.reshape(x.shape[0], count, size, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(total: tuple[jax.Array, jax.Array], part: tuple[jax.Array, ...]) -> tuple[Any, None]:
        x, target, weight = part
        logits = logits_of(x).astype(jnp.float32)  # [B, n, V]
        at = jnp.arange(logits.shape[-1]) == target[..., None]
        # A sum over a comparison, since picking from a vocabulary that is spread over devices would gather it.
        right = jnp.where(at, logits, 0.0).sum(-1)
        losses = jax.nn.logsumexp(logits, axis=-1) - (1 - smoothing) * right
        if smoothing:
            losses = losses - smoothing * logits.mean(-1)
        losses = jnp.where(weight > 0, losses * weight, 0.0)
        hits = jnp.where(weight > 0, (jnp.argmax(logits, -1) == target) * weight, 0.0)
        return (total[0] + losses.sum(), total[1] + hits.sum()), None

    zero = jnp.zeros((), jnp.float32)
    (total, hits), _ = jax.lax.scan(one, (zero, zero), tuple(map(chunks, (hidden, targets, weights))))
    return total, weights.sum(), hits
