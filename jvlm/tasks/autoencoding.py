"""Training of autoencoders: with Gaussian latents, or through a codebook."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core.types import Batch, Grads, Loss, Params, Predict, Variables
from jvlm.losses.diffusion import commitment, perplexity, reconstruction_loss
from jvlm.models.autoencoder import Autoencoder
from jvlm.models.vq import Quantizing
from jvlm.tasks.base import accumulate


@dataclass(frozen=True)
class Autoencoding:
    """Absolute error of the picture plus `divergence` times the latents' (Rombach et al., arXiv:2112.10752, eq. 25).

    Batches hold `image` [B, H, W, C] in -1..1 and maybe `weight` [B].
    """

    model: Autoencoder
    divergence: float = 1e-6

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        return Variables(dict(self.model.init(rng, batch["image"]))["params"], {})

    def loss(self, params: Params, state: Params, batch: Batch, rng: jax.Array) -> Loss:
        image = batch["image"]
        weights = batch["weight"] if "weight" in batch else jnp.ones(image.shape[0])
        latents: Any = self.model.apply({"params": params}, image, method="encode")
        noise = jax.random.normal(rng, latents.mean.shape)
        again: Any = self.model.apply({"params": params}, latents.sample(noise), method="decode")
        parts = dict(reconstruction=reconstruction_loss(again, image), divergence=latents.divergence())
        losses = parts["reconstruction"] + self.divergence * parts["divergence"]
        # What 1 / `scaling` should be once the latents have settled.
        metrics = _means(parts, weights) | dict(deviation=latents.mean.std())
        return Loss(jnp.where(weights > 0, losses * weights, 0.0).sum(), weights.sum(), state, metrics)

    def grads(self, params: Params, frozen: Params, state: Params, batches: Batch, rng: jax.Array) -> Grads:
        return accumulate(self.loss, params, frozen, state, batches, rng)

    def predict_fns(self) -> dict[str, Predict]:
        return reconstructing(self.model)


@dataclass(frozen=True)
class CodebookAutoencoding:
    """Absolute error of the picture, the codebook's loss and the commitment to it (arXiv:1711.00937, eq. 3).

    Batches hold `image` [B, H, W, C] in -1..1 and maybe `weight` [B]. The codebook moves by its gradient; `perplexity`
    says how many of its words a batch uses.
    """

    model: Quantizing
    beta: float = 0.25

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        return Variables(dict(self.model.init(rng, batch["image"]))["params"], {})

    def loss(self, params: Params, state: Params, batch: Batch, rng: jax.Array) -> Loss:
        image = batch["image"]
        weights = batch["weight"] if "weight" in batch else jnp.ones(image.shape[0])
        out: Any = self.model.apply({"params": params}, image)
        moved, kept = commitment(out.latents, out.chosen, self.beta)
        parts = dict(reconstruction=reconstruction_loss(out.image, image), codebook=moved, commitment=kept)
        counted = (weights > 0)[:, None, None, None]
        counts = (jax.nn.one_hot(out.codes, self.model.vocab_size) * counted).sum(axis=(0, 1, 2))
        metrics = _means(parts, weights) | dict(perplexity=perplexity(counts))
        losses = parts["reconstruction"] + moved + kept
        return Loss(jnp.where(weights > 0, losses * weights, 0.0).sum(), weights.sum(), state, metrics)

    def grads(self, params: Params, frozen: Params, state: Params, batches: Batch, rng: jax.Array) -> Grads:
        return accumulate(self.loss, params, frozen, state, batches, rng)

    def predict_fns(self) -> dict[str, Predict]:
        return reconstructing(self.model)


def reconstructing(model: Any) -> dict[str, Predict]:
    """`reconstruction` [B, H, W, C] of pictures."""

    def again(variables: Params, image: jax.Array) -> Any:
        return model.apply(variables, image).image

    return {"reconstruction": again}


def _means(parts: dict[str, jax.Array], weights: jax.Array) -> dict[str, jax.Array]:
    """Weighted means of losses [B]."""
    total = jnp.maximum(weights.sum(), 1e-9)
    return {name: jnp.where(weights > 0, part * weights, 0.0).sum() / total for name, part in parts.items()}
