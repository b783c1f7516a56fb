"""Contrastive losses of batches that are spread over a mesh: in blocks that travel a ring, or as one array.

The rings return what the definitions in `jvlm.losses.contrastive` return, gradients included, and no device
ever holds more than a block of logits.
"""

from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Float, Int

from jvlm.core.errors import ConfigError, UserError, nearest
from jvlm.core.sharding import BATCH_AXES
from jvlm.core.types import Array
from jvlm.losses.contrastive import sigmoid_loss, softmax_loss
from jvlm.losses.ring_schedule import Ring
from jvlm.losses.ring_vjp import Spread, ring_sigmoid_sum, ring_softmax_sum
from jvlm.losses.similarity import Similarity, inner_product

KINDS = ("softmax", "sigmoid")
FORMS = ("ring", "two_level", "global")


def contrastive_loss(
    kind: str,
    zimg: Float[Array, "N *image"],
    ztxt: Float[Array, "N E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""] | None = None,
    labels: Int[Array, "N"] | None = None,
    weights: Float[Array, "N"] | None = None,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    axes: tuple[str, ...] = BATCH_AXES,
    form: str = "ring",
    neighbourhood: str | int | None = None,
    bidirectional: bool = True,
    similarity: Similarity = inner_product,
    dot_dtype: Any = None,
    block: int | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Loss sum and the weight to divide it by, of global arrays split along N over the mesh axes `axes`.

    kind: `softmax` (`bias` has no effect) or `sigmoid`, as defined in `jvlm.losses.contrastive`.
    form: `ring` sends texts around all devices; `two_level` gathers them inside a neighbourhood and sends them
    around the neighbourhoods, for pods where a device's own texts are too few to keep it busy for a hop;
    `global` is the definition itself. neighbourhood: a mesh axis, or the number of consecutive devices; by default
    the last of `axes` if others remain, else about the square root of the devices.
    bidirectional: half of the texts go each way round, halving the bytes on a link's busier direction.
    similarity: see `jvlm.losses.similarity`. dot_dtype: of the products' factors (None: float32); sums are float32.
    block: texts per product (None: about four million logits).

    Gradients flow into both embeddings, scale and bias. Axes that the mesh lacks are passed over; without a mesh
    the same blocks are computed on one device. Raises UserError if N does not divide among the devices,
    ConfigError for an unknown kind, form or neighbourhood and for a sigmoid without bias.
    """
    for what, name, known in (("kind", kind, KINDS), ("form", form, FORMS)):
        if name not in known:
            raise ConfigError(f"contrastive loss: unknown {what} {name!r}, {nearest(name, known)}")
    if kind == "sigmoid" and bias is None:
        raise ConfigError("contrastive loss: the sigmoid needs a bias, pass a scalar (SigLIP starts at -10)")
    weights = jnp.ones(ztxt.shape[0], jnp.float32) if weights is None else jnp.asarray(weights, jnp.float32)
    scale = jnp.asarray(scale, jnp.float32)
    if form == "global":
        options: dict[str, Any] = {"labels": labels, "weights": weights}
        options |= {"similarity": similarity, "dot_dtype": dot_dtype}
        if bias is None or kind == "softmax":
            return softmax_loss(zimg, ztxt, scale, **options)
        return sigmoid_loss(zimg, ztxt, scale, jnp.asarray(bias, jnp.float32), **options)

    names = tuple(a for a in axes if mesh is not None and a in mesh.shape)
    ring = make_ring(mesh, names, neighbourhood if form == "two_level" else 1, bidirectional, block)
    devices = ring.hops * ring.neighbours
    if ztxt.shape[0] % devices:
        raise UserError(
            f"contrastive loss: a batch of {ztxt.shape[0]} does not divide among {devices} devices, "
            "choose a multiple or fill up with samples of weight 0"
        )
    zimg, ztxt = zimg.astype(jnp.float32), ztxt.astype(jnp.float32)
    spread = Spread(ring, mesh if names else None, names, similarity, dot_dtype)
    if bias is None or kind == "softmax":
        return ring_softmax_sum(spread, zimg, ztxt, scale, labels, weights), jnp.sum(weights)
    return ring_sigmoid_sum(spread, zimg, ztxt, scale, jnp.asarray(bias, jnp.float32), labels, weights), jnp.sum(
        weights
    )


def make_ring(
    mesh: Mesh | AbstractMesh | None,
    axes: tuple[str, ...],
    neighbourhood: str | int | None,
    bidirectional: bool,
    block: int | None,
) -> Ring:
    """The ring over the mesh axes `axes`, with neighbourhoods of a size or along an axis (None: a choice)."""
    if mesh is None or not axes:
        return Ring(block=block)
    axes = tuple(a for a in mesh.axis_names if a in axes)
    indices = np.arange(prod(mesh.shape[a] for a in axes)).reshape([mesh.shape[a] for a in axes])
    if neighbourhood is None:
        wide = [a for a in axes if mesh.shape[a] > 1]
        divisors = [n for n in range(1, indices.size + 1) if indices.size % n == 0 and n * n <= indices.size]
        neighbourhood = wide[-1] if len(wide) > 1 else max(divisors)
    if isinstance(neighbourhood, str):
        if neighbourhood not in axes:
            hint = nearest(neighbourhood, axes)
            raise ConfigError(f"contrastive loss: {neighbourhood!r} is no mesh axis of the batch, {hint}")
        place = axes.index(neighbourhood)
        indices, neighbourhood = np.moveaxis(indices, place, -1), indices.shape[place]
    if neighbourhood < 1 or indices.size % neighbourhood:
        raise ConfigError(f"contrastive loss: neighbourhoods of {neighbourhood} do not divide {indices.size} devices")
    places = tuple(map(tuple, indices.reshape(-1, neighbourhood).tolist()))
    # Between two neighbourhoods both ways round are the same.
    return Ring(axes, places, streams=2 if bidirectional and len(places) > 2 else 1, block=block)
