"""Autoencoders of pictures: the parts that a Gaussian and a quantized bottleneck share, and the Gaussian one."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jvlm.core.build import call, lookup
from jvlm.nn.activations import activation
from jvlm.nn.conv import Conv
from jvlm.nn.dense import Dense
from jvlm.nn.group_norm import GroupNorm
from jvlm.nn.remat import REMAT
from jvlm.nn.residual import Downsample, Residual, Upsample
from jvlm.nn.spatial import SpatialAttention

EPS = 1e-6


class Coder(nn.Module):
    """One half of an autoencoder: `x` [B, H, W, C] to features of `channels`, at another resolution.

    Encoding, a level of `layers` residuals is followed by half the resolution, and the middle comes last; decoding,
    the middle comes first, and levels of one more residual come in reverse, each doubling the resolution. All but the
    last level change it. With `attend` the middle has an attention of one head.
    """

    channels: int
    widths: tuple[int, ...]
    layers: int
    decodes: bool = False
    attend: bool = True
    groups: int = 32
    act: str = "silu"
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        order = list(enumerate(self.widths))
        if self.decodes:
            order.reverse()
        x = Conv(order[0][1], 3, (None, "embed"), dtype=self.dtype, name="conv_in")(x)
        if self.decodes:
            x = self._middle(x)
        for place, (level, width) in enumerate(order):
            for layer in range(self.layers + self.decodes):
                x = self._residual(width, f"level{level}_residual{layer}")(x)
            if place < len(order) - 1:
                change = Upsample(self.dtype, name=f"level{level}_sample") if self.decodes else None
                x = (change or Downsample(0, self.dtype, name=f"level{level}_sample"))(x)
        if not self.decodes:
            x = self._middle(x)
        x = activation(self.act)(GroupNorm(self.groups, EPS, self.dtype, name="norm_out")(x))
        return Conv(self.channels, 3, ("embed", None), dtype=self.dtype, name="conv_out")(x)

    def _middle(self, x: jax.Array) -> jax.Array:
        x = self._residual(self.widths[-1], "mid_residual0")(x)
        if self.attend:
            x = SpatialAttention(1, self.groups, EPS, self.dtype, name="mid_attention")(x)
        return self._residual(self.widths[-1], "mid_residual1")(x)

    def _residual(self, width: int, name: str) -> Any:
        block: Any = Residual
        if self.remat != "none":
            block = nn.remat(Residual, policy=lookup(REMAT, self.remat, "remat policy"))
        return block(width, self.groups, EPS, self.act, dtype=self.dtype, name=name)


def coders(model: Any, features: int) -> tuple[Coder, Coder]:
    """The two halves of an autoencoder, the first giving `features`, from the fields that `model` shares with them."""
    names = ("widths", "layers", "attend", "groups", "act", "remat", "dtype")
    shared: dict[str, Any] = {name: getattr(model, name) for name in names}
    return Coder(features, **shared), Coder(model.channels, decodes=True, **shared)


class GaussianLatents(struct.PyTreeNode):
    """`mean` and `log_variance` [B, h, w, Z] of each latent, in float32."""

    mean: jax.Array
    log_variance: jax.Array

    def sample(self, noise: jax.Array) -> jax.Array:
        """A draw, from standard normal `noise` [B, h, w, Z]."""
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise

    def divergence(self) -> jax.Array:
        """Kullback-Leibler divergence [B] from a standard normal, in nats (arXiv:1312.6114, appendix B)."""
        terms = jnp.square(self.mean) + jnp.exp(self.log_variance) - 1.0 - self.log_variance
        return 0.5 * terms.sum(axis=(1, 2, 3))


class AutoencoderOutput(struct.PyTreeNode):
    """The picture decoded, `image` [B, H, W, C], and the `latents` it came from."""

    image: jax.Array
    latents: GaussianLatents


class Autoencoder(nn.Module):
    """AutoencoderKL (Rombach et al., arXiv:2112.10752, section 3.1 and appendix G).

    `image` [B, H, W, C] in -1..1, sides a multiple of `factor`. What diffuses is `(latents - shift) * scaling`.
    `quant` and `post_quant` are products of one pixel around the latents.
    """

    image_size: int
    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    attend: bool = True
    quant: bool = True
    post_quant: bool = True
    scaling: float = 0.18215
    shift: float = 0.0
    groups: int = 32
    act: str = "silu"
    remat: str = "none"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        count = 2 * self.latent_channels
        self.encoder, self.decoder = coders(self, count)
        if self.quant:
            self.quant_proj = Dense(count, (None, "embed"), dtype=self.dtype)
        if self.post_quant:
            self.post_quant_proj = Dense(self.latent_channels, (None, "embed"), dtype=self.dtype)

    @property
    def factor(self) -> int:
        """How many pixels a side of a latent stands for."""
        return 2 ** (len(self.widths) - 1)

    def example(self, batch: int = 1) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of what the call takes."""
        return dict(image=((batch, self.image_size, self.image_size, self.channels), jnp.float32))

    def __call__(self, image: jax.Array, noise: jax.Array | None = None, train: bool = False) -> AutoencoderOutput:
        """Decodes a draw with standard normal `noise` [B, h, w, Z], or the mean."""
        latents = self.encode(image)
        return AutoencoderOutput(self.decode(latents.mean if noise is None else latents.sample(noise)), latents)

    def encode(self, image: jax.Array) -> GaussianLatents:
        """Latents of `image` [B, H, W, C], not scaled."""
        if any(side % self.factor for side in image.shape[1:3]):
            raise ValueError(f"{image.shape[1]} x {image.shape[2]} pixels are no multiple of {self.factor}")
        moments = self.encoder(image)
        if self.quant:
            moments = self.quant_proj(moments)
        mean, log_variance = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return GaussianLatents(mean, jnp.clip(log_variance, -30.0, 20.0))

    def decode(self, latents: jax.Array) -> jax.Array:
        """The picture [B, H, W, C] of `latents` [B, h, w, Z], not scaled."""
        if self.post_quant:
            latents = self.post_quant_proj(latents)
        return self.decoder(latents).astype(jnp.float32)


def autoencoder(*, dtype: Any = "float32", **fields: Any) -> Autoencoder:
    """An `Autoencoder` from plain fields; lists may stand for tuples."""
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return call(Autoencoder, {**plain, "dtype": jnp.dtype(dtype)}, "model 'autoencoder'")


VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2112.10752, the f8 model of Stable Diffusion
    "sd": dict(image_size=512),
    # arXiv:2307.01952
    "sdxl": dict(image_size=1024, scaling=0.13025),
    # arXiv:2403.03206, 16 channels
    "sd3": dict(
        image_size=1024, latent_channels=16, quant=False, post_quant=False, scaling=1.5305, shift=0.0609
    ),
}  # fmt: skip

TINY: dict[str, Any] = dict(image_size=8, widths=(8, 16), layers=1, groups=4)
