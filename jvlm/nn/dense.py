"""Dense layers and embeddings: the kernels of the library, all 2-D, multiplied by `core/leaves.py`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jvlm.core import leaves
from jvlm.core.sharding import Names
from jvlm.nn.axes import named
from jvlm.nn.reductions import add_bias, settled

Initializer = nn.initializers.Initializer

# Cached, so that two modules built from the same fields are equal: flax compares initializers by identity.
normal = functools.cache(nn.initializers.normal)


class Dense(nn.Module):
    """`x` [..., in] to [..., features]; parameters `kernel` [in, features] and `bias` [features] in float32.

    `axes` names the kernel's two axes for sharding. The remat policies of `nn/remat.py` know the output by the
    module's name. `settle`: see `settled`.
    """

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool = True
    settle: bool = False
    dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", named(self.kernel_init, self.axes), shape, jnp.float32)
        x = x.astype(self.dtype)
        if self.settle and not isinstance(kernel, leaves.Leaf):
            x, kernel = settled(x, kernel)
        y = leaves.matmul(x, kernel)
        if self.use_bias:
            bias = self.param("bias", named(self.bias_init, self.axes[1:]), (self.features,), jnp.float32)
            y = add_bias(y, bias)
        y = leaves.after(y, kernel)
        return checkpoint_name(y, self.name) if self.name else y


class Embed(nn.Module):
    """`ids` [...] to [..., width]; parameter `embedding` [num, width]. `attend` gives the logits of a tied head."""

    num: int
    width: int
    axes: Names = ("vocab", "embed")
    dtype: Any = jnp.float32
    embedding_init: Initializer = nn.initializers.normal(0.02)

    def setup(self) -> None:
        self.embedding = self.param(
            "embedding", named(self.embedding_init, self.axes), (self.num, self.width), jnp.float32
        )

    def __call__(self, ids: jax.Array) -> jax.Array:
        return leaves.after(leaves.take(self.embedding, ids, self.dtype), self.embedding)

    def attend(self, x: jax.Array) -> jax.Array:
        return leaves.attend(x, self.embedding)
