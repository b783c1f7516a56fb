"""Training of autoencoders: with Gaussian latents, or through a codebook."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core.errors import ConfigError
from jvlm.core.types import Batch, Grads, Loss, Params, Predict, Variables
from jvlm.losses.codebook import moved, usage
from jvlm.losses.diffusion import commitment, perplexity, reconstruction_loss
from jvlm.models.autoencoder import Autoencoder
from jvlm.models.vq import Quantizing
from jvlm.tasks.base import accumulate

SEEN = "seen"
"""What the micro-batches of a step have said of the codebook so far; no part of the state between steps."""


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

    Batches hold `image` [B, H, W, C] in -1..1 and maybe `weight` [B]. The codebook moves by its gradient or, where the
    model has it `averaged`, after each step by averages with this `decay`, words that are chosen less than `least`
    times a step taken anew from the batch (`losses.codebook.moved`); of several micro-batches, from the last.
    `perplexity` says how many of its words a batch uses, `revived` how many were taken anew.
    """

    model: Quantizing
    beta: float = 0.25
    decay: float = 0.99
    least: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1 or self.least < 0:
            raise ConfigError(
                f"task.decay = {self.decay}, task.least = {self.least}: give 0 < decay < 1 and least >= 0"
            )

    def init(self, rng: jax.Array, batch: Batch) -> Variables:
        variables = dict(self.model.init(rng, batch["image"]))
        return Variables(variables.pop("params"), variables)

    def loss(self, params: Params, state: Params, batch: Batch, rng: jax.Array) -> Loss:
        image = batch["image"]
        weights = batch["weight"] if "weight" in batch else jnp.ones(image.shape[0])
        own = {name: tree for name, tree in state.items() if name != SEEN}
        out: Any = self.model.apply({"params": params, **own}, image)
        parts = dict(reconstruction=reconstruction_loss(out.image, image))
        moves, parts["commitment"] = commitment(out.latents, out.chosen, self.beta)
        if not self.model.averaged:
            parts["codebook"] = moves
        counted = jnp.broadcast_to((weights > 0)[:, None, None], out.codes.shape).astype(jnp.float32)
        seen = usage(out.latents, out.codes, counted, self.model.vocab_size, rng)
        if SEEN in state:
            before = state[SEEN]
            added = {name: before[name] + seen[name] for name in ("counts", "sums")}
            drawn = jnp.where(seen["counts"].sum() > 0, seen["drawn"], before["drawn"])
            state = {**own, SEEN: dict(added, drawn=drawn)}
        metrics = _means(parts, weights) | dict(perplexity=perplexity(seen["counts"]))
        losses = sum(parts.values())
        return Loss(jnp.where(weights > 0, losses * weights, 0.0).sum(), weights.sum(), state, metrics)

    def grads(self, params: Params, frozen: Params, state: Params, batches: Batch, rng: jax.Array) -> Grads:
        if not self.model.averaged:
            return accumulate(self.loss, params, frozen, state, batches, rng)
        codebook = state["codebooks"]
        nothing = dict(jax.tree.map(jnp.zeros_like, codebook))
        nothing["drawn"] = nothing.pop("vectors")
        found = accumulate(self.loss, params, frozen, {**state, SEEN: nothing}, batches, rng)
        new, revived = moved(codebook, found.state[SEEN], self.decay, self.least)
        return found._replace(state={**state, "codebooks": new}, metrics={**found.metrics, "revived": revived})

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
