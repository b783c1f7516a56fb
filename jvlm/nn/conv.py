"""2-D convolutions with named axes, multiplied by `core/leaves.py`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core import leaves
from jvlm.nn.axes import named
from jvlm.nn.dense import Initializer

Padding = str | tuple[tuple[int, int], tuple[int, int]]


class Conv(nn.Module):
    """`x` [B, H, W, in] to [B, H', W', features]; parameters `kernel` [k, k, in / groups, features] and `bias`.

    `axes` names the kernel's last two axes for sharding. `padding` is `SAME`, `VALID` or ((top, bottom), (left,
    right)) pixels of zeros.
    """

    features: int
    kernel_size: int
    axes: tuple[str | None, str | None]
    strides: int = 1
    padding: Padding = "SAME"
    groups: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k = self.kernel_size
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", named(self.kernel_init, (None, None, *self.axes)), shape, jnp.float32)
        strides = (self.strides, self.strides)
        y = leaves.conv(x.astype(self.dtype), kernel, strides, self.padding, groups=self.groups)
        if self.use_bias:
            bias = self.param("bias", named(self.bias_init, self.axes[1:]), (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)
        return leaves.after(y, kernel)
