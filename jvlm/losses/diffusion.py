"""The losses of denoisers and of the autoencoders beneath them, sample by sample."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def denoising_loss(
    predicted: Float[Array, "B *C"], target: Float[Array, "B *C"], weights: Float[Array, "B"]
) -> tuple[Float[Array, ""], Float[Array, "B"]]:
    """Sum over samples of `weights` times the mean squared error, and that error [B] (Ho et al., arXiv:2006.11239, eq.
    14). A sample of weight 0 has no effect.
    """
    error = jnp.square(predicted.astype(jnp.float32) - target.astype(jnp.float32))
    errors = error.reshape(error.shape[0], -1).mean(-1)
    return jnp.where(weights > 0, errors * weights, 0.0).sum(), errors


def reconstruction_loss(predicted: Float[Array, "B H W C"], image: Float[Array, "B H W C"]) -> Float[Array, "B"]:
    """Mean absolute error [B], which keeps edges that a squared one blurs (arXiv:2012.09841, section 3)."""
    return jnp.abs(predicted.astype(jnp.float32) - image).mean(axis=(1, 2, 3))


def commitment(
    latents: Float[Array, "B h w E"], chosen: Float[Array, "B h w E"], beta: float
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """(codebook loss, `beta` times commitment loss), each [B] (van den Oord et al., arXiv:1711.00937, eq. 3)."""
    moved = jnp.square(jax.lax.stop_gradient(latents) - chosen).mean(axis=(1, 2, 3))
    kept = jnp.square(latents - jax.lax.stop_gradient(chosen)).mean(axis=(1, 2, 3))
    return moved, beta * kept


def perplexity(counts: Float[Array, "V"]) -> Float[Array, ""]:
    """How many words of a codebook are in use: exp of the entropy of their `counts`."""
    share = counts / jnp.maximum(counts.sum(), 1.0)
    return jnp.exp(-(share * jnp.log(jnp.maximum(share, 1e-12))).sum())
