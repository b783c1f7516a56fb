"""Attention in tiles on a TPU, whose logits are never written to memory: the splash kernel that comes with JAX.

Only what the kernel can hide is taken: what comes later, what lies beyond a window, and other texts of a packed row.
"""

from collections.abc import Callable
from math import gcd
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jvlm.core import sharding
from jvlm.core.errors import ConfigError, nearest

ATTENTIONS = ("einsum", "splash")
LANES = 128
"""The kernel takes whole multiples of so many tokens."""
TILE = 512
"""The most queries or keys of a tile."""


def uses_kernel(attention: str) -> bool:
    """Whether a call that is traced now goes to the kernel: `attention` is `splash` and the devices are TPUs.

    Elsewhere the einsum computes the same. ConfigError for a name that is not in `ATTENTIONS`.
    """
    if attention not in ATTENTIONS:
        raise ConfigError(f"attention {attention!r} is unknown; {nearest(attention, ATTENTIONS)}")
    return attention == "splash" and _on_tpu()


def _on_tpu() -> bool:
    mesh = sharding.active_mesh()
    return (jax.default_backend() if mesh is None else mesh.devices.flat[0].platform) == "tpu"


def packed(mask: Bool[Array, "B T"] | None, segments: Int[Array, "B T"] | None) -> Int[Array, "B T"] | None:
    """Numbers of the texts of each row, a token attending to its own alone; padding (`mask` False) is one of them."""
    if mask is None or segments is None:
        return segments if mask is None else mask.astype(jnp.int32)
    return jnp.where(mask, segments, -1).astype(jnp.int32)


def splash_attention(
    query: Float[Array, "B T H D"],
    key: Float[Array, "B K T D"],
    value: Float[Array, "B K T D"],
    segments: Int[Array, "B T"] | None = None,
    scale: float = 1.0,
    cap: float | None = None,
    window: int | None = None,
) -> Float[Array, "B T H D"]:
    """Causal softmax(cap(scale q k')) v of tokens in order, as `grouped_attention` has it.

    H / K queries share a key. A token sees the `window` tokens up to itself (None: all) that have its number in
    `segments`. On a mesh every chip computes its own rows and heads. Without a TPU the kernel is interpreted, slowly.
    ConfigError where the mesh divides the heads of queries but not those of keys.
    """
    length = query.shape[1]
    extra = -length % LANES
    query = jnp.pad((query * scale).swapaxes(1, 2), [(0, 0), (0, 0), (0, extra), (0, 0)])  # [B, H, T, D]
    key, value = (jnp.pad(x.astype(query.dtype), [(0, 0), (0, 0), (0, extra), (0, 0)]) for x in (key, value))
    if segments is not None:
        segments = jnp.pad(segments, [(0, 0), (0, extra)])  # nothing sees what comes later, whatever its number

    def local(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array | None) -> jax.Array:
        row = _kernel(query.shape[1], query.shape[2], window, cap)
        # `plan` cannot look into a kernel: it reads here how many pairs a head computes.
        with jax.named_scope(f"splash_pairs_{computed_pairs(query.shape[2], window)}"):
            return jax.vmap(row)(query, key, value, segments)

    y = _on_each_chip(local, query, key, value, segments)
    return y[:, :, :length].swapaxes(1, 2)


def computed_pairs(length: int, window: int | None = None) -> int:
    """Pairs of a query and a key that the kernel computes for a head: all of each tile that it does not pass over."""
    tile = gcd(length, TILE)
    tiles = range(length // tile)
    reach = length if window is None else window - 1
    return sum(i - max(i * tile - reach, 0) // tile + 1 for i in tiles) * tile**2


def _on_each_chip(
    local: Callable[..., jax.Array], query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array | None
) -> jax.Array:
    active = sharding.active()
    if active is None or active[0].size == 1:
        return local(query, key, value, segments)
    mesh, rules = active
    names = ("batch", "heads", None, None)
    wide, narrow = (sharding.spec(names, x.shape, mesh, rules) for x in (query, key))
    if wide != narrow:
        raise ConfigError(
            f"attention 'splash': the mesh {dict(mesh.shape)} splits {query.shape[1]} heads of queries but not the "
            f"{key.shape[1]} of keys; choose a tensor axis that divides both"
        )
    specs = [wide, wide, wide]
    arguments = [query, key, value]
    if segments is not None:
        specs.append(sharding.spec(("batch", None), segments.shape, mesh, rules))
        arguments.append(segments)

    def run(*given: jax.Array) -> jax.Array:
        return local(*given) if segments is not None else local(*given, None)

    # check_vma=False: a Pallas call does not say over which axes its results vary.
    return jax.shard_map(run, mesh=mesh, in_specs=tuple(specs), out_specs=wide, check_vma=False)(*arguments)


def _kernel(heads: int, length: int, window: int | None, cap: float | None) -> Callable[..., jax.Array]:
    """The kernel for one row: (query [H, T, D], key and value [K, T, D], segments [T] or None) -> [H, T, D]."""
    # Not at the top: to import Pallas takes long, and only a TPU asks for it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as kernel_masks

    tile, square = gcd(length, TILE), (length, length)
    seen: Any = kernel_masks.CausalMask(square)
    if window is not None:
        seen = kernel_masks.LocalMask(square, window_size=(window - 1, 0), offset=0)
    sides = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute")
    run: Any = kernels.make_splash_mha_single_device(
        kernel_masks.MultiHeadMask([seen] * heads),
        block_sizes=kernels.BlockSizes(**dict.fromkeys((*sides, "block_q_dq", "block_kv_dq"), tile)),
        attn_logits_soft_cap=cap,
        interpret=not _on_tpu(),
    )

    def row(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array | None) -> jax.Array:
        ids = None if segments is None else kernels.SegmentIds(segments, segments)
        return run(query, key, value, segment_ids=ids)

    return row
