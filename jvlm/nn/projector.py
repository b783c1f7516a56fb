"""From image features to the width of a language model: one linear layer, or an MLP."""

import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.nn.activations import activation
from jvlm.nn.dense import Dense, normal


class Projector(nn.Module):
    """`x` [B, N, D] to [B, N, width] through `depth` Dense layers `fc1`, `fc2`, ... with `act` between them.

    With `merge` k the features of k x k neighbouring patches of a square grid become one, side by side (InternVL 1.5's
    pixel shuffle, arXiv:2404.16821, section 3.1): [B, N / k^2, width].
    """

    width: int
    depth: int = 2
    act: str = "gelu"
    use_bias: bool = True
    merge: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.merge > 1:
            side = math.isqrt(x.shape[1])
            if side * side != x.shape[1] or side % self.merge:
                raise ValueError(f"{x.shape[1]} patches are no square grid that falls into parts of {self.merge}")
            x = einops.rearrange(
                x, "b (h p w q) d -> b (h w) (p q d)", p=self.merge, q=self.merge, w=side // self.merge
            )
        for index in range(1, self.depth + 1):
            x = x if index == 1 else activation(self.act)(x)
            axes = (None, "embed") if index == 1 else ("embed", None)
            x = Dense(
                self.width, axes=axes, use_bias=self.use_bias, kernel_init=normal(0.02), dtype=self.dtype,
                name=f"fc{index}",
            )(x)  # fmt: skip
        return x
