"""Two towers into one space, with a learned temperature."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from jvlm.nn.axes import named


class DualOutput(struct.PyTreeNode):
    """`zimg` [B, E] and `ztxt` [B, E] of unit norm in float32 (None for a side not given), `scale` [] and `bias` []
    such that `scale * zimg @ ztxt.T + bias` are the logits.
    """

    zimg: jax.Array | None
    ztxt: jax.Array | None
    scale: jax.Array
    bias: jax.Array | None


def normalize(x: Float[Array, "*B E"]) -> Float[Array, "*B E"]:
    """`x` in float32 divided by its norm along the last axis; finite in value and gradient at zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-24)


def scale_of(params: Mapping[str, jax.Array]) -> jax.Array:
    """What multiplies the logits, from a dual encoder's parameters: exp(`logit_scale`), or 1 / `temperature`."""
    if "temperature" in params:
        return 1.0 / params["temperature"]
    return jnp.exp(params["logit_scale"])


class DualEncoder(nn.Module):
    """Image tower and text tower, each returning an output with `pooled`, each followed by an optional projection.

    `scale_init` is the initial temperature's inverse (exp of the parameter `logit_scale`); `bias_init` None means no
    `logit_bias` (softmax), a float initializes it (sigmoid; arXiv:2303.15343 uses 10 and -10). With `divide` the
    parameter is `temperature`, which divides the logits, as ALIGN defines it (arXiv:2102.05918, eq. 1 and 2).
    """

    image_tower: Any
    text_tower: Any
    image_proj: Any = None
    text_proj: Any = None
    scale_init: float = 1 / 0.07
    bias_init: float | None = None
    divide: bool = False

    @nn.compact
    def __call__(
        self, image: jax.Array | None = None, tokens: jax.Array | None = None, train: bool = False
    ) -> DualOutput:
        zimg = ztxt = None
        if image is not None:
            pooled = self.image_tower(image, train=train).pooled
            zimg = normalize(self.image_proj(pooled) if self.image_proj is not None else pooled)
        if tokens is not None:
            pooled = self.text_tower(tokens, train=train).pooled
            ztxt = normalize(self.text_proj(pooled) if self.text_proj is not None else pooled)
        name, init = ("temperature", 1 / self.scale_init) if self.divide else ("logit_scale", math.log(self.scale_init))
        scale = scale_of({name: self.param(name, named(nn.initializers.constant(init), ()), (), jnp.float32)})
        bias = None
        if self.bias_init is not None:
            bias = self.param("logit_bias", named(nn.initializers.constant(self.bias_init), ()), (), jnp.float32)
        return DualOutput(zimg=zimg, ztxt=ztxt, scale=scale, bias=bias)
