"""What a device needs of its pairs to take part in a ring, and the slopes that go back through a similarity."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jvlm.losses.contrastive import zero_absent
from jvlm.losses.ring_schedule import Ring
from jvlm.losses.similarity import Similarity


class Images(NamedTuple):
    """This device's images, which stay: `z` [n, ...] in the products' dtype."""

    z: jax.Array
    label: jax.Array
    weight: jax.Array


class Texts(NamedTuple):
    """A block of texts, which travels: `z` [m, E] in the products' dtype; all zeros is an absent text."""

    z: jax.Array
    label: jax.Array
    weight: jax.Array


def local_pairs(ring: Ring, zimg, ztxt, labels, weights, dot_dtype) -> tuple[Images, Texts]:
    """The device's pairs with absent rows zeroed; without labels every pair is labelled by its global place."""
    dtype = jnp.float32 if dot_dtype is None else dot_dtype
    if labels is None:
        labels = ring.index() * weights.shape[0] + jnp.arange(weights.shape[0], dtype=jnp.int32)
    present = weights > 0

    # The cast comes first, so that no float32 copy of the embeddings is left behind.
    zimg, ztxt = (zero_absent(z.astype(dtype), present) for z in (zimg, ztxt))
    return Images(zimg, labels, weights), Texts(ztxt, labels, weights)


def masks(images: Images, texts: Texts) -> tuple[jax.Array, jax.Array]:
    """Which pairs of a block attract and which repel, [n, m] each; an absent sample does neither."""
    both = (images.weight > 0)[:, None] & (texts.weight > 0)[None, :]
    same = images.label[:, None] == texts.label[None, :]
    return both & same, both & ~same


def block_similarity(similarity: Similarity, images: Images, texts: Texts, dot_dtype) -> tuple[jax.Array, Any]:
    """Similarities [n, m] of a block and the function from their slopes to float32 gradients of both embeddings."""
    zimg, ztxt = (z.astype(jnp.float32) for z in (images.z, texts.z))
    return jax.vjp(lambda a, b: similarity(a, b, dot_dtype), zimg, ztxt)
