"""A text-to-image model in use: texts, pictures and noise in, pictures out; one compiled program a shape."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, UInt8

from jvlm.core.types import Leaf
from jvlm.generate.diffusion import guided, run, start
from jvlm.generate.steps import Plan
from jvlm.generate.tiles import tiled
from jvlm.models.latent_diffusion import Condition, LatentDiffusion


class Wish(struct.PyTreeNode):
    """What is to be painted: `tokens` [B, T], `noise` [B, h, w, Z], and maybe more.

    `negative` [B, T] tokens, None for the model's own condition without a text. `keys` [B] of a sampler's noise.
    `picture` [B, H, W, 3] in -1..1 to start from, `mask` [B, H, W, 1] that is 1 where it is painted over.
    """

    tokens: Leaf
    noise: Leaf
    negative: Leaf = None
    keys: Leaf = None
    picture: Leaf = None
    mask: Leaf = None


def paint(
    model: LatentDiffusion,
    params: Mapping[str, Any],
    wish: Wish,
    plan: Plan,
    *,
    guidance: float = 7.5,
    rescale: float = 0.0,
    whole: bool = True,
    tile: int | None = None,
) -> UInt8[np.ndarray, "B H W 3"]:
    """The pictures of a `Wish`. `plan` is the sampler's; `guidance` of at most 1 takes the text's prediction alone.

    `whole`: the plan starts from noise; else, with strength below 1, from the wish's noised picture. Pictures with a
    side of more than `tile` pixels are decoded in tiles of that size.
    """
    teaches = guidance > 1 and model.unet.guidance_dim is None
    if not plan.stochastic:
        wish = wish.replace(keys=None)
    latents = draw(model, params, wish, plan, jnp.float32(guidance), jnp.float32(rescale), teaches, whole)
    factor = model.vae.factor
    if tile is not None and max(latents.shape[1:3]) * factor > tile:
        image = tiled(functools.partial(decode, model, params), latents, tile // factor, factor)
    else:
        image = np.asarray(decode(model, params, latents))
    return np.round(np.clip(image / 2 + 0.5, 0, 1) * 255).astype(np.uint8)


@functools.partial(jax.jit, static_argnames=("model", "teaches", "whole"))
def draw(
    model: LatentDiffusion,
    params: Any,
    wish: Wish,
    plan: Plan,
    guidance: Float[Array, ""],
    rescale: Float[Array, ""],
    teaches: bool,
    whole: bool,
) -> Float[Array, "B h w Z"]:
    """The latents of `paint`. `teaches`: the difference to the prediction without the text is followed further."""
    variables = {"params": params}
    height, width = (side * model.vae.factor for side in wish.noise.shape[1:3])
    told: Any = model.apply(variables, wish.tokens, method="condition")
    conditions, without = _named(told), None
    if teaches:
        other: Any = jax.tree.map(jnp.zeros_like, told)
        if wish.negative is not None:
            other = model.apply(variables, wish.negative, method="condition")
        without = _named(other)
    mask: Any = None
    picture: Any = None
    beside: Any = None
    if wish.picture is not None:
        picture = model.apply(variables, wish.picture, method="encode")
    if wish.mask is not None:
        # The nearest pixel, as the reference resizes masks.
        mask = wish.mask[:, :: model.vae.factor, :: model.vae.factor]
        if model.unet.in_channels == 2 * model.vae.latent_channels + 1:
            hidden: Any = model.apply(variables, wish.picture * (wish.mask < 0.5), method="encode")
            beside = jnp.concatenate([mask, hidden], axis=-1)  # [B, h, w, Z + 1]

    def predict(x: jax.Array, times: jax.Array, **given: Any) -> Any:
        count = x.shape[0]
        if beside is not None:
            x = jnp.concatenate([x, jnp.tile(beside, (count // beside.shape[0], 1, 1, 1))], axis=-1)
        weight = None if model.unet.guidance_dim is None else jnp.full((count,), guidance - 1)
        return model.apply(variables, x, times, Condition(**given), (height, width), weight, method="predict")

    x = start(plan, wish.noise, None if whole else picture)
    known = None if mask is None or beside is not None else (picture, wish.noise, mask)
    return run(plan, guided(predict, conditions, without, guidance, rescale), x, keys=wish.keys, known=known)


def _named(told: Condition) -> dict[str, jax.Array]:
    return {name: value for name, value in vars(told).items() if value is not None}


@functools.partial(jax.jit, static_argnames=("model",))
def decode(model: LatentDiffusion, params: Any, latents: Float[Array, "B h w Z"]) -> Float[Array, "B H W 3"]:
    """Pictures in -1..1."""
    image: Any = model.apply({"params": params}, latents, method="decode")
    return image


def noise_shape(model: LatentDiffusion, size: tuple[int, int]) -> tuple[int, int, int]:
    """Shape of the latents of a picture of `size`, which must be a multiple of `model.multiple`."""
    return size[0] // model.vae.factor, size[1] // model.vae.factor, model.vae.latent_channels
