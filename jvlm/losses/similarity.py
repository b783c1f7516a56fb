"""Similarity of a block of images with a block of texts: what a contrastive loss multiplies by its scale.

A similarity is a differentiable function `(zimg [n, ...], ztxt [m, E], dot_dtype) -> [n, m]` in float32.
`dot_dtype` is the dtype of the factors of its matrix products (None: float32); sums are float32 in both
directions.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Similarity = Callable[[jax.Array, jax.Array, DTypeLike | None], jax.Array]


def _inner_product(zimg: jax.Array, ztxt: jax.Array, dot_dtype: DTypeLike | None = None) -> jax.Array:
    """Inner products [n, m] of `zimg` [n, E] and `ztxt` [m, E].

    The gradient is written out because that of a product with bfloat16 factors would itself be rounded to
    bfloat16 before it is accumulated.
    """
    return _product("ne,me->nm", zimg, ztxt, dot_dtype)


def _forward(zimg, ztxt, dot_dtype):
    return _inner_product(zimg, ztxt, dot_dtype), (zimg, ztxt)


def _backward(dot_dtype, saved, cotangent):
    zimg, ztxt = saved
    dimg = _product("nm,me->ne", cotangent, ztxt, dot_dtype)
    dtxt = _product("nm,ne->me", cotangent, zimg, dot_dtype)
    return dimg.astype(zimg.dtype), dtxt.astype(ztxt.dtype)


inner_product = jax.custom_vjp(_inner_product, nondiff_argnums=(2,))
inner_product.defvjp(_forward, _backward)


def max_over_queries(zimg: jax.Array, ztxt: jax.Array, dot_dtype: DTypeLike | None = None) -> jax.Array:
    """Largest inner product over an image's queries, zimg [n, Q, E] (BLIP-2, arXiv:2301.12597, section
    3.2)."""
    n, queries, width = zimg.shape
    flat = inner_product(zimg.reshape(n * queries, width), ztxt, dot_dtype)  # [n Q, m]
    return jnp.max(flat.reshape(n, queries, ztxt.shape[0]), axis=1)


def _product(spec: str, a: jax.Array, b: jax.Array, dot_dtype: DTypeLike | None) -> jax.Array:
    dtype = jnp.dtype(jnp.float32 if dot_dtype is None else dot_dtype)
    # A TPU rounds float32 factors to bfloat16 unless told otherwise.
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    product = partial(jnp.einsum, spec, precision=precision, preferred_element_type=jnp.float32)
    return product(a.astype(dtype), b.astype(dtype))
