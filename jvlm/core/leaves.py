"""What may stand for a kernel, and the four products that look at it.

Models call these functions and never ask what a kernel is. A plain array is the usual case; an adapter or a quantizer
replaces it by a `Leaf`, a pytree that knows how to multiply. A leaf's first array has the kernel's shape, because
flax compares a parameter with its initializer by position.
"""

import abc
import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core import winograd
from jvlm.core.tree import flatten, map_paths
from jvlm.core.types import Params

Names = tuple[str | None, ...]


class Leaf(abc.ABC):
    """A pytree that stands for a kernel. Subclasses are registered with jax and live in `transforms/`.

    In a stack of layers every array of a leaf has the layer axis first. A leaf may stand on another: what it calls
    its base is an array or a `Leaf`, multiplied by the functions below.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel it stands for."""

    @abc.abstractmethod
    def materialize(self) -> jax.Array:
        """The kernel as one array: what `matmul` multiplies by, without what `after` does."""

    @abc.abstractmethod
    def place(self, names: Names, fn: Callable[[Names, Any], Any]) -> Any:
        """The same leaf with `fn(names of that array's axes, array)` in place of each array.

        `names` are those of the kernel's axes. None stays None; the arrays of a base that is a leaf are included.
        """

    def split(self) -> tuple[Any, Any]:
        """(trained, frozen): two leaves of this class with None where the other has the array. All is frozen here."""
        return jax.tree.map(lambda _: None, self), self

    @property
    def learned(self) -> int:
        """How many rows of its own the leaf puts before what its layer gives."""
        return 0

    def keyed(self, key: jax.Array) -> "Leaf":
        """The leaf for one training step, whose random choices are drawn from `key`. Here there are none."""
        return self

    def matmul(self, x: jax.Array) -> jax.Array:
        return x @ self.materialize().astype(x.dtype)

    def take(self, ids: jax.Array, dtype: Any) -> jax.Array:
        return jnp.take(self.materialize(), ids, axis=0).astype(dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        return x @ self.materialize().astype(x.dtype).T

    def conv(self, x: jax.Array, strides: Sequence[int], padding: Any, groups: int, dilation: int) -> jax.Array:
        return _conv(x, self.materialize().astype(x.dtype), strides, padding, groups, dilation)

    def after(self, y: jax.Array) -> jax.Array:
        """What follows the product and its bias; adapters that act on a layer's output change `y` here."""
        return y


Kernel = Any
"""A `jax.Array` or a `Leaf`."""


def matmul(x: jax.Array, kernel: Kernel) -> jax.Array:
    """`x` [..., in] times `kernel` [in, out], in the dtype of `x`."""
    if isinstance(kernel, Leaf):
        return kernel.matmul(x)
    # Flat, so that the kernel's gradient is one 2-D product as well: what a CPU has a fast routine for.
    flat = x.reshape(-1, x.shape[-1])
    y = _wide_product(flat, kernel) if _wide.get() else flat @ kernel.astype(x.dtype)
    return y.reshape(*x.shape[:-1], y.shape[-1])


_wide: ContextVar[bool] = ContextVar("jvlm_wide_gradients", default=False)


@contextlib.contextmanager
def wide_gradients(on: bool) -> Iterator[None]:
    """With `on`, kernels traced inside get their gradients in their own dtype, and chips sum them in it.

    Otherwise such a gradient is rounded to the dtype of the product before chips sum it: in bfloat16, half the bytes.
    """
    token = _wide.set(on)
    try:
        yield
    finally:
        _wide.reset(token)


@jax.custom_vjp
def _wide_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel.astype(x.dtype)


def _wide_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _wide_product(x, kernel), (x, kernel)


def _wide_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return dy @ kernel.astype(x.dtype).T, jnp.matmul(x.T, dy, preferred_element_type=kernel.dtype)


_wide_product.defvjp(_wide_forward, _wide_backward)


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


def after(y: jax.Array, kernel: Kernel) -> jax.Array:
    """A layer's output `y` [..., out], its bias added, as it leaves the layer."""
    return kernel.after(y) if isinstance(kernel, Leaf) else y


def place(kernel: Kernel, names: Names, fn: Callable[[Names, Any], Any]) -> Any:
    """`fn(names, array)` in place of each array of a kernel or of None; see `Leaf.place`."""
    if kernel is None:
        return None
    return kernel.place(names, fn) if isinstance(kernel, Leaf) else fn(names, kernel)


def split(kernel: Kernel) -> tuple[Any, Any]:
    """(trained, frozen) halves of what a leaf stands on: an array is frozen."""
    return kernel.split() if isinstance(kernel, Leaf) else (None, kernel)


def keyed(params: Mapping[str, Any], key: jax.Array) -> Params:
    """`params` for one training step: each leaf draws from `key` folded with a hash of its path."""

    def put(path: str, leaf: Any) -> Any:
        if not isinstance(leaf, Leaf):
            return leaf
        return leaf.keyed(jax.random.fold_in(key, zlib.crc32(path.encode())))

    return map_paths(put, params)


def learned_rows(params: Mapping[str, Any]) -> int:
    """The most rows that any leaf of `params` puts before what its layer gives: by so many a text is moved."""
    return max((leaf.learned for leaf in flatten(params).values() if isinstance(leaf, Leaf)), default=0)


def _conv(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, groups: int, dilation: int
) -> jax.Array:
    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            tuple(strides),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    if winograd.suits(x, kernel, strides, padding, groups, dilation):
        return jax.lax.platform_dependent(x, kernel, cpu=winograd.conv3x3, default=plain)
    return plain(x, kernel)
