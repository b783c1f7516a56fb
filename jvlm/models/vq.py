"""VQ-VAE and VQGAN: an autoencoder whose latents are words of a codebook."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int

from jvlm.core.build import call
from jvlm.models.autoencoder import coders
from jvlm.nn.axes import named
from jvlm.nn.dense import Dense


class QuantizedOutput(struct.PyTreeNode):
    """The picture decoded, `image` [B, H, W, C]; `codes` [B, h, w]; the `latents` [B, h, w, E] before quantization and
    the words `chosen` for them.
    """

    image: jax.Array
    codes: jax.Array
    latents: jax.Array
    chosen: jax.Array


def nearest_codes(latents: Float[Array, "*B E"], codebook: Float[Array, "V E"]) -> Int[Array, "*B"]:
    """The row of `codebook` that is nearest to each latent, in Euclidean distance."""
    products = latents.astype(jnp.float32) @ codebook.T.astype(jnp.float32)
    return jnp.argmin(jnp.square(codebook).sum(-1) - 2 * products, axis=-1).astype(jnp.int32)


class Quantizing(nn.Module):
    """An autoencoder through a codebook (van den Oord et al., arXiv:1711.00937; Esser et al., arXiv:2012.09841).

    `image` [B, H, W, C] in -1..1. Gradients pass the quantization straight through; the codebook itself is moved by
    its loss or, `averaged`, by averages of the latents (`tasks/`), not through the picture. It is then no parameter
    but state: `vectors`, `counts` and `sums` in the collection `codebooks`.
    """

    image_size: int
    channels: int = 3
    latent_channels: int = 3
    widths: tuple[int, ...] = (64,)
    layers: int = 1
    vocab_size: int = 256
    code_dim: int = 3
    averaged: bool = False
    attend: bool = True
    scaling: float = 0.18215
    groups: int = 32
    act: str = "silu"
    remat: str = "none"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        self.encoder, self.decoder = coders(self, self.latent_channels)
        self.quant_proj = Dense(self.code_dim, (None, "embed"), dtype=self.dtype)
        self.post_quant_proj = Dense(self.latent_channels, (None, "embed"), dtype=self.dtype)
        shape = (self.vocab_size, self.code_dim)
        bound = 1.0 / self.vocab_size
        init = named(lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound), ("vocab", "embed"))
        if not self.averaged:
            self.codebook = self.param("codebook", init, shape, jnp.float32)
            return
        vectors = self.variable("codebooks", "vectors", lambda: init(self.make_rng("params"), shape, jnp.float32))
        # As if every word had been seen once.
        self.variable("codebooks", "counts", named(jnp.ones, ("vocab",)), shape[:1], jnp.float32)
        self.variable("codebooks", "sums", lambda: vectors.value)
        self.codebook = vectors.value

    def example(self, batch: int = 1) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of what the call takes."""
        return dict(image=((batch, self.image_size, self.image_size, self.channels), jnp.float32))

    def __call__(self, image: jax.Array, train: bool = False) -> QuantizedOutput:
        latents = self.encode(image)
        codes = nearest_codes(jax.lax.stop_gradient(latents), self.codebook)
        chosen = jnp.take(self.codebook, codes, axis=0)
        passed = latents + jax.lax.stop_gradient(chosen - latents)
        return QuantizedOutput(self.decode(passed), codes, latents, chosen)

    def encode(self, image: jax.Array) -> jax.Array:
        """Latents [B, h, w, E] before quantization."""
        return self.quant_proj(self.encoder(image)).astype(jnp.float32)

    def decode(self, latents: jax.Array) -> jax.Array:
        """The picture of `latents` [B, h, w, E], words or not."""
        return self.decoder(self.post_quant_proj(latents)).astype(jnp.float32)

    def decode_codes(self, codes: jax.Array) -> jax.Array:
        """The picture of `codes` [B, h, w]."""
        return self.decode(jnp.take(self.codebook, codes, axis=0))


def quantizing(*, dtype: Any = "float32", **fields: Any) -> Quantizing:
    """A `Quantizing` autoencoder from plain fields; lists may stand for tuples."""
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return call(Quantizing, {**plain, "dtype": jnp.dtype(dtype)}, "model 'vq'")


VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2112.10752, appendix G: the f4 model with 8,192 words
    "f4-8192": dict(image_size=256, widths=(128, 256, 512), layers=2, vocab_size=8192),
}

TINY: dict[str, Any] = dict(image_size=8, widths=(8, 16), layers=1, vocab_size=11, code_dim=4, groups=4)
