"""What may stand for a kernel, and the four products that look at it.

Models call these functions and never ask what a kernel is. A plain array is the usual case; an adapter or a quantizer
replaces it by a `Leaf`, a pytree that knows how to multiply. A leaf's first array has the kernel's shape, because
flax compares a parameter with its initializer by position.
"""

import abc
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


class Leaf(abc.ABC):
    """A pytree that stands for a kernel. Subclasses are registered with jax and live in `transforms/`."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel it stands for."""

    @abc.abstractmethod
    def materialize(self) -> jax.Array:
        """The kernel as one array."""

    def matmul(self, x: jax.Array) -> jax.Array:
        return x @ self.materialize().astype(x.dtype)

    def take(self, ids: jax.Array, dtype: Any) -> jax.Array:
        return jnp.take(self.materialize(), ids, axis=0).astype(dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        return x @ self.materialize().astype(x.dtype).T

    def conv(self, x: jax.Array, strides: Sequence[int], padding: Any, groups: int, dilation: int) -> jax.Array:
        return _conv(x, self.materialize().astype(x.dtype), strides, padding, groups, dilation)


Kernel = Any
"""A `jax.Array` or a `Leaf`."""


def matmul(x: jax.Array, kernel: Kernel) -> jax.Array:
    """`x` [..., in] times `kernel` [in, out], in the dtype of `x`."""
    if isinstance(kernel, Leaf):
        return kernel.matmul(x)
    # Flat, so that the kernel's gradient is one 2-D product as well: what a CPU has a fast routine for.
    y = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def take(kernel: Kernel, ids: jax.Array, dtype: Any) -> jax.Array:
    """Rows `ids` [...] of an embedding table [V, D], as `dtype` [..., D]."""
    if isinstance(kernel, Leaf):
        return kernel.take(ids, dtype)
    return jnp.take(kernel, ids, axis=0).astype(dtype)


def attend(x: jax.Array, kernel: Kernel) -> jax.Array:
    """`x` [..., D] against every row of a table [V, D]: logits [..., V] of a tied head."""
    if isinstance(kernel, Leaf):
        return kernel.attend(x)
    return x @ kernel.astype(x.dtype).T


def conv(
    x: jax.Array, kernel: Kernel, strides: Sequence[int], padding: Any, groups: int = 1, dilation: int = 1
) -> jax.Array:
    """2-D convolution of `x` [B, H, W, C] with a kernel [h, w, in / groups, out]."""
    if isinstance(kernel, Leaf):
        return kernel.conv(x, strides, padding, groups, dilation)
    return _conv(x, kernel.astype(x.dtype), strides, padding, groups, dilation)


def _conv(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, groups: int, dilation: int
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        tuple(strides),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
