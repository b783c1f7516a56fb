"""The symmetric softmax loss of one device's images with every text of the ring, in two passes.

The first pass keeps for every row, and for every column that travels, the running largest logit and the sums of
exponentials below it; the second computes every block again and turns it into gradients. These functions run on local
arrays inside `jax.shard_map`; `jvlm.losses.ring` is the way in.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jvlm.losses.contrastive import FAR
from jvlm.losses.ring_pairs import Texts, block_similarity, local_pairs, masks
from jvlm.losses.ring_schedule import SUM, Collected, Ring, circulate
from jvlm.losses.similarity import Similarity


class Stats(NamedTuple):
    """Of each row (or column), over the logits seen so far; all [n].

    Positives and negatives are summed apart: of a solved pair, 1 - p is then the negatives' share and not a
    difference of nearly equal numbers.
    """

    peak: jax.Array  # largest logit
    positive: jax.Array  # sum of exp(logit - peak) over positives
    negative: jax.Array  # the same over negatives
    logit: jax.Array  # sum of the positives' logits
    count: jax.Array  # number of positives


class Anchors(NamedTuple):
    """What the second pass needs of a row (or column) to turn a logit into the slope of the loss; all [n]."""

    peak: jax.Array
    factor: jax.Array  # weight / 2, over the sum of exponentials
    share: jax.Array  # mean exponential of the positives
    rest: jax.Array  # the negatives' sum of exponentials, per positive
    several: jax.Array  # 1 if the row has more than one positive


class AnchoredTexts(NamedTuple):
    texts: Texts
    anchors: Anchors


class Gradients(NamedTuple):
    """Slopes of the loss sum: `zimg`, `ztxt` still lack the factor `scale`, which is summed over the ring."""

    zimg: jax.Array
    ztxt: jax.Array
    scale: jax.Array


def softmax_value(
    ring: Ring, similarity: Similarity, dot_dtype, zimg, ztxt, scale, labels, weights
) -> tuple[jax.Array, Stats, Stats]:
    """Loss sum over the ring, and the statistics of this device's rows (images) and columns (texts)."""
    images, texts = local_pairs(ring, zimg, ztxt, labels, weights, dot_dtype)

    def visit(rows, texts):
        similarities, _ = block_similarity(similarity, images, texts, dot_dtype)
        positive, negative = masks(images, texts)
        logits = scale * similarities
        return merge(rows, _stats(logits, positive, negative, 1)), _stats(logits, positive, negative, 0)

    rows, columns = circulate(ring, texts, _nothing(weights.shape), visit, STATS)
    losses = (_losses(rows) + _losses(columns)) / 2
    return ring.total(jnp.sum(jnp.where(weights > 0, weights * losses, 0.0))), rows, columns


def softmax_gradients(
    ring: Ring,
    similarity: Similarity,
    dot_dtype,
    zimg,
    ztxt,
    scale,
    labels,
    weights,
    rows: Stats,
    columns: Stats,
) -> Gradients:
    """Gradients of the loss sum from the statistics of the first pass; three products of a block."""
    images, texts = local_pairs(ring, zimg, ztxt, labels, weights, dot_dtype)
    row_anchors = jax.tree.map(lambda x: x[:, None], _anchors(rows, weights))

    def visit(state, block):
        dscale, dimg = state
        texts, anchors = block
        similarities, pull = block_similarity(similarity, images, texts, dot_dtype)
        positive, negative = masks(images, texts)
        logits = jnp.where(positive | negative, scale * similarities, FAR)
        column_anchors = jax.tree.map(lambda x: x[None, :], anchors)
        slopes = _slopes(logits, positive, row_anchors) + _slopes(logits, positive, column_anchors)
        slopes = jnp.where(positive | negative, slopes, 0.0)  # [n, m]
        dimg_block, dtxt_block = pull(slopes)
        return (dscale + jnp.sum(slopes * similarities, axis=1), dimg + dimg_block), dtxt_block

    state = (jnp.zeros(weights.shape), jnp.zeros(zimg.shape))
    anchored = AnchoredTexts(texts, _anchors(columns, weights))
    (dscale, dimg), dtxt = circulate(ring, anchored, state, visit, SUM)
    return Gradients(dimg, dtxt, ring.total(jnp.sum(dscale)))


def merge(a: Stats, b: Stats) -> Stats:
    """Statistics over the logits of both; the peak is a running maximum, so nothing overflows at any scale."""
    peak = jnp.maximum(a.peak, b.peak)
    fall_a, fall_b = jnp.exp(a.peak - peak), jnp.exp(b.peak - peak)
    return Stats(
        peak,
        a.positive * fall_a + b.positive * fall_b,
        a.negative * fall_a + b.negative * fall_b,
        a.logit + b.logit,
        a.count + b.count,
    )


def _nothing(shape: tuple[int, ...]) -> Stats:
    zeros = jnp.zeros(shape)
    return Stats(zeros + FAR, zeros, zeros, zeros, zeros)


def _across(ring: Ring, stats: Stats) -> Stats:
    """Neighbours' statistics of their gathered texts, merged; each keeps its own texts."""
    peak = ring.neighbours_max(stats.peak)
    fall = jnp.exp(stats.peak - peak)
    positive, negative, logit, count = (
        ring.scatter_sum(x) for x in (stats.positive * fall, stats.negative * fall, stats.logit, stats.count)
    )
    return Stats(ring.own(peak), positive, negative, logit, count)


STATS = Collected(neutral=lambda shapes: _nothing(shapes.peak.shape), merge=merge, across=_across)


def _stats(logits: jax.Array, positive: jax.Array, negative: jax.Array, axis: int) -> Stats:
    """Statistics of a block along an axis; a line without any present pair has peak FAR and sums 0."""
    peak = jnp.max(jnp.where(positive | negative, logits, FAR), axis=axis)
    powers = jnp.exp(logits - jnp.expand_dims(peak, axis))
    return Stats(
        peak,
        jnp.sum(jnp.where(positive, powers, 0.0), axis=axis),
        jnp.sum(jnp.where(negative, powers, 0.0), axis=axis),
        jnp.sum(jnp.where(positive, logits, 0.0), axis=axis),
        jnp.sum(positive, axis=axis, dtype=jnp.float32),
    )


def _losses(stats: Stats) -> jax.Array:
    """Mean over the positives of -log softmax, [n]; meaningless for absent rows."""
    total = stats.positive + stats.negative
    # The difference first: of a solved pair it is exactly zero.
    return (stats.peak - stats.logit / jnp.maximum(stats.count, 1.0)) + jnp.log(jnp.maximum(total, 1e-30))


def _anchors(stats: Stats, weights: jax.Array) -> Anchors:
    total = stats.positive + stats.negative
    factor = jnp.where(weights > 0, weights / 2 / jnp.where(weights > 0, total, 1.0), 0.0)
    count = jnp.maximum(stats.count, 1.0)
    several = (stats.count > 1).astype(jnp.float32)
    return Anchors(stats.peak, factor, stats.positive / count, stats.negative / count, several)


def _slopes(logits: jax.Array, positive: jax.Array, line: Anchors) -> jax.Array:
    """Slope of the loss of each pair's row (or column) with respect to its logit: p - [positive] / count.

    For a positive, p - 1 / count = (e - mean of the positives' e - negatives' e / count) / sum of e, whose first
    difference is exactly zero, and left out, where it is the only one.
    """
    power = jnp.exp(logits - line.peak)
    attract = line.several * (power - line.share) - line.rest
    return line.factor * jnp.where(positive, attract, power)
