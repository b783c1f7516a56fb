"""The sigmoid loss of one device's images with every text of the ring; loss and gradients in a single pass.

These functions run on local arrays inside `jax.shard_map`; `jvlm.losses.ring` is the way in.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jvlm.losses.contrastive import softplus
from jvlm.losses.ring_pairs import Images, Texts, block_similarity, local_pairs, masks
from jvlm.losses.ring_schedule import SUM, Ring, circulate
from jvlm.losses.similarity import Similarity


class Gradients(NamedTuple):
    """Slopes of the loss sum: `zimg`, `ztxt` still lack the factor `scale`; the scalars are summed over the ring."""

    zimg: jax.Array
    ztxt: jax.Array
    scale: jax.Array
    bias: jax.Array


def sigmoid_value(ring: Ring, similarity: Similarity, dot_dtype, zimg, ztxt, scale, bias, labels, weights) -> jax.Array:
    """Loss sum over the ring, without gradients."""
    images, texts = local_pairs(ring, zimg, ztxt, labels, weights, dot_dtype)

    def visit(losses, texts):
        similarities, _ = block_similarity(similarity, images, texts, dot_dtype)
        sign, share = _signs(images, texts)
        return losses + jnp.sum(share * softplus(sign * (scale * similarities + bias)), axis=1), None

    losses, _ = circulate(ring, texts, jnp.zeros(weights.shape, jnp.float32), visit, collected=None)
    return ring.total(jnp.sum(losses))


def sigmoid_value_and_gradients(
    ring: Ring, similarity: Similarity, dot_dtype, zimg, ztxt, scale, bias, labels, weights
) -> tuple[jax.Array, Gradients]:
    """Loss sum over the ring and its gradients: three products of a block, none of them repeated."""
    images, texts = local_pairs(ring, zimg, ztxt, labels, weights, dot_dtype)

    def visit(state, texts):
        losses, dscale, dbias, dimg = state
        similarities, pull = block_similarity(similarity, images, texts, dot_dtype)
        sign, share = _signs(images, texts)
        x = sign * (scale * similarities + bias)
        decay = jnp.exp(-jnp.abs(x))
        slopes = share * sign * jnp.where(x >= 0, 1.0, decay) / (1.0 + decay)  # [n, m]
        dimg_block, dtxt_block = pull(slopes)
        losses += jnp.sum(share * (jnp.maximum(x, 0.0) + jnp.log1p(decay)), axis=1)
        dscale += jnp.sum(slopes * similarities, axis=1)
        dbias += jnp.sum(slopes, axis=1)
        return (losses, dscale, dbias, dimg + dimg_block), dtxt_block

    zeros = jnp.zeros(weights.shape, jnp.float32)
    state = (zeros, zeros, zeros, jnp.zeros(zimg.shape, jnp.float32))
    (losses, dscale, dbias, dimg), dtxt = circulate(ring, texts, state, visit, SUM)
    loss, dscale, dbias = (ring.total(jnp.sum(x)) for x in (losses, dscale, dbias))
    return loss, Gradients(dimg, dtxt, dscale, dbias)


def _signs(images: Images, texts: Texts) -> tuple[jax.Array, jax.Array]:
    """-1 where a pair attracts and 1 where it repels, and what share of its loss counts, [n, m] each."""
    positive, negative = masks(images, texts)
    share = (images.weight[:, None] + texts.weight[None, :]) / 2
    return jnp.where(positive, -1.0, 1.0), jnp.where(positive | negative, share, 0.0)
