"""Image-text contrastive losses on whole arrays: the definitions that the blockwise rings are tested against.

Both take N pairs and return a sum and the weight to divide it by.

- Labels: pairs with equal labels are positives of each other (UniCL, arXiv:2204.03610, section 3); without
  labels the only positive of an image is its own text.
- Weights: pair i is *present* when `weights[i] > 0`. An absent pair vanishes: from numerators,
  denominators, positives and the mean, whatever its embeddings hold. A present pair takes part in every
  denominator in full; a fractional weight scales only the losses that the pair itself owns (its row and its
  column) and its share of the mean. Weights are constants: no gradient flows into them.

The formulas are arranged so that automatic differentiation does not subtract nearly equal numbers: for
solved pairs the gradient `p - 1` of the textbook form is rounding noise, here it is exact to float32's
relative precision.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jvlm.core.types import Array
from jvlm.losses.similarity import Similarity, inner_product

MAX_SCALE = 100.0
"""CLIP, arXiv:2103.00020, section 2.5: logits are scaled by at most 100."""

FAR = -1e30
"""Stands for minus infinity where a logit is masked: it vanishes under `exp` and stays finite under
subtraction."""


@jax.custom_jvp
def clipped_scale(log_scale: Float[Array, ""]) -> Float[Array, ""]:
    """`exp(log_scale)`, at most `MAX_SCALE`; what the model multiplies its similarities with, in [0, 100].

    Above the limit the gradient is the one at the limit, so that a parameter that overshot finds its way
    back (a plain minimum would leave it there for ever); keeping the parameter itself below is the
    optimizer's affair.
    """
    return jnp.exp(jnp.minimum(log_scale, math.log(MAX_SCALE)))


@clipped_scale.defjvp
def _clipped_scale_jvp(primals, tangents):
    scale = clipped_scale(*primals)
    return scale, scale * tangents[0]


def softplus(x: jax.Array) -> jax.Array:
    """`log(1 + exp(x))`, with relative precision in value and gradient at both ends."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def zero_absent(z: jax.Array, present: jax.Array) -> jax.Array:
    """`z` [n, ...] with absent rows zero, so that what they hold, even if not finite, reaches no product."""
    return jnp.where(present.reshape(-1, *[1] * (z.ndim - 1)), z, jnp.zeros((), z.dtype))


def softmax_loss(
    zimg: Float[Array, "N *image"],
    ztxt: Float[Array, "N E"],
    scale: Float[Array, ""],
    *,
    labels: Int[Array, "N"] | None = None,
    weights: Float[Array, "N"] | None = None,
    similarity: Similarity = inner_product,
    dot_dtype: Any = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Symmetric InfoNCE (CLIP, arXiv:2103.00020, figure 3) over all N x N pairs; returns (sum, sum of
    weights).

    `zimg`, `ztxt` have unit norm along their last axis, `scale` is `clipped_scale(...)`. With L = scale *
    similarity(zimg, ztxt), image i owes the mean over its positives j of -log softmax(L[i])[j], text j the
    same along its column, and the sum is sum_i weights[i] (image_i + text_i) / 2, in nats.
    """
    zimg, ztxt, positive, negative, weights = _pairs(zimg, ztxt, labels, weights)
    similarities = similarity(zimg, ztxt, dot_dtype)  # [N, N]
    images = _rows(similarities, scale, positive, negative)
    texts = _rows(similarities.T, scale, positive, negative)
    losses = (images + texts) / 2
    return jnp.sum(weights * jnp.where(weights > 0, losses, 0.0)), jnp.sum(weights)


def sigmoid_loss(
    zimg: Float[Array, "N *image"],
    ztxt: Float[Array, "N E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    *,
    labels: Int[Array, "N"] | None = None,
    weights: Float[Array, "N"] | None = None,
    similarity: Similarity = inner_product,
    dot_dtype: Any = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """SigLIP's loss (arXiv:2303.15343, equation 2) over all N x N pairs; returns (sum, sum of weights).

    `zimg`, `ztxt` have unit norm along their last axis, `scale` is `clipped_scale(...)`. With L = scale *
    similarity(zimg, ztxt) + bias and z = +1 for positives, -1 otherwise, a pair of present i, j costs -log
    sigmoid(z L[i, j]), half owned by image i and half by text j: it is multiplied by (weights[i] +
    weights[j]) / 2. Dividing by the sum of weights is the paper's division by the batch.
    """
    zimg, ztxt, positive, negative, weights = _pairs(zimg, ztxt, labels, weights)
    logits = scale * similarity(zimg, ztxt, dot_dtype) + bias  # [N, N]
    losses = softplus(jnp.where(positive, -logits, logits))
    share = (weights[:, None] + weights[None, :]) / 2
    return jnp.sum(jnp.where(positive | negative, share * losses, 0.0)), jnp.sum(weights)


def _pairs(zimg, ztxt, labels, weights):
    """Float32 embeddings with absent rows zeroed, the two masks [N, N], and the weights."""
    count = zimg.shape[0]
    weights = (
        jnp.ones(count, jnp.float32) if weights is None else jax.lax.stop_gradient(jnp.asarray(weights, jnp.float32))
    )
    labels = jnp.arange(count) if labels is None else labels
    present = weights > 0
    both = present[:, None] & present[None, :]
    same = labels[:, None] == labels[None, :]
    zimg, ztxt = (zero_absent(z.astype(jnp.float32), present) for z in (zimg, ztxt))
    return zimg, ztxt, both & same, both & ~same, weights


def _rows(
    similarities: Float[Array, "N N"],
    scale: Float[Array, ""],
    positive: Bool[Array, "N N"],
    negative: Bool[Array, "N N"],
) -> Float[Array, "N"]:
    """Mean over a row's positives of -log softmax, in two terms that do not cancel.

    softplus(lse(negatives) - lse(positives)) raises the positives together above the negatives;
    lse(positives) - mean(positives) spreads the mass evenly among them, and is zero where there is one.
    """
    # The loss does not change with a constant; scaling small differences rounds less than subtracting large logits.
    top = jnp.max(jnp.where(positive | negative, similarities, FAR), axis=1, keepdims=True)
    logits = scale * (similarities - jax.lax.stop_gradient(top))
    count = jnp.maximum(jnp.sum(positive, axis=1), 1)
    positives = jax.nn.logsumexp(jnp.where(positive, logits, FAR), axis=1)
    negatives = jax.nn.logsumexp(jnp.where(negative, logits, FAR), axis=1)
    mean = jnp.sum(jnp.where(positive, logits, 0.0), axis=1) / count
    # Left out where it is zero: its slopes 1 and -1 would round those of the first term before they cancel.
    evenness = jnp.where(count > 1, positives - mean, 0.0)
    return softplus(negatives - positives) + evenness
