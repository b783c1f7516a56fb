"""Position tables at another resolution, interpolated exactly as the published fine-tunings did it in torch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jvlm.core.errors import UserError


def resize_weights(size: int, new_size: int, method: str = "bicubic") -> np.ndarray:
    """The matrix [new_size, size] that resamples one axis as `torch.nn.functional.interpolate` does.

    It is that of `align_corners=False` without antialias: sample centres at (i + 0.5) size / new_size - 0.5,
    samples beyond the border repeat it, and for "bicubic" Keys' kernel (1981, eq. 4) has a = -0.75.
    "bilinear" is the other.
    """
    at = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    if method == "bicubic":
        a, taps = -0.75, np.arange(-1, 3)
        base = np.floor(at).astype(int)
        distance = np.abs((at - base)[:, None] - taps)
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * a - 4 * a
        values = np.where(distance <= 1, near, far)
    elif method == "bilinear":
        taps = np.arange(0, 2)
        base = np.floor(np.maximum(at, 0)).astype(int)
        values = 1 - np.abs((np.maximum(at, 0) - base)[:, None] - taps)
    else:
        raise UserError(f"interpolation {method!r} of positions is unknown; valid: bicubic, bilinear")
    weights = np.zeros((new_size, size))
    columns = np.clip(base[:, None] + taps, 0, size - 1)
    np.add.at(weights, (np.arange(new_size)[:, None], columns), values)
    return weights


def resize_table(
    table: Float[Array, "1 N D"],
    length: int,
    *,
    prefix: int | None = None,
    grid: tuple[int, int] | None = None,
    new_grid: tuple[int, int] | None = None,
    method: str = "bicubic",
) -> Float[Array, "1 M D"]:
    """A position table for a picture of another size.

    The first `prefix` positions (class and register tokens) are kept, the rest is a row-major grid that is
    resized. By default the grids are square and the prefix is what exceeds the largest square.

    `jax.image.resize` does something else: it antialiases by default when it shrinks, its cubic kernel has a = -0.5,
    and beyond the border it drops samples and renormalizes instead of repeating the edge. Tables resized that
    way differ from those of transformers' `interpolate_pos_encoding` and of open_clip in the second digit.

    Returns [1, length, D] in the dtype of `table`. Raises UserError when the grids do not fit the lengths.
    """
    old_length, dim = table.shape[1:]
    if prefix is None:
        prefix = old_length - (math.prod(grid) if grid else math.isqrt(old_length) ** 2)
    rows, cols = grid or _square(old_length - prefix, prefix)
    new_rows, new_cols = new_grid or _square(length - prefix, prefix)
    for tokens, (high, wide) in ((old_length, (rows, cols)), (length, (new_rows, new_cols))):
        if prefix < 0 or prefix + high * wide != tokens:
            raise UserError(f"{tokens} positions are not {prefix} tokens and a grid of {high} x {wide}; give `grid`")
    patches = table[:, prefix:].astype(jnp.float32).reshape(rows, cols, dim)
    down = jnp.asarray(resize_weights(rows, new_rows, method), jnp.float32)
    across = jnp.asarray(resize_weights(cols, new_cols, method), jnp.float32)
    with jax.default_matmul_precision("highest"):
        patches = jnp.einsum("ih,jw,hwd->ijd", down, across, patches)
    patches = patches.reshape(1, new_rows * new_cols, dim).astype(table.dtype)
    return jnp.concatenate([table[:, :prefix], patches], axis=1)  # [1, M, D]


def _square(count: int, prefix: int) -> tuple[int, int]:
    side = math.isqrt(max(count, 0))
    if side * side != count:
        raise UserError(f"{count} positions after {prefix} tokens are no square grid; give `grid` and `new_grid`")
    return side, side
