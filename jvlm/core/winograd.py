"""3x3 convolutions of large feature maps as matrix products, in 4 / 9 of the multiplications (arXiv:1509.09308).

Each 2 x 2 of the output is made from 16 products instead of 36: `A' [(G k G') * (B' d B)] A`, where d are the 4 x 4
pixels beneath it. On a CPU, where the products dominate, this is faster than any convolution that computes all 36; the
transforms of the kernel have to be small beside them, so it is for many pixels a channel.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Lavin and Gray, arXiv:1509.09308, eq. 10, for F(2 x 2, 3 x 3).
_PIXELS = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))

PIXELS_PER_CHANNEL = 2
LEAST_PIXELS, LEAST_CHANNELS = 32 * 32, 64
STRIP_BYTES = 2**27
"""Of transformed pixels at once: smaller strips take less memory and more time."""


def suits(x: Any, kernel: Any, strides: Sequence[int], padding: Any, groups: int, dilation: int) -> bool:
    """Whether a convolution is one that this computes, and has pixels enough to be faster so on a CPU."""
    batch, height, width, channels = x.shape
    plain = padding == "SAME" and tuple(strides) == (1, 1) and groups == dilation == 1
    if not plain or kernel.shape[:2] != (3, 3) or height % 2 or width % 2 or x.dtype != jnp.float32:
        return False
    widest, narrowest = max(channels, kernel.shape[-1]), min(channels, kernel.shape[-1])
    enough = height * width >= LEAST_PIXELS and batch * height * width >= PIXELS_PER_CHANNEL * widest
    return enough and narrowest >= LEAST_CHANNELS


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`x` [B, H, W, C] with `kernel` [3, 3, C, O], padded to keep its size; H and W are even.

    Its gradients are those of the plain convolution.
    """
    batch, height, width, channels = x.shape
    transformed = _both_ways(_KERNEL, [[kernel[i, j] for j in range(3)] for i in range(3)])
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    row = 8 * batch * width * channels * x.dtype.itemsize  # of two output rows: 16 numbers for every 4 pixels
    rows = height // 2
    strips = next(n for n in range(1, rows + 1) if rows % n == 0 and (rows // n * row <= STRIP_BYTES or n == rows))

    def strip(at: jax.Array) -> jax.Array:
        size = height // strips
        return _strip(jax.lax.dynamic_slice_in_dim(padded, at * size, size + 2, 1), transformed)

    if strips == 1:
        return _strip(padded, transformed)
    y = jax.lax.map(strip, jnp.arange(strips))
    return jnp.moveaxis(y, 0, 1).reshape(batch, height, width, kernel.shape[-1])


def _strip(padded: jax.Array, kernel: list[list[jax.Array]]) -> jax.Array:
    batch, height, width, channels = padded.shape
    rows, columns = height // 2 - 1, width // 2 - 1
    pixels = [[padded[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for j in range(4)] for i in range(4)]
    seen = _both_ways(_PIXELS, pixels)
    products = [[seen[i][j].reshape(-1, channels) @ kernel[i][j] for j in range(4)] for i in range(4)]
    made = [[y.reshape(batch, rows, columns, -1) for y in line] for line in _both_ways(_OUTPUT, products)]
    y = jnp.stack([jnp.stack(line, 3) for line in made], 2)  # [B, rows, 2, columns, 2, O]
    return y.reshape(batch, 2 * rows, 2 * columns, -1)


def _both_ways(factors: Sequence[Sequence[float]], parts: list[list[jax.Array]]) -> list[list[jax.Array]]:
    """`factors @ parts @ factors'` of a matrix whose entries are arrays."""
    lines = [[_combined(row, list(column)) for column in zip(*parts, strict=True)] for row in factors]
    return [[_combined(row, line) for row in factors] for line in lines]


def _combined(factors: Sequence[float], parts: list[jax.Array]) -> jax.Array:
    # Factors of one are left out: a product with them would be computed.
    terms = [part if f == 1 else -part if f == -1 else f * part for f, part in zip(factors, parts, strict=True) if f]
    return functools.reduce(jnp.add, terms)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return conv3x3(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.vjp(_plain, *saved)[1](dy)


conv3x3.defvjp(_forward, _backward)
