"""The feed-forward half of a transformer block."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.sharding import constrain
from jvlm.nn.activations import activation
from jvlm.nn.dense import Dense, Initializer


class Mlp(nn.Module):
    """`x` [..., D] through `up` [D, mlp_dim], an activation and `down` [mlp_dim, D].

    With `gated` the activation is of another product, `gate` [D, mlp_dim], that multiplies `up`'s (arXiv:2002.05202).
    """

    mlp_dim: int
    act: str = "gelu"
    use_bias: bool = True
    gated: bool = False
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared: dict[str, Any] = dict(use_bias=self.use_bias, kernel_init=self.kernel_init, dtype=self.dtype)
        y = Dense(self.mlp_dim, axes=("embed", "mlp"), settle=True, name="up", **shared)(x)
        y = constrain(y, ("batch",) + (None,) * (y.ndim - 2) + ("mlp",))
        if self.gated:
            gate = Dense(self.mlp_dim, axes=("embed", "mlp"), settle=True, name="gate", **shared)(x)
            y = y * activation(self.act)(constrain(gate, ("batch",) + (None,) * (gate.ndim - 2) + ("mlp",)))
        else:
            y = activation(self.act)(y)
        return Dense(x.shape[-1], axes=("mlp", "embed"), name="down", **shared)(y)
