"""The symmetric softmax loss of one device's images with every text of the ring, in two passes.

The first pass keeps for every row, and for every column that travels, the largest similarity so far and the sums of
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
    """Of each row (or column), over the similarities seen so far; all [n]. `power` is exp(scale (similarity - peak)).

    Positives and negatives are summed apart: of a solved pair, 1 - p is then the negatives' share and not a
    difference of nearly equal numbers.
    """

    peak: jax.Array  # largest similarity
    positive: jax.Array  # sum of powers over positives
    negative: jax.Array  # sum of powers over negatives
    similarity: jax.Array  # sum of the positives' similarities
    count: jax.Array  # number of positives


class Anchors(NamedTuple):
    """What the second pass needs of a row (or column) to turn a similarity into the slope of the loss; all [n]."""

    peak: jax.Array
    factor: jax.Array  # weight / 2, over the sum of powers
    share: jax.Array  # mean power of the positives
    rest: jax.Array  # the negatives' sum of powers, per positive
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
        row, column = (_stats(similarities, scale, positive, negative, axis) for axis in (1, 0))
        return merge(rows, row, scale), column

    collected = Collected(
        neutral=lambda shapes: _nothing(shapes.peak.shape),
        merge=lambda a, b: merge(a, b, scale),
        across=lambda ring, stats: _across(ring, stats, scale),
    )
    rows, columns = circulate(ring, texts, _nothing(weights.shape), visit, collected)
    losses = (_losses(rows, scale) + _losses(columns, scale)) / 2
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
        column_anchors = jax.tree.map(lambda x: x[None, :], anchors)
        slopes = _slopes(similarities, scale, positive, row_anchors)
        slopes += _slopes(similarities, scale, positive, column_anchors)
        slopes = jnp.where(positive | negative, slopes, 0.0)  # [n, m]
        dimg_block, dtxt_block = pull(slopes)
        return (dscale + jnp.sum(slopes * similarities, axis=1), dimg + dimg_block), dtxt_block

    state = (jnp.zeros(weights.shape, jnp.float32), jnp.zeros(zimg.shape, jnp.float32))
    anchored = AnchoredTexts(texts, _anchors(columns, weights))
    (dscale, dimg), dtxt = circulate(ring, anchored, state, visit, SUM)
    return Gradients(dimg, dtxt, ring.total(jnp.sum(dscale)))


def merge(a: Stats, b: Stats, scale: jax.Array) -> Stats:
    """Statistics over the pairs of both; the peak is a running maximum, so nothing overflows at any scale >= 0."""
    peak = jnp.maximum(a.peak, b.peak)
    fall_a, fall_b = (jnp.exp(scale * (x.peak - peak)) for x in (a, b))
    return Stats(
        peak,
        a.positive * fall_a + b.positive * fall_b,
        a.negative * fall_a + b.negative * fall_b,
        a.similarity + b.similarity,
        a.count + b.count,
    )


def _nothing(shape: tuple[int, ...]) -> Stats:
    zeros = jnp.zeros(shape, jnp.float32)
    return Stats(zeros + FAR, zeros, zeros, zeros, zeros)


def _across(ring: Ring, stats: Stats, scale: jax.Array) -> Stats:
    """Neighbours' statistics of their gathered texts, merged; each keeps its own texts."""
    peak = ring.neighbours_max(stats.peak)
    fall = jnp.exp(scale * (stats.peak - peak))
    positive, negative, similarity, count = (
        ring.scatter_sum(x) for x in (stats.positive * fall, stats.negative * fall, stats.similarity, stats.count)
    )
    return Stats(ring.own(peak), positive, negative, similarity, count)


def _stats(similarities: jax.Array, scale: jax.Array, positive: jax.Array, negative: jax.Array, axis: int) -> Stats:
    """Statistics of a block along an axis; a line without any present pair has peak FAR and sums 0."""
    peak = jnp.max(jnp.where(positive | negative, similarities, FAR), axis=axis)
    powers = jnp.exp(scale * (similarities - jnp.expand_dims(peak, axis)))
    return Stats(
        peak,
        jnp.sum(jnp.where(positive, powers, 0.0), axis=axis),
        jnp.sum(jnp.where(negative, powers, 0.0), axis=axis),
        jnp.sum(jnp.where(positive, similarities, 0.0), axis=axis),
        jnp.sum(positive, axis=axis, dtype=jnp.float32),
    )


def _losses(stats: Stats, scale: jax.Array) -> jax.Array:
    """Mean over the positives of -log softmax, [n]; meaningless for absent rows."""
    total = stats.positive + stats.negative
    # The difference first: of a solved pair it is exactly zero.
    below = stats.peak - stats.similarity / jnp.maximum(stats.count, 1.0)
    return scale * below + jnp.log(jnp.maximum(total, 1e-30))


def _anchors(stats: Stats, weights: jax.Array) -> Anchors:
    total = stats.positive + stats.negative
    factor = jnp.where(weights > 0, weights / 2 / jnp.where(weights > 0, total, 1.0), 0.0)
    count = jnp.maximum(stats.count, 1.0)
    several = (stats.count > 1).astype(jnp.float32)
    return Anchors(stats.peak, factor, stats.positive / count, stats.negative / count, several)


def _slopes(similarities: jax.Array, scale: jax.Array, positive: jax.Array, line: Anchors) -> jax.Array:
    """Slope of the loss of each pair's row (or column) with respect to its logit: p - [positive] / count.

    For a positive, p - 1 / count is (power - mean power of the positives - sum of the negatives' / count) over the sum
    of powers; the first difference is exactly zero, and left out, where the positive is the only one.
    """
    powers = jnp.exp(scale * (similarities - line.peak))
    attract = line.several * (powers - line.share) - line.rest
    return line.factor * jnp.where(positive, attract, powers)
