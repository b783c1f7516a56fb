"""Ranks and nearest neighbours of many queries among many candidates, a block of similarities at a time.

Queries are cut over the mesh's batch axes, candidates are whole on every device; no device ever holds more than
`QUERIES` / shards x `CANDIDATES` similarities. Products are float32 at the highest precision.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Int32, Integer

from jvlm.core.sharding import batch_shards, put_batch
from jvlm.evals.placement import local_rows

Top = tuple[jax.Array, jax.Array]
QUERIES, CANDIDATES = 1024, 8192
TIE = 1e-6
"""Similarities of unit vectors closer than this are ties: float32 rounds them differently on another mesh."""


def ranks(
    queries: Float32[np.ndarray, "n E"],
    candidates: Float32[np.ndarray, "m E"],
    query_ids: Integer[np.ndarray, "n"],
    candidate_ids: Integer[np.ndarray, "m"],
    mesh: Mesh,
    *,
    block: tuple[int, int] = (QUERIES, CANDIDATES),
) -> Int32[np.ndarray, "n"]:
    """How many candidates of another id score at least as high as the query's best candidate of its own id.

    A tie counts as ahead, and so does a NaN; a query whose own candidates are NaN or absent ranks behind all.
    """
    rows, columns = _extents(len(queries), len(candidates), mesh, block)
    parts = []
    blocks = _candidate_blocks(candidates, candidate_ids, columns, mesh)
    for start in range(0, len(queries), rows):
        q, ids = (_padded(x[start : start + rows], rows) for x in (queries, _int32(query_ids)))
        mine = local_rows(mesh, rows)
        batch = put_batch({"q": q[mine], "ids": ids[mine]}, mesh)
        parts.append(np.asarray(_ranks(batch["q"], batch["ids"], *blocks, mesh=mesh))[: len(queries) - start])
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)


def nearest(
    queries: Float32[np.ndarray, "n E"],
    candidates: Float32[np.ndarray, "m E"],
    k: int,
    mesh: Mesh,
    *,
    block: tuple[int, int] = (QUERIES, CANDIDATES),
) -> tuple[Float32[np.ndarray, "n k"], Int32[np.ndarray, "n k"]]:
    """(similarities, indices) of each query's `k` most similar candidates, best first.

    NaN comes last, as float32's least. `k` may not exceed the number of candidates.
    """
    if not 0 < k <= len(candidates):
        raise ValueError(f"k = {k} of {len(candidates)} candidates")
    rows, columns = _extents(len(queries), len(candidates), mesh, block)
    values, indices = [], []
    blocks = _candidate_blocks(candidates, np.arange(len(candidates)), columns, mesh)
    for start in range(0, len(queries), rows):
        padded = _padded(queries[start : start + rows], rows)
        q = put_batch({"q": padded[local_rows(mesh, rows)]}, mesh)["q"]
        top, at = (np.asarray(x)[: len(queries) - start] for x in _nearest(q, *blocks, k=k, mesh=mesh))
        values.append(top)
        indices.append(at)
    if not values:
        return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)
    return np.concatenate(values), np.concatenate(indices)


@partial(jax.jit, static_argnames="mesh")
def _ranks(
    q: jax.Array, ids: jax.Array, candidates: jax.Array, candidate_ids: jax.Array, real: jax.Array, mesh: Mesh
) -> jax.Array:
    def best(so_far: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        c, cid, valid = block
        own = (ids[:, None] == cid) & valid
        s = _similarity(q, c)
        return jnp.maximum(so_far, jnp.where(own & ~jnp.isnan(s), s, -jnp.inf).max(1)), None

    top, _ = jax.lax.scan(best, jnp.full(ids.shape, -jnp.inf), (candidates, candidate_ids, real))

    def count(so_far: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        c, cid, valid = block
        other = (ids[:, None] != cid) & valid
        behind = _similarity(q, c) < (top - TIE)[:, None]  # False for NaN
        return so_far + (other & ~behind).sum(1, dtype=jnp.int32), None

    total, _ = jax.lax.scan(count, jnp.zeros(ids.shape, jnp.int32), (candidates, candidate_ids, real))
    whole = jax.lax.with_sharding_constraint(total, NamedSharding(mesh, PartitionSpec()))
    found = jnp.where(jnp.isfinite(top), 0, jnp.iinfo(jnp.int32).max // 2)
    return whole + jax.lax.with_sharding_constraint(found, NamedSharding(mesh, PartitionSpec()))


@partial(jax.jit, static_argnames=("k", "mesh"))
def _nearest(
    q: jax.Array, candidates: jax.Array, ids: jax.Array, real: jax.Array, k: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array]:
    def merge(carry: Top, block: tuple[jax.Array, ...]) -> tuple[Top, None]:
        c, cid, valid = block
        s = _similarity(q, c)
        # Behind every number, but before the places that no candidate has taken yet.
        s = jnp.where(valid, jnp.where(jnp.isnan(s), jnp.finfo(s.dtype).min, s), -jnp.inf)
        values = jnp.concatenate([carry[0], s], axis=1)
        indices = jnp.concatenate([carry[1], jnp.broadcast_to(cid, s.shape)], axis=1)
        top, at = jax.lax.top_k(values, k)
        return (top, jnp.take_along_axis(indices, at, axis=1)), None

    start = (jnp.full((q.shape[0], k), -jnp.inf), jnp.zeros((q.shape[0], k), jnp.int32))
    (top, at), _ = jax.lax.scan(merge, start, (candidates, ids, real))
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(top, whole), jax.lax.with_sharding_constraint(at, whole)


def _similarity(q: jax.Array, c: jax.Array) -> jax.Array:
    return jnp.matmul(q, c.T, precision="highest")


def _extents(n: int, m: int, mesh: Mesh, block: tuple[int, int]) -> tuple[int, int]:
    shards = batch_shards(mesh)
    rows = -(-max(1, min(n, block[0])) // shards) * shards
    return rows, max(1, min(m, block[1]))


def _candidate_blocks(
    candidates: np.ndarray, ids: np.ndarray, columns: int, mesh: Mesh
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[blocks, columns, E], their ids, and which are real."""
    count = -(-len(candidates) // columns)
    real = np.arange(count * columns) < len(candidates)
    whole = NamedSharding(mesh, PartitionSpec())

    def put(x: np.ndarray) -> jax.Array:
        x = _padded(x, count * columns)
        return jax.device_put(x.reshape(count, columns, *x.shape[1:]), whole)

    return put(candidates), put(_int32(ids)), put(real)


def _padded(x: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(x, [(0, rows - len(x)), *[(0, 0)] * (x.ndim - 1)])


def _int32(ids: np.ndarray) -> np.ndarray:
    if len(ids) and (ids.max() > np.iinfo(np.int32).max or ids.min() < np.iinfo(np.int32).min):
        raise ValueError("ids must fit into 32 bits")
    return ids.astype(np.int32)
