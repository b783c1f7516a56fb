"""Rounding that makes up for itself: what rounding a row of a kernel does wrong, the later rows put right."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.schemes import SCHEMES

ROWS = 128
"""Rows between two updates of the rest of the kernel."""


@functools.partial(jax.jit, static_argnames=("scheme", "group", "damping"))
def gptq(
    kernel: Float[Array, "in out"],
    gram: Float[Array, "in in"],
    magnitude: Float[Array, "in"],
    scheme: str,
    group: int,
    damping: float = 0.01,
) -> QTensor:
    """GPTQ (Frantar et al., arXiv:2210.17323, algorithm 1), rows in their own order.

    `gram` is the sum of x x' over calibration inputs, damped by a share of its mean diagonal; `magnitude` is not used.
    A group's scale is fitted when its turn comes, to what the rows before have made of it.
    """
    del magnitude
    extent, width = kernel.shape
    rows = math.gcd(group, ROWS)
    coder = SCHEMES[scheme]
    upper = _inverse_factor(gram, damping)

    def encode(row: jax.Array, scale: jax.Array, zero: Any) -> tuple[jax.Array, jax.Array]:
        zero = None if zero is None else zero[None]
        codes = coder.encode(row[None, None], scale[None], zero, -2)
        return codes[0, 0].astype(jnp.int8), coder.decode(codes, zero, -2)[0, 0] * scale

    def over_group(at: jax.Array, carry: Any) -> Any:
        kernel, codes, scales, zeros = carry
        start = at * group
        scale, zero = coder.fit(jax.lax.dynamic_slice(kernel, (start, 0), (group, width)), -2)
        scales = scales.at[at].set(scale)
        zeros = zeros if zero is None else zeros.at[at].set(zero)

        def over_block(index: jax.Array, carry: Any) -> Any:
            kernel, codes = carry
            first = start + index * rows
            factor = jax.lax.dynamic_slice(upper, (first, 0), (rows, extent))
            inner = jax.lax.dynamic_slice(factor, (0, first), (rows, rows))

            def over_row(k: jax.Array, carry: Any) -> Any:
                block, codes, errors = carry
                row = block[k]
                code, value = encode(row, scale, zero)
                error = (row - value) / inner[k, k]
                # Above the diagonal lie the rows still to come; those done are no longer read.
                return block - inner[k][:, None] * error, codes.at[k].set(code), errors.at[k].set(error)

            block = jax.lax.dynamic_slice(kernel, (first, 0), (rows, width))
            state = (block, jnp.zeros((rows, width), jnp.int8), jnp.zeros((rows, width)))
            _, found, errors = jax.lax.fori_loop(0, rows, over_row, state)
            return kernel - factor.T @ errors, jax.lax.dynamic_update_slice(codes, found, (first, 0))

        kernel, codes = jax.lax.fori_loop(0, group // rows, over_block, (kernel, codes))
        return kernel, codes, scales, zeros

    groups = extent // group
    carry = (
        kernel.astype(jnp.float32),
        jnp.zeros((extent, width), jnp.int8),
        jnp.zeros((groups, width)),
        jnp.zeros((groups, width), jnp.int8),
    )
    _, codes, scales, zeros = jax.lax.fori_loop(0, groups, over_group, carry)
    zero = None if coder.fit(jnp.zeros((1, 1, 1)), -2)[1] is None else zeros
    codes = codes.astype(coder.dtype)
    return QTensor(codes, scales, zero, scheme=scheme, group=group, dtype=str(kernel.dtype))


def _inverse_factor(gram: Float[Array, "in in"], damping: float) -> Float[Array, "in in"]:
    """Upper triangular U with U' U the inverse of the damped second moments."""
    gram = gram.astype(jnp.float32)
    diagonal = jnp.diagonal(gram)
    floor = damping * jnp.maximum(diagonal.mean(), jnp.finfo(jnp.float32).tiny)
    # An input that was never there has no moments: its row is rounded by itself.
    silent = jnp.where(diagonal == 0, 1.0, 0.0)
    gram = gram + jnp.diag(floor + silent)
    identity = jnp.eye(len(gram))
    # The inverse through a Cholesky factor, and the factor of that.
    inverse = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram), identity)
    return jnp.linalg.cholesky(inverse).T
