"""A whole text-to-image model: text towers, a UNet and an autoencoder, as one module."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jvlm.core.build import call
from jvlm.models.autoencoder import TINY as VAE_TINY
from jvlm.models.autoencoder import VARIANTS as VAES
from jvlm.models.autoencoder import Autoencoder, GaussianLatents, autoencoder
from jvlm.models.clip_text import TINY as TEXT_TINY
from jvlm.models.clip_text import VARIANTS as TEXTS
from jvlm.models.clip_text import ClipText, clip_text
from jvlm.models.unet import TINY as UNET_TINY
from jvlm.models.unet import VARIANTS as UNETS
from jvlm.models.unet import UNet
from jvlm.models.unet import unet as create_unet


class Condition(struct.PyTreeNode):
    """What the UNet is told of a text: `context` [B, T, D], and SDXL's `pooled` [B, P] (else None)."""

    context: jax.Array
    pooled: jax.Array | None = None


class LatentDiffusion(nn.Module):
    """Stable Diffusion (Rombach et al., arXiv:2112.10752), with `text_2` SDXL (Podell et al., arXiv:2307.01952).

    `schedule` holds pairs of a noise schedule's fields and values (`losses/noise.py`). `pads` are the tokens that fill
    up a text for each tower; the towers share a vocabulary. `zero_negative`: without a negative prompt the condition is
    zeros instead of the empty text.
    """

    unet: UNet
    vae: Autoencoder
    text: ClipText
    text_2: ClipText | None = None
    schedule: tuple[tuple[str, Any], ...] = ()
    pads: tuple[int, ...] = (49407,)
    zero_negative: bool = False

    @property
    def length(self) -> int:
        """Number of tokens of a text."""
        return self.text.length

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the text towers know."""
        return self.text.text_tower.vocab_size

    @property
    def multiple(self) -> int:
        """What the sides of a picture are multiples of, in pixels."""
        return self.vae.factor * 2 ** (len(self.unet.widths) - 1)

    @property
    def size(self) -> int:
        """The side of a picture as the model was trained, in pixels."""
        return self.unet.image_size * self.vae.factor

    def example(self, batch: int = 1) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of what the call takes."""
        image = self.vae.example(batch)["image"]
        return dict(image=image, tokens=((batch, self.length), jnp.int32), times=((batch,), jnp.float32))

    def __call__(self, image: jax.Array, tokens: jax.Array, times: jax.Array, train: bool = False) -> Any:
        """(prediction for the latents of `image`, `image` decoded again); this is what initializes every part."""
        out = self.vae(image)
        z = self.to_diffused(out.latents.mean)
        told = self.condition(tokens, train)
        size = (image.shape[1], image.shape[2])
        return self.predict(z, times, told, size, train=train), out.image

    def condition(self, tokens: jax.Array, train: bool = False) -> Condition:
        """The condition of `tokens` [B, T], padded for the first tower."""
        if self.text_2 is None:
            return Condition(self.text(tokens, train).tokens)
        out, other = self.text(tokens, train, layer=-1), self.text_2(self.repadded(tokens), train, layer=-1)
        hidden: Any = (out.hidden, other.hidden)
        return Condition(jnp.concatenate(hidden, axis=-1), other.pooled)

    def repadded(self, tokens: jax.Array) -> jax.Array:
        """`tokens` as the second tower takes them: what follows the first end token is its own padding."""
        tower = self.text.text_tower
        end = tokens == (tower.eos_id if tower.pool == "eos" else tokens.max(-1, keepdims=True))
        after = (jnp.cumsum(end, axis=-1) - end) > 0
        return jnp.where(after, self.pads[1], tokens)

    def predict(
        self,
        x: jax.Array,
        times: jax.Array,
        told: Condition,
        size: tuple[int, int],
        guidance: jax.Array | None = None,
        train: bool = False,
        sizes: jax.Array | None = None,
    ) -> jax.Array:
        """The UNet's prediction for latents `x` [B, h, w, C] at `times` [B], of a picture of `size`, not cropped.

        `sizes` [B, 6] says otherwise: (height, width) before, the corner cropped from, (height, width) now.
        """
        if self.unet.size_dim is None:
            sizes = None
        elif sizes is None:
            sizes = jnp.broadcast_to(jnp.asarray([*size, 0, 0, *size], jnp.float32), (x.shape[0], 6))
        return self.unet(x, times, told.context, told.pooled, sizes, guidance=guidance, train=train)

    def encode(self, image: jax.Array) -> jax.Array:
        """The latents of `image` [B, H, W, 3] in -1..1 that diffuse: their mean, scaled."""
        return self.to_diffused(self.vae.encode(image).mean)

    def moments(self, image: jax.Array) -> GaussianLatents:
        """The autoencoder's latents of `image` [B, H, W, 3], not scaled."""
        return self.vae.encode(image)

    def decode(self, x: jax.Array) -> jax.Array:
        """The picture [B, H, W, 3] in -1..1 of latents `x` as they diffuse."""
        return self.vae.decode(x / self.vae.scaling + self.vae.shift)

    def to_diffused(self, latents: jax.Array) -> jax.Array:
        """The autoencoder's latents as they diffuse."""
        return (latents - self.vae.shift) * self.vae.scaling


def latent_diffusion(
    *,
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    text: Mapping[str, Any],
    text_2: Mapping[str, Any] | None = None,
    dtype: Any = "float32",
    remat: str = "none",
    scan: bool = True,
    **fields: Any,
) -> LatentDiffusion:
    """A `LatentDiffusion` from the plain fields of its parts."""
    shared = dict(dtype=dtype, remat=remat)
    towers = [None if tower is None else clip_text(**{**shared, "scan": scan, **tower}) for tower in (text, text_2)]
    plain = dict(fields, pads=tuple(fields.get("pads", (49407,))))
    plain["schedule"] = tuple(sorted(dict(fields.get("schedule", {})).items()))
    parts = dict(
        unet=create_unet(**{**shared, "scan": scan, **unet}),
        vae=autoencoder(**{**shared, **vae}),
        text=towers[0],
        text_2=towers[1],
    )
    return call(LatentDiffusion, parts | plain, "model 'latent-diffusion'")


TINY: dict[str, Any] = dict(
    unet=dict(UNET_TINY, context_dim=32, context_length=8, image_size=4),
    vae=VAE_TINY,
    text=dict(TEXT_TINY, embed_dim=None),
)
VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2112.10752
    "sd-1.5": dict(unet=UNETS["sd-1.5"], vae=VAES["sd"], text=TEXTS["sd-1.5"]),
    # its second release: OpenCLIP's text tower; at 768 pixels v is predicted
    "sd-2.1": dict(
        unet=UNETS["sd-2.1"], vae=VAES["sd"], text=TEXTS["sd-2.1"], pads=(0,), schedule=dict(prediction="v")
    ),
    # arXiv:2307.01952
    "sdxl": dict(
        unet=UNETS["sdxl"],
        vae=VAES["sdxl"],
        text=TEXTS["sd-1.5"],
        text_2=TEXTS["sdxl-2"],
        pads=(49407, 0),
        zero_negative=True,
    ),
}
