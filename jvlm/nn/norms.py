"""Normalization layers, computed in float32 whatever the dtype around them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.nn.axes import named
from jvlm.nn.reductions import mean_last, sum_rows


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """`(x - mean) / sqrt(variance + eps) * scale + bias` over the last axis, all in float32."""
    return _layer_norm(x, scale, bias, eps)[0]


def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> tuple[jax.Array, Any]:
    # Two passes: E[x^2] - E[x]^2 loses the variance of activations with a large mean.
    centered = x - mean_last(x)
    inverse = jax.lax.rsqrt(mean_last(jnp.square(centered)) + eps)
    normal = centered * inverse
    return normal * scale + bias, (normal, inverse, scale, bias)


def _backward(eps: float, saved: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    normal, inverse, scale, bias = saved
    d = cotangent * scale
    dx = (d - mean_last(d) - normal * mean_last(d * normal)) * inverse
    dscale, dbias = sum_rows(cotangent * normal), sum_rows(cotangent)
    return dx, dscale.astype(scale.dtype), dbias.astype(bias.dtype)


layer_norm.defvjp(_layer_norm, _backward)


class LayerNorm(nn.Module):
    """Layer normalization over the last axis (Ba et al., arXiv:1607.06450)."""

    eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        scale = self.param("scale", named(nn.initializers.ones_init(), ("embed",)), (width,), jnp.float32)
        bias = self.param("bias", named(nn.initializers.zeros_init(), ("embed",)), (width,), jnp.float32)
        y: Any = layer_norm(x.astype(jnp.float32), scale, bias, self.eps)
        return y.astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """`x / sqrt(mean(x^2) + eps) * scale` over the last axis, all in float32."""
    return _rms_norm(x, scale, eps)[0]


def _rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> tuple[jax.Array, Any]:
    inverse = jax.lax.rsqrt(mean_last(jnp.square(x)) + eps)
    normal = x * inverse
    return normal * scale, (normal, inverse, scale)


def _rms_backward(eps: float, saved: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    normal, inverse, scale = saved
    d = cotangent * scale
    return (d - normal * mean_last(d * normal)) * inverse, sum_rows(cotangent * normal).astype(scale.dtype)


rms_norm.defvjp(_rms_norm, _rms_backward)


class RMSNorm(nn.Module):
    """Root-mean-square normalization over the last axis (Zhang and Sennrich, arXiv:1910.07467).

    `offset` is added to the parameter `scale`: 1 for Gemma, which stores the difference from one.
    """

    eps: float = 1e-6
    offset: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", named(init, ("embed",)), (x.shape[-1],), jnp.float32)
        y: Any = rms_norm(x.astype(jnp.float32), scale.astype(jnp.float32) + self.offset, self.eps)
        return y.astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch normalization over every axis but the last (Ioffe and Szegedy, arXiv:1502.03167).

    Running statistics are state: `mean` and `var` in the collection `batch_stats`, used in evaluation and, with
    `train`, moved towards those of the batch by `1 - momentum`. Under a sharded batch the statistics are global.
    """

    eps: float = 1e-3
    momentum: float = 0.99
    axis: str | None = "embed"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        width = x.shape[-1]
        ones, zeros = (named(init(), (self.axis,)) for init in (nn.initializers.ones_init, nn.initializers.zeros_init))
        scale = self.param("scale", ones, (width,), jnp.float32)
        bias = self.param("bias", zeros, (width,), jnp.float32)
        mean = self.variable("batch_stats", "mean", zeros, None, (width,), jnp.float32)
        var = self.variable("batch_stats", "var", ones, None, (width,), jnp.float32)
        x = x.astype(jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            batch_mean = x.mean(axes)
            batch_var = jnp.square(x - batch_mean).mean(axes)
            if not self.is_initializing():
                mean.value = self.momentum * mean.value + (1 - self.momentum) * batch_mean
                var.value = self.momentum * var.value + (1 - self.momentum) * batch_var
        else:
            batch_mean, batch_var = mean.value, var.value
        y = (x - batch_mean) * jax.lax.rsqrt(batch_var + self.eps)
        return (y * scale + bias).astype(self.dtype)
