"""From image features to the width of a language model: one linear layer, or an MLP."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.nn.activations import activation
from jvlm.nn.dense import Dense, normal


class Projector(nn.Module):
    """`x` [B, N, D] to [B, N, width] through `depth` Dense layers `fc1`, `fc2`, ... with `act` between them."""

    width: int
    depth: int = 2
    act: str = "gelu"
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for index in range(1, self.depth + 1):
            x = x if index == 1 else activation(self.act)(x)
            axes = (None, "embed") if index == 1 else ("embed", None)
            x = Dense(
                self.width, axes=axes, use_bias=self.use_bias, kernel_init=normal(0.02), dtype=self.dtype,
                name=f"fc{index}",
            )(x)  # fmt: skip
        return x
