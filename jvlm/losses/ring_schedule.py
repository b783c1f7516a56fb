"""How text blocks travel past the images of every device, and how what they collect comes home.

Each device keeps its images. Its texts, cut in two streams that travel in opposite directions, visit every device of
the ring by `ppermute`; what a text gathers on its way (`Collected`: gradients or softmax statistics) follows one hop
behind it, so that both transfers of a hop can overlap with the products of the hop before. Two-level: neighbours
first gather their texts, and only neighbourhoods form the ring, in fewer and larger messages.

On one device the same code runs without any collective: it is then the loss in blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LOGITS_PER_BLOCK = 1 << 22
"""Default bound on the logits that a device holds at a time: 16.8 MB in float32."""

Tree = Any


class Collected(NamedTuple):
    """How two partial results for the same texts combine, and how neighbours combine theirs.

    `neutral(shapes)` changes nothing under `merge`. `across(ring, tree [n])` combines the neighbours' results
    for their gathered texts and leaves each its own share.
    """

    neutral: Callable[[Tree], Tree]
    merge: Callable[[Tree, Tree], Tree]
    across: Callable[["Ring", Tree], Tree]


@dataclass(frozen=True)
class Ring:
    """Devices in a ring, each by its index over the mesh axes `axes` (in the mesh's order, the last one fastest).

    places: the devices of each neighbourhood, in the order of the ring: `places[k][i]` sends to `places[k + 1][i]`.
        Neighbourhoods of one device are the plain ring; a single device without axes needs no mesh.
    streams: 2 sends half of the texts each way round, so that either direction of a link carries half of the bytes.
    block: texts per product; None bounds the logits of a product by `LOGITS_PER_BLOCK`.
    """

    axes: tuple[str, ...] = ()
    places: tuple[tuple[int, ...], ...] = ((0,),)
    streams: int = 2
    block: int | None = None

    @property
    def hops(self) -> int:
        return len(self.places)

    @property
    def neighbours(self) -> int:
        return len(self.places[0])

    @property
    def groups(self) -> list[list[int]] | None:
        """Index groups of the neighbourhoods; None if there is only one."""
        return None if self.hops == 1 else [list(group) for group in self.places]

    def index(self) -> jax.Array | int:
        """This device's index."""
        return jax.lax.axis_index(self.axes) if self.axes else 0

    def total(self, x: jax.Array) -> jax.Array:
        """Sum over all devices of the ring."""
        return jax.lax.psum(x, self.axes) if self.axes else x

    def gather(self, tree: Tree) -> Tree:
        """The neighbours' arrays, joined along the first axis."""
        if self.neighbours == 1:
            return tree
        options: dict[str, Any] = {"axis": 0, "tiled": True, "axis_index_groups": self.groups}
        return jax.tree.map(lambda x: jax.lax.all_gather(x, self.axes, **options), tree)

    def scatter_sum(self, x: jax.Array) -> jax.Array:
        """Sum over the neighbours of their arrays for gathered texts, each keeping its own texts."""
        options: dict[str, Any] = {"scatter_dimension": 0, "tiled": True, "axis_index_groups": self.groups}
        return jax.lax.psum_scatter(x, self.axes, **options)

    def own(self, x: jax.Array) -> jax.Array:
        """This device's share of an array for the neighbours' gathered texts."""
        position = np.zeros(self.hops * self.neighbours, np.int32)
        position[np.asarray(self.places)] = np.arange(self.neighbours)
        count = x.shape[0] // self.neighbours
        return jax.lax.dynamic_slice_in_dim(x, jnp.asarray(position)[self.index()] * count, count)

    def neighbours_max(self, x: jax.Array) -> jax.Array:
        return jax.lax.pmax(x, self.axes, axis_index_groups=self.groups)

    def shift(self, tree: Tree, direction: int) -> Tree:
        """The arrays of the device one hop behind in the direction of travel; vectors travel in one message."""
        if self.hops == 1:
            return tree
        following = np.roll(np.asarray(self.places), -direction, axis=0)
        pairs = list(zip(np.asarray(self.places).ravel().tolist(), following.ravel().tolist()))
        leaves, structure = jax.tree.flatten(tree)
        vectors = [i for i, x in enumerate(leaves) if x.ndim == 2]  # [blocks, size], four bytes an entry
        if vectors:
            packed = jnp.stack([jax.lax.bitcast_convert_type(leaves[i], jnp.int32) for i in vectors])
            packed = jax.lax.ppermute(packed, self.axes, pairs)
            for place, i in enumerate(vectors):
                leaves[i] = jax.lax.bitcast_convert_type(packed[place], leaves[i].dtype)
        for i in set(range(len(leaves))) - set(vectors):
            leaves[i] = jax.lax.ppermute(leaves[i], self.axes, pairs)
        return jax.tree.unflatten(structure, leaves)


def circulate(
    ring: Ring,
    texts: Tree,
    state: Tree,
    visit: Callable[[Tree, Tree], tuple[Tree, Tree]],
    collected: Collected | None,
) -> tuple[Tree, Tree]:
    """Takes every text of the ring past this device's images.

    texts: arrays [n, ...], this device's texts and what travels with them; zeros must stand for an absent text, they
    fill up the last block. state: what the images keep from one block to the next. `visit(state, block)` returns the
    new state and a tree [block, ...] for the block's texts, which `collected` says how to combine (None: there is
    nothing to bring home). Returns the last state and what this device's texts [n, ...] have collected.
    """
    texts = ring.gather(texts)
    count = jax.tree.leaves(texts)[0].shape[0]
    streams, blocks, size = _cut(ring, count, images=jax.tree.leaves(state)[0].shape[0])
    texts = jax.tree.map(lambda x: _split(x, streams, blocks, size), texts)  # [streams, blocks, size, ...]
    parts = [jax.tree.map(lambda x, i=i: x[i], texts) for i in range(streams)]

    def shift(trees):
        return [ring.shift(tree, way) for tree, way in zip(trees, (1, -1))]

    def visit_all(state, parts):
        results = []
        for part in parts:
            state, result = _visit_blocks(visit, state, part, blocks)
            results.append(result)
        return state, results

    def hop(carry, _):
        state, parts, results = carry
        # Nothing computed in this hop is sent in it, so that its products hide the transfers.
        following, arrived = shift(parts), shift(results)
        state, own = visit_all(state, parts)
        merged = [collected.merge(a, b) for a, b in zip(arrived, own)] if collected else own
        return (state, following, merged), None

    if ring.hops == 1:
        state, results = visit_all(state, parts)
    else:
        shapes = jax.eval_shape(visit_all, state, parts)[1]
        results = [collected.neutral(shape) for shape in shapes] if collected else shapes
        (state, _, results), _ = jax.lax.scan(hop, (state, parts, results), length=ring.hops)
        results = shift(results)
    if collected is None:
        return state, None
    joined = jax.tree.map(lambda *x: jnp.concatenate([_join(part) for part in x])[:count], *results)
    return state, joined if ring.neighbours == 1 else collected.across(ring, joined)


def _visit_blocks(visit, state: Tree, part: Tree, blocks: int) -> tuple[Tree, Tree]:
    """Visits the blocks of a stream one after the other."""
    if blocks > 1:
        return jax.lax.scan(visit, state, part)
    state, result = visit(state, jax.tree.map(lambda x: x[0], part))
    return state, jax.tree.map(lambda x: x[None], result)


def _cut(ring: Ring, texts: int, images: int) -> tuple[int, int, int]:
    """Streams, blocks per stream and texts per block, so that no product exceeds the ring's bound."""
    streams = min(ring.streams, texts) if ring.hops > 1 else 1
    most = ring.block or max(LOGITS_PER_BLOCK // images, 1)
    blocks = -(-texts // (streams * most))
    return streams, blocks, -(-texts // (streams * blocks))


def _split(x: jax.Array, streams: int, blocks: int, size: int) -> jax.Array:
    missing = streams * blocks * size - x.shape[0]
    padded = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) if missing else x
    return padded.reshape(streams, blocks, size, *x.shape[1:])


def _join(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])


def _add(a: Tree, b: Tree) -> Tree:
    return jax.tree.map(jnp.add, a, b)


def _scatter_sums(ring: Ring, tree: Tree) -> Tree:
    return jax.tree.map(ring.scatter_sum, tree)


def _zeros(shapes: Tree) -> Tree:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


SUM = Collected(neutral=_zeros, merge=_add, across=_scatter_sums)
