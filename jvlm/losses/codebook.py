"""A codebook that follows averages of what its words are chosen for, instead of a gradient."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jvlm.core.types import Params

EPSILON = 1e-5


def usage(
    latents: Float[Array, "*B E"], codes: Int[Array, "*B"], counted: Float[Array, "*B"], size: int, key: jax.Array
) -> Params:
    """What a batch says of a codebook of `size` words, over all devices that hold a part of it.

    `counts` [V] and `sums` [V, E] are of the latents that chose each word, those with `counted` 0 left out; `drawn`
    [V, E] are latents at random, and zeros where none counts.
    """
    flat = jax.lax.stop_gradient(latents).reshape(-1, latents.shape[-1]).astype(jnp.float32)
    weights = counted.reshape(-1)
    chosen = jax.nn.one_hot(codes.reshape(-1), size) * weights[:, None]
    place = jax.random.choice(key, len(flat), (size,), p=weights / jnp.maximum(weights.sum(), 1.0))
    drawn = jnp.where(weights.sum() > 0, flat[place], 0.0)
    sums = jnp.where(weights[:, None] > 0, flat, 0.0)
    return dict(counts=chosen.sum(0), sums=chosen.T @ sums, drawn=drawn)


def moved(codebook: Params, seen: Params, decay: float, least: float) -> tuple[Params, Int[Array, ""]]:
    """`codebook` (`vectors` [V, E], `counts` [V], `sums` [V, E]) after a batch of which `usage` said `seen`, and how
    many of its words were taken anew.

    Counts and sums are exponential averages, a word is one over the other with the counts smoothed (van den Oord et
    al., arXiv:1711.00937, appendix A.1). A word whose average count falls below `least` is no longer chosen: it starts
    again with a count of one as a latent of the batch (Dhariwal et al., arXiv:2005.00341, section 3.1). A batch in
    which nothing counts changes nothing.
    """
    counts = decay * codebook["counts"] + (1 - decay) * seen["counts"]
    sums = decay * codebook["sums"] + (1 - decay) * seen["sums"]
    dead = counts < least
    counts = jnp.where(dead, 1.0, counts)
    sums = jnp.where(dead[:, None], seen["drawn"], sums)
    total = counts.sum()
    smooth = (counts + EPSILON) / (total + len(counts) * EPSILON) * total
    new = dict(vectors=sums / smooth[:, None], counts=counts, sums=sums)
    counted = seen["counts"].sum() > 0
    return jax.tree.map(lambda a, b: jnp.where(counted, a, b), new, codebook), jnp.where(counted, dead.sum(), 0)
