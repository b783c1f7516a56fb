"""Scales in eight bits: what is left of them without their mean, in blocks of 256 on a dynamic map.

Dettmers et al., arXiv:2305.14314, section 3, "Double Quantization"; the map is arXiv:2110.02861's dynamic data type,
signed, with the values and the order of blocks of bitsandbytes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from jvlm.transforms.look_up import look_up
from jvlm.transforms.rounding import multiply_add

BLOCK = 256


@functools.cache
def dynamic_map() -> Float32[np.ndarray, "256"]:
    """The 256 values in ascending order: a decimal exponent 0..-6 and, the larger it is, the more linear fractions."""
    values = [np.float32(0.0), np.float32(1.0)]
    for exponent in range(7):
        edges = _steps(2**exponent)
        means = np.float32(10.0 ** (exponent - 6)) * ((edges[:-1] + edges[1:]) / np.float32(2))
        values += [*means, *-means]
    return np.sort(np.array(values, np.float32))


def _steps(count: int) -> np.ndarray:
    """`count` equal steps from 0.1 to 1 in float32, counted from the nearer end and rounded once, as torch does."""
    start, end = np.float32(0.1), np.float32(1.0)
    step = np.float64((end - start) / np.float32(count))
    index = np.arange(count + 1)
    near = np.where(index < (count + 1) // 2, start + step * index, end - step * (count - index))
    return near.astype(np.float32)


def compress(
    scale: Float[Array, "*L rows cols"], axis: int
) -> tuple[UInt8[Array, "*L rows cols"], Float[Array, "*L blocks"], Float[Array, "*L"]]:
    """(codes of `scale`'s shape, the blocks' magnitudes, the mean). Blocks run along `axis` first."""
    flat = _flat(scale, axis)  # [*L, n]
    offset = _mean(flat)
    rest = flat - offset[..., None]
    short = -rest.shape[-1] % BLOCK
    blocks = jnp.pad(rest, [(0, 0)] * (rest.ndim - 1) + [(0, short)]).reshape(*rest.shape[:-1], -1, BLOCK)
    magnitude = jnp.abs(blocks).max(-1)
    inverse = jnp.where(magnitude > 0, 1.0 / magnitude, 0.0)
    table = dynamic_map()
    codes = jnp.searchsorted((table[:-1] + table[1:]) / 2, blocks * inverse[..., None])  # nearest, lower at a tie
    codes = codes.reshape(*rest.shape[:-1], -1)[..., : rest.shape[-1]]
    return _unflat(codes.astype(jnp.uint8), scale.shape, axis), magnitude, offset


def expand(
    codes: UInt8[Array, "*L rows cols"], magnitude: Float[Array, "*L blocks"], offset: Float[Array, "*L"], axis: int
) -> Float[Array, "*L rows cols"]:
    """The scales that `compress` wrote down."""
    values = look_up(dynamic_map(), _flat(codes, axis))
    factor = jnp.repeat(magnitude, BLOCK, axis=-1)[..., : values.shape[-1]]
    return _unflat(multiply_add(values, factor, offset[..., None]), codes.shape, axis)


def _flat(x: jax.Array, axis: int) -> jax.Array:
    x = jnp.swapaxes(x, -1, axis)  # the contraction axis last: published kernels are [out, in]
    return x.reshape(*x.shape[:-2], -1)


def _unflat(x: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    turned = (*shape[:-2], shape[-1], shape[-2]) if axis == -2 else shape
    return jnp.swapaxes(x.reshape(turned), -1, axis)


def _mean(x: Float[Array, "*L n"]) -> Float[Array, "*L"]:
    """In two levels, so that millions of terms do not lose the last bits."""
    short = -x.shape[-1] % BLOCK
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)])
    return padded.reshape(*x.shape[:-1], -1, BLOCK).sum(-1).sum(-1) / x.shape[-1]
