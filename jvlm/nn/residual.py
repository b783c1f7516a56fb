"""Residual convolutions and the changes of resolution between them: what UNets and autoencoders are made of."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.sharding import constrain
from jvlm.nn.activations import activation
from jvlm.nn.conv import Conv
from jvlm.nn.dense import Dense
from jvlm.nn.group_norm import GroupNorm


class Residual(nn.Module):
    """`x` [B, H, W, C] to [B, H, W, width] through two normalized convolutions, added to (a product of) `x`.

    `time` [B, T], an embedding of the diffusion time, is added between the two (Ho et al., arXiv:2006.11239, appendix
    B); with `modulate` it scales and shifts what the second normalization returns (arXiv:2105.05233, section 3).
    """

    width: int
    groups: int = 32
    eps: float = 1e-5
    act: str = "silu"
    modulate: bool = False
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array | None = None, train: bool = False) -> jax.Array:
        act = activation(self.act)

        def norm(name: str) -> GroupNorm:
            return GroupNorm(self.groups, self.eps, self.dtype, name=name)

        y = Conv(self.width, 3, ("embed", "mlp"), dtype=self.dtype, name="conv_in")(act(norm("norm_in")(x)))
        scale = None
        if time is not None:
            count = 2 * self.width if self.modulate else self.width
            moved = Dense(count, (None, "mlp"), dtype=self.dtype, name="time")(act(time))[:, None, None, :]
            if self.modulate:
                scale, moved = jnp.split(moved, 2, axis=-1)
                y = norm("norm_out")(y) * (1 + scale) + moved
            else:
                y = y + moved
        if scale is None:
            y = norm("norm_out")(y)
        y = nn.Dropout(self.dropout, deterministic=not train)(act(y))
        y = Conv(self.width, 3, ("mlp", "embed"), dtype=self.dtype, name="conv_out")(y)
        if x.shape[-1] != self.width:
            x = Dense(self.width, (None, "embed"), dtype=self.dtype, name="shortcut")(x)
        return constrain(x + y, ("batch", None, None, None))


class Downsample(nn.Module):
    """`x` [B, H, W, C] to [B, H / 2, W / 2, C] by a convolution; `padding` 0 pads below and to the right alone."""

    padding: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side = (self.padding, 1)
        return Conv(
            x.shape[-1], 3, (None, "embed"), strides=2, padding=(side, side), dtype=self.dtype, name="conv"
        )(x)  # fmt: skip


class Upsample(nn.Module):
    """`x` [B, H, W, C] to [B, 2 H, 2 W, C]: every pixel four times, then a convolution."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
        x = x.reshape(batch, 2 * height, 2 * width, channels)
        return Conv(channels, 3, (None, "embed"), dtype=self.dtype, name="conv")(x)
