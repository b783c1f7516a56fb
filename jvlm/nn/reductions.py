"""Sums and means that a CPU computes as products.

XLA's CPU backend fuses a reduction with whatever produces its operand and recomputes that per output: the backward pass
of a pre-norm transformer then costs six times its forward pass instead of twice. A product with ones is opaque to the
fusion and runs at the speed of a matrix product. Elsewhere the plain reduction is the faster form.
"""

from typing import Any

import jax
import jax.numpy as jnp


def sum_rows(x: jax.Array) -> jax.Array:
    """Sum of `x` [..., D] over all axes but the last: the gradient of a bias."""
    flat = x.reshape(-1, x.shape[-1])
    return jax.lax.platform_dependent(
        flat, cpu=lambda x: jnp.ones((x.shape[0],), x.dtype) @ x, default=lambda x: x.sum(0)
    )


def mean_last(x: jax.Array) -> jax.Array:
    """Mean of `x` [..., D] over the last axis, kept as an axis of size one."""
    width = x.shape[-1]
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: (x.reshape(-1, width) @ jnp.full((width, 1), 1 / width, x.dtype)).reshape(*x.shape[:-1], 1),
        default=lambda x: x.mean(-1, keepdims=True),
    )


def opaque(x: jax.Array) -> jax.Array:
    """`x`, which a CPU computes once instead of inside every consumer."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x` [..., D] plus `bias` [D] in the dtype of `x`."""
    return x + bias.astype(x.dtype)


def _add_bias_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return add_bias(x, bias), bias


def _add_bias_backward(bias: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return cotangent, sum_rows(cotangent).astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


@jax.custom_vjp
def settled(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as they are; backward neither gradient is used before both are there.

    Left to itself the TPU's scheduler keeps the large hidden gradient that a kernel's is made of until the end of a
    block's backward pass.
    """
    return x, kernel


def _settled_forward(x: Any, kernel: Any) -> tuple[tuple[jax.Array, jax.Array], tuple[()] | None]:
    # A frozen kernel has no gradient to wait for; None says so, since what is kept can be no flag.
    return (x.value, kernel.value), () if x.perturbed and kernel.perturbed else None


def _settled_backward(both: tuple[()] | None, cotangents: tuple[Any, Any]) -> tuple[Any, Any]:
    if both is None:
        return cotangents
    return jax.lax.platform_dependent(
        *cotangents, cpu=lambda *both: both, default=lambda *both: jax.lax.optimization_barrier(both)
    )


settled.defvjp(_settled_forward, _settled_backward, symbolic_zeros=True)
