"""Hard negatives drawn from the whole batch by similarity, without a row of logits on any device.

Matching losses (ALBEF, BLIP, BLIP-2) contrast each image with a text that is wrong but similar, and each text with such
an image. A draw from a softmax is the argmax of its logits plus Gumbel noise, so the draws are a running maximum over
the blocks of the ring in `jvlm.losses.ring`. The noise of a pair is a hash of the two global places: the draws do not
depend on how the batch is spread.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Float, Int

from jvlm.core.sharding import BATCH_AXES
from jvlm.core.types import Array
from jvlm.losses.ring import make_ring
from jvlm.losses.ring_pairs import Texts, local_pairs, masks
from jvlm.losses.ring_schedule import Collected, Ring, circulate
from jvlm.losses.ring_vjp import SAME
from jvlm.losses.similarity import Similarity, inner_product


class Draw(NamedTuple):
    """The best candidate of each row (or column) so far: its noisy logit and its global place, -1 for none; [n]."""

    score: jax.Array
    place: jax.Array


class PlacedTexts(NamedTuple):
    texts: Texts
    place: jax.Array


def hard_negatives(
    key: jax.Array,
    zimg: Float[Array, "N *image"],
    ztxt: Float[Array, "N E"],
    scale: Float[Array, ""],
    labels: Int[Array, "N"] | None = None,
    weights: Float[Array, "N"] | None = None,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    axes: tuple[str, ...] = BATCH_AXES,
    neighbourhood: str | int = 1,
    similarity: Similarity = inner_product,
    dot_dtype: Any = None,
    block: int | None = None,
) -> tuple[Int[Array, "N"], Int[Array, "N"]]:
    """Global places of a text for every image and of an image for every text, both [N] int32.

    A negative j of i is drawn with probability proportional to exp(scale * similarity(i, j)) among the pairs of another
    label (ALBEF, arXiv:2107.07651, section 3.2); samples of weight 0 are neither given one nor drawn. -1 stands where a
    batch holds no negative. `key` is a typed key; no gradient flows. Other arguments as in
    `contrastive_loss`; neighbourhoods of more than one device are its two-level form.
    """
    weights = jnp.ones(ztxt.shape[0], jnp.float32) if weights is None else jnp.asarray(weights, jnp.float32)
    names = tuple(a for a in axes if mesh is not None and a in mesh.shape)
    ring = make_ring(mesh, names, neighbourhood, bidirectional=True, block=block)
    words = jax.random.key_data(key).astype(jnp.uint32).ravel()[-2:]
    local = partial(_draw, ring, similarity, dot_dtype)
    zimg, ztxt = (jax.lax.stop_gradient(z.astype(jnp.float32)) for z in (zimg, ztxt))
    arguments = (words, zimg, ztxt, jax.lax.stop_gradient(jnp.asarray(scale, jnp.float32)), labels, weights)
    if not names:
        return local(*arguments)
    split: Any = PartitionSpec(names)
    in_specs = (SAME, split, split, SAME, split, split)
    return jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=(split, split), check_vma=False)(*arguments)


def _draw(ring: Ring, similarity: Similarity, dot_dtype, words, zimg, ztxt, scale, labels, weights):
    count = weights.shape[0]
    place = ring.index() * count + jnp.arange(count, dtype=jnp.int32)
    images, texts = local_pairs(ring, zimg, ztxt, labels, weights, dot_dtype)

    def visit(rows: Draw, block: PlacedTexts) -> tuple[Draw, Draw]:
        logits = scale * similarity(images.z.astype(jnp.float32), block.texts.z.astype(jnp.float32), dot_dtype)
        _, negative = masks(images, block.texts)
        logits = jnp.where(negative, logits, -jnp.inf)
        for_image, for_text = _gumbel(words, place, block.place)
        return _better(rows, _best(logits + for_image, block.place, axis=1)), _best(logits + for_text, place, axis=0)

    collected = Collected(neutral=lambda shapes: _nothing(shapes.score.shape), merge=_better, across=_across)
    rows, columns = circulate(ring, PlacedTexts(texts, place), _nothing(weights.shape), visit, collected)
    return rows.place, columns.place


def _gumbel(words: jax.Array, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two independent Gumbel variables for every pair of places, [n, m] each."""
    shape = (rows.shape[0], columns.shape[0])
    pairs = [jnp.broadcast_to(x.astype(jnp.uint32), shape).ravel() for x in (rows[:, None], columns[None, :])]
    bits = threefry_2x32((words[0], words[1]), jnp.concatenate(pairs)).reshape(2, *shape)
    # The 24 bits that float32 can hold, in the middle of their intervals: neither 0 nor 1.
    uniform = ((bits >> 8).astype(jnp.float32) + 0.5) * 2.0**-24
    noise = -jnp.log(-jnp.log(uniform))
    return noise[0], noise[1]


def _best(scores: jax.Array, places: jax.Array, axis: int) -> Draw:
    at = jnp.argmax(scores, axis=axis)
    score = jnp.max(scores, axis=axis)
    return Draw(score, jnp.where(score > -jnp.inf, places[at], -1))


def _better(a: Draw, b: Draw) -> Draw:
    return jax.tree.map(lambda x, y: jnp.where(b.score > a.score, y, x), a, b)


def _nothing(shape: tuple[int, ...]) -> Draw:
    return Draw(jnp.full(shape, -jnp.inf, jnp.float32), jnp.full(shape, -1, jnp.int32))


def _across(ring: Ring, draws: Draw) -> Draw:
    peak = ring.neighbours_max(draws.score)
    place = ring.neighbours_max(jnp.where(draws.score == peak, draws.place, -1))
    return Draw(ring.own(peak), ring.own(place))


def fetch(
    x: jax.Array,
    places: Int[Array, "N"],
    *,
    mesh: Mesh | AbstractMesh | None = None,
    axes: tuple[str, ...] = BATCH_AXES,
) -> jax.Array:
    """Rows `x[places]` of a global array [N, ...] that is spread over `axes`; a place of -1 gives the first row.

    The shards travel once around the ring, so a device holds two of them and never the whole array, which is what
    indexing it would gather. Differentiable in `x`.
    """
    places = jnp.maximum(places, 0)
    names = tuple(a for a in (mesh.axis_names if mesh is not None else ()) if a in axes)
    if mesh is None or not names:
        return x[places]

    def local(x: jax.Array, places: jax.Array) -> jax.Array:
        devices, count = jax.lax.axis_size(names), x.shape[0]
        pairs = [(i, (i + 1) % devices) for i in range(devices)]
        me = jax.lax.axis_index(names)

        def hop(carry: tuple[jax.Array, jax.Array], index: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
            shard, out = carry
            row = places - (me - index) % devices * count
            here = ((row >= 0) & (row < count)).reshape(-1, *[1] * (x.ndim - 1))
            out = jnp.where(here, shard[jnp.clip(row, 0, count - 1)], out)
            return (jax.lax.ppermute(shard, names, pairs), out), None

        return jax.lax.scan(hop, (x, jnp.zeros_like(x)), jnp.arange(devices))[0][1]

    split: Any = PartitionSpec(names)
    return jax.shard_map(local, mesh=mesh, in_specs=(split, split), out_specs=split, check_vma=False)(x, places)
