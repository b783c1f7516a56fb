"""The UNet of diffusion models: Stable Diffusion's, SDXL's, and those that work on pixels."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jvlm.core.build import call, lookup
from jvlm.nn.activations import activation
from jvlm.nn.conv import Conv
from jvlm.nn.dense import Dense, Embed
from jvlm.nn.group_norm import GroupNorm
from jvlm.nn.positions import waves
from jvlm.nn.remat import REMAT
from jvlm.nn.residual import Downsample, Residual, Upsample
from jvlm.nn.spatial import SpatialAttention, SpatialTransformer


class TimeMlp(nn.Module):
    """`x` [B, D] through two products to [B, width], with what is known of `guidance` [B] added to `x` at first."""

    width: int
    act: str = "silu"
    guidance_dim: int | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, guidance: jax.Array | None = None) -> jax.Array:
        if self.guidance_dim is not None:
            guidance = jnp.zeros(x.shape[:1]) if guidance is None else guidance
            known = waves(1000.0 * guidance, self.guidance_dim, cosine_first=False, shift=1.0)
            dense = Dense(x.shape[-1], (None, "embed"), use_bias=False, dtype=self.dtype, name="guidance")
            x = x + dense(known)
        y = activation(self.act)(Dense(self.width, (None, "mlp"), dtype=self.dtype, name="up")(x))
        return Dense(self.width, ("mlp", None), dtype=self.dtype, name="down")(y)


class UNet(nn.Module):
    """What a diffusion model predicts of `x` [B, H, W, C] at `times` [B] (Ho et al., arXiv:2006.11239, appendix B).

    A level has `layers` residuals of a width on the way down and one more on the way up. `depths` has a number of
    transformer blocks for each level, none for 0: attending to `context` [B, T, context_dim] (Rombach et al.,
    arXiv:2112.10752) or, with `context_dim` None, one self-attention (pixels). `num_heads` are those of each level.
    `mid_depth` is the middle's, at the last level's width. `linear_projection` only says how a file lays out the
    products around the blocks. SDXL adds `pooled` [B, P] and six `sizes` [B, 6], each embedded in `size_dim`
    (arXiv:2307.01952, section 2.2). `num_classes` adds an embedding of `labels` [B]; `guidance_dim` makes the guidance
    weight an input (arXiv:2310.04378, section 4.3). Height and width must be multiples of 2 ** (levels - 1).
    """

    image_size: int
    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)
    mid_depth: int = 1
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    context_dim: int | None = 768
    context_length: int = 77
    linear_projection: bool = False
    size_dim: int | None = None
    pooled_dim: int | None = None
    num_classes: int | None = None
    guidance_dim: int | None = None
    cosine_first: bool = True
    frequency_shift: float = 0.0
    down_padding: int = 1
    modulate: bool = False
    groups: int = 32
    eps: float = 1e-5
    act: str = "silu"
    dropout: float = 0.0
    scan: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    def example(self, batch: int = 1) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Shape and dtype of what the call takes."""
        out: dict[str, tuple[tuple[int, ...], Any]] = dict(
            x=((batch, self.image_size, self.image_size, self.in_channels), jnp.float32), times=((batch,), jnp.float32)
        )
        if self.context_dim is not None:
            out["context"] = ((batch, self.context_length, self.context_dim), jnp.float32)
        if self.size_dim is not None:
            out["pooled"] = ((batch, self.pooled_dim or 0), jnp.float32)
            out["sizes"] = ((batch, 6), jnp.float32)
        if self.num_classes is not None:
            out["labels"] = ((batch,), jnp.int32)
        return out

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        times: jax.Array,
        context: jax.Array | None = None,
        pooled: jax.Array | None = None,
        sizes: jax.Array | None = None,
        labels: jax.Array | None = None,
        guidance: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        if any(side % 2 ** (len(self.widths) - 1) for side in x.shape[1:3]):
            raise ValueError(f"{x.shape[1]} x {x.shape[2]} is no multiple of {2 ** (len(self.widths) - 1)}")
        time = self._time(times, pooled, sizes, labels, guidance)
        context = None if context is None else context.astype(self.dtype)
        x = Conv(self.widths[0], 3, (None, "embed"), dtype=self.dtype, name="conv_in")(x)
        last = len(self.widths) - 1
        skips = [x]
        for level, width in enumerate(self.widths):
            for layer in range(self.layers):
                x = self._residual(width, f"down{level}_residual{layer}")(x, time, train)
                x = self._attend(x, context, train, level, self.depths[level], f"down{level}_attention{layer}")
                skips.append(x)
            if level < last:
                x = Downsample(self.down_padding, self.dtype, name=f"down{level}_sample")(x)
                skips.append(x)
        x = self._residual(self.widths[-1], "mid_residual0")(x, time, train)
        x = self._attend(x, context, train, last, self.mid_depth, "mid_attention")
        x = self._residual(self.widths[-1], "mid_residual1")(x, time, train)
        for level, width in reversed(list(enumerate(self.widths))):
            for layer in range(self.layers + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._residual(width, f"up{level}_residual{layer}")(x, time, train)
                x = self._attend(x, context, train, level, self.depths[level], f"up{level}_attention{layer}")
            if level > 0:
                x = Upsample(self.dtype, name=f"up{level}_sample")(x)
        x = activation(self.act)(GroupNorm(self.groups, self.eps, self.dtype, name="norm_out")(x))
        x = Conv(self.out_channels, 3, ("embed", None), dtype=self.dtype, name="conv_out")(x)
        return x.astype(jnp.float32)

    def _time(self, times: jax.Array, pooled: Any, sizes: Any, labels: Any, guidance: Any) -> jax.Array:
        """[B, 4 * widths[0]]: the time and everything else that every residual is told."""
        width = 4 * self.widths[0]
        known = waves(times, self.widths[0], self.cosine_first, self.frequency_shift)
        time = TimeMlp(width, self.act, self.guidance_dim, self.dtype, name="time")(known, guidance)
        if self.num_classes is not None:
            time = time + Embed(self.num_classes, width, (None, "embed"), dtype=self.dtype, name="classes")(labels)
        if self.size_dim is not None:
            embedded = waves(sizes.reshape(-1), self.size_dim, self.cosine_first, self.frequency_shift)
            added = jnp.concatenate([pooled, embedded.reshape(sizes.shape[0], -1)], axis=-1)
            time = time + TimeMlp(width, self.act, dtype=self.dtype, name="added")(added)
        return time

    def _residual(self, width: int, name: str) -> Any:
        block: Any = Residual
        if self.remat != "none":
            block = nn.remat(Residual, policy=lookup(REMAT, self.remat, "remat policy"), static_argnums=(3,))
        return block(width, self.groups, self.eps, self.act, self.modulate, self.dropout, self.dtype, name=name)

    def _attend(self, x: jax.Array, context: Any, train: bool, level: int, depth: int, name: str) -> jax.Array:
        heads = self.num_heads[level]
        if depth == 0:
            return x
        if self.context_dim is None:
            return SpatialAttention(heads, self.groups, self.eps, self.dtype, name=name)(x)
        transformer = SpatialTransformer(
            depth, heads, self.groups, self.dropout, self.scan, self.remat, self.dtype, name=name
        )
        return transformer(x, context, train)


def unet(*, dtype: Any = "float32", **fields: Any) -> UNet:
    """A `UNet` from plain fields; lists may stand for tuples."""
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return call(UNet, {**plain, "dtype": jnp.dtype(dtype)}, "model 'unet'")


_SDXL = dict(
    image_size=128,
    widths=(320, 640, 1280),
    depths=(0, 2, 10),
    mid_depth=10,
    num_heads=(5, 10, 20),
    context_dim=2048,
    linear_projection=True,
    size_dim=256,
    pooled_dim=1280,
)
VARIANTS: dict[str, dict[str, Any]] = {
    # arXiv:2112.10752 and the releases that followed it
    "sd-1.5": dict(image_size=64),
    "sd-1.5-inpainting": dict(image_size=64, in_channels=9),
    "sd-2.1": dict(image_size=96, num_heads=(5, 10, 20, 20), context_dim=1024, linear_projection=True),
    # arXiv:2307.01952
    "sdxl": _SDXL,
    # arXiv:2006.11239, as released for CIFAR-10
    "ddpm-cifar10": dict(
        image_size=32,
        in_channels=3,
        out_channels=3,
        widths=(128, 256, 256, 256),
        depths=(0, 1, 0, 0),
        num_heads=(1, 1, 1, 1),
        context_dim=None,
        cosine_first=False,
        frequency_shift=1.0,
        down_padding=0,
        eps=1e-6,
    ),
}

TINY: dict[str, Any] = dict(
    image_size=4,
    widths=(16,),
    layers=1,
    depths=(2,),
    mid_depth=0,
    num_heads=(2,),
    context_dim=12,
    context_length=5,
    groups=4,
)
