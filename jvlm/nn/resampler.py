"""The perceiver resampler: a fixed number of latents that read any number of features."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import meta

from jvlm.nn.attention import dot_product_attention
from jvlm.nn.axes import named
from jvlm.nn.dense import Dense, normal
from jvlm.nn.layers import at_layer
from jvlm.nn.mlp import Mlp
from jvlm.nn.norms import LayerNorm


class ResamplerBlock(nn.Module):
    """Latents `x` [B, R, D] read `memory` [B, N, D] and themselves, then pass an MLP."""

    num_heads: int
    head_dim: int
    mlp_dim: int
    act: str
    qk_norm: bool
    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, memory: jax.Array) -> jax.Array:
        def norm(name: str) -> LayerNorm:
            return LayerNorm(self.eps, self.dtype, name=name)

        def heads(y: jax.Array, name: str) -> jax.Array:
            dense = Dense(
                self.num_heads * self.head_dim, axes=("embed", "heads"), use_bias=False, dtype=self.dtype, name=name
            )
            return dense(y).reshape(*y.shape[:2], self.num_heads, self.head_dim)

        latents = norm("norm_latents")(x)
        seen = jnp.concatenate([norm("norm_memory")(memory), latents], axis=1)
        query, key, value = heads(latents, "query"), heads(seen, "key"), heads(seen, "value")
        if self.qk_norm:
            query, key = norm("norm_query")(query), norm("norm_key")(key)
        y = dot_product_attention(query, key, value).reshape(*x.shape[:2], -1)
        x = x + Dense(x.shape[-1], axes=("heads", "embed"), use_bias=False, dtype=self.dtype, name="out")(y)
        mlp = Mlp(self.mlp_dim, act=self.act, use_bias=False, dtype=self.dtype, name="mlp")
        return x + mlp(norm("norm_mlp")(x))


class Resampler(nn.Module):
    """`x` [B, N, D] to [B, num_queries, D] (Flamingo, arXiv:2204.14198, section 2.1 and appendix A.1.1).

    A `width` other than D puts a product before the blocks, and is that of what comes out.
    """

    num_queries: int
    depth: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    act: str = "relu"
    qk_norm: bool = False
    eps: float = 1e-5
    width: int | None = None
    scan: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.width not in (None, x.shape[-1]):
            x = Dense(self.width, axes=(None, "embed"), use_bias=False, dtype=self.dtype, name="project")(x)
        shape = (self.num_queries, x.shape[-1])
        latents = self.param("latents", named(normal(1.0), (None, "embed")), shape, jnp.float32)
        y = jnp.broadcast_to(latents.astype(self.dtype), (x.shape[0], *shape))
        block = ResamplerBlock(
            self.num_heads, self.head_dim, self.mlp_dim, self.act, self.qk_norm, self.eps, self.dtype, parent=None
        )

        def body(block: Any, carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(carry, x), None

        if self.scan or self.is_initializing():
            run = nn.scan(
                body, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth,
                metadata_params={meta.PARTITION_NAME: "layers"},
            )  # fmt: skip
            y = run(block.copy(name="layers"), y, None)[0]
        else:
            for index in range(self.depth):
                y: Any = block.apply({"params": at_layer(self.variables["params"], index)}, y, x)
        return LayerNorm(self.eps, self.dtype, name="norm")(y)
