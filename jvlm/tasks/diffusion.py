"""Learning to denoise: the training of latent diffusion models."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jvlm.core.types import Batch, Grads, Loss, Params, Predict, Variables
from jvlm.losses.diffusion import denoising_loss
from jvlm.losses.noise import Schedule, at, min_snr_weight, noised, target
from jvlm.models.latent_diffusion import LatentDiffusion
from jvlm.tasks.base import accumulate


class Draws(NamedTuple):
    """What a step draws: `times` [B], `noise` and `posterior` [B, h, w, Z], `dropped` [B]."""

    times: jax.Array
    noise: jax.Array
    posterior: jax.Array
    dropped: jax.Array


@dataclass(frozen=True)
class Diffusion:
    """The squared error of the UNet's prediction at a random time (Rombach et al., arXiv:2112.10752, eq. 2).

    Batches hold `image` [B, H, W, 3] in -1..1 or, with `cached`, the autoencoder's `moments` [B, h, w, 2 Z] (mean, then
    log variance), one size a batch; `sizes` [B, 6] for an SDXL (see `LatentDiffusion.predict`); `tokens` [B, T]; maybe
    `weight` [B]. `caption_dropout` is the share of texts replaced by the empty one, or of conditions by zeros where the
    model paints from those, which guidance needs (arXiv:2207.12598, algorithm 1). `offset_noise` adds so much noise
    that a whole channel shares. `min_snr` is the gamma of arXiv:2303.09556. With `logit_normal` a flow's times are
    drawn from that distribution (arXiv:2403.03206, section 3.1). What is not to be trained is frozen by the
    configuration.
    """

    model: LatentDiffusion
    caption_dropout: float = 0.1
    offset_noise: float = 0.0
    min_snr: float | None = None
    logit_normal: bool = False
    cached: bool = False

    @property
    def schedule(self) -> Schedule:
        """The model's."""
        return Schedule(**dict(self.model.schedule))

    def shapes(self, batch: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a batch, from what the model takes."""
        batch = {key: value for key, value in batch.items() if key != "times"}
        if self.cached:
            rows, height, width, _ = batch.pop("image").shape
            factor, channels = self.model.vae.factor, 2 * self.model.vae.latent_channels
            shape = (rows, height // factor, width // factor, channels)
            batch["moments"] = jax.ShapeDtypeStruct(shape, np.float32)
        if self.model.unet.size_dim is not None:
            batch["sizes"] = jax.ShapeDtypeStruct((*batch["tokens"].shape[:1], 6), np.float32)
        return batch

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        tokens, rows = batch["tokens"], batch["tokens"].shape[0]
        image = batch.get("image")
        if image is None:
            side = self.model.vae.factor
            height, width = (size * side for size in batch["moments"].shape[1:3])
            image = jnp.zeros((rows, height, width, self.model.vae.channels))
        variables = dict(self.model.init(rng, image, tokens, jnp.zeros(rows)))
        return Variables(variables.pop("params"), variables)

    def draws(self, rng: jax.Array, shape: tuple[int, ...]) -> Draws:
        """The random part of a step over latents of `shape` [B, h, w, Z]; the same for the same key."""
        keys = jax.random.split(rng, 5)
        length = self.schedule.length
        if self.logit_normal:
            where = jax.nn.sigmoid(jax.random.normal(keys[0], shape[:1]))
            times = jnp.minimum((where * length).astype(jnp.int32), length - 1)
        else:
            times = jax.random.randint(keys[0], shape[:1], 0, length)
        noise = jax.random.normal(keys[1], shape)
        if self.offset_noise:
            noise = noise + self.offset_noise * jax.random.normal(keys[2], (shape[0], 1, 1, shape[-1]))
        dropped = jax.random.bernoulli(keys[3], self.caption_dropout, shape[:1])
        return Draws(times, noise, jax.random.normal(keys[4], shape), dropped)

    def loss(self, params: Params, state: Params, batch: Batch, rng: jax.Array) -> Loss:
        key, dropout = jax.random.split(rng)

        def apply(method: str, *args: Any, **options: Any) -> Any:
            rngs = {"dropout": dropout}
            return self.model.apply({"params": params, **state}, *args, method=method, rngs=rngs, **options)

        mean, log_variance = self._moments(apply, batch)
        draws = self.draws(key, mean.shape)
        latents = mean + jnp.exp(0.5 * log_variance) * draws.posterior
        x = jax.lax.stop_gradient(apply("to_diffused", latents))
        alpha, sigma = (at(level, draws.times, x.ndim) for level in self.schedule.levels())
        told = self._told(apply, batch["tokens"], draws.dropped)
        size = tuple(side * self.model.vae.factor for side in x.shape[1:3])
        # A flow's first time is one step of noise, as its sampler counts.
        times = draws.times.astype(jnp.float32)
        if self.schedule.kind == "flow":
            times = sigma.reshape(-1) * self.schedule.length
        seen = noised(x, draws.noise, alpha, sigma)
        predicted = apply("predict", seen, times, told, size, train=True, sizes=batch.get("sizes"))
        wanted = target(self.schedule.prediction, x, draws.noise, alpha, sigma)
        counts = batch["weight"] if "weight" in batch else jnp.ones(x.shape[0])
        weights = counts
        if self.min_snr is not None:
            levels = alpha.reshape(-1), sigma.reshape(-1)
            weights = counts * min_snr_weight(self.schedule.prediction, *levels, self.min_snr)
        total, errors = denoising_loss(predicted, wanted, weights)
        error = jnp.where(counts > 0, errors * counts, 0.0).sum() / jnp.maximum(counts.sum(), 1e-9)
        return Loss(total, counts.sum(), state, {"error": error})

    def _moments(self, apply: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        if self.cached:
            mean, log_variance = jnp.split(batch["moments"], 2, axis=-1)
            return mean, log_variance
        latents = apply("moments", batch["image"])
        return jax.lax.stop_gradient(latents.mean), jax.lax.stop_gradient(latents.log_variance)

    def _told(self, apply: Any, tokens: jax.Array, dropped: jax.Array) -> Any:
        """The condition, in the rows `dropped` [B] what painting without a negative prompt is told."""
        if not self.model.zero_negative:
            return apply("condition", self.without_text(tokens, dropped), train=True)
        told = apply("condition", tokens, train=True)
        return jax.tree.map(lambda x: jnp.where(dropped.reshape(-1, *(1,) * (x.ndim - 1)), 0, x), told)

    def without_text(self, tokens: jax.Array, dropped: jax.Array) -> jax.Array:
        """`tokens` [B, T] with the empty text's in the rows `dropped` [B]: start, end, padding."""
        tower = self.model.text.text_tower
        end = tokens.max() if tower.pool == "highest" else tower.eos_id
        empty = jnp.full_like(tokens, self.model.pads[0]).at[:, 0].set(tokens[:, 0]).at[:, 1].set(end)
        return jnp.where(dropped[:, None], empty, tokens)

    def grads(self, params: Params, frozen: Params, state: Params, batches: Batch, rng: jax.Array) -> Grads:
        return accumulate(self.loss, params, frozen, state, batches, rng)

    def predict_fns(self) -> dict[str, Predict]:
        """`moments` [B, h, w, 2 Z] of pictures, which is what a cache of latents holds."""

        def moments(variables: Params, image: jax.Array) -> jax.Array:
            out: Any = self.model.apply(variables, image, method="moments")
            return jnp.concatenate([out.mean, out.log_variance], axis=-1)

        return {"moments": moments}
