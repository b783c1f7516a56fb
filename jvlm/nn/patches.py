"""Pictures to sequences: the patch embedding as a product, and the dropping of patches in training."""

from typing import Any

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.nn.dense import Dense


class PatchEmbed(nn.Module):
    """`image` [B, H, W, C] to [B, N, D]: non-overlapping patches, row-major, each [h w C] flattened, through `proj`.

    A strided convolution in the papers; as a Dense its kernel is 2-D like every other. Pixels beyond the last whole
    patch are dropped, as the convolution drops them.
    """

    width: int
    patch_size: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        p = self.patch_size
        rows, cols = image.shape[1] // p, image.shape[2] // p
        image = image[:, : rows * p, : cols * p]
        x = einops.rearrange(image, "b (h p) (w q) c -> b (h w) (p q c)", p=p, q=p)
        return Dense(self.width, axes=("patch", "embed"), use_bias=self.use_bias, dtype=self.dtype, name="proj")(x)


def drop_patches(x: jax.Array, rate: float, rng: jax.Array) -> jax.Array:
    """Keeps a random `1 - rate` of the tokens of each `x` [B, N, D], in order (FLIP, arXiv:2212.00794)."""
    batch, length = x.shape[:2]
    keep = max(1, round(length * (1.0 - rate)))
    noise = jax.random.uniform(rng, (batch, length))
    chosen = jnp.sort(jnp.argsort(noise, axis=-1)[:, :keep], axis=-1)
    return jnp.take_along_axis(x, chosen[:, :, None], axis=1)  # [B, keep, D]
