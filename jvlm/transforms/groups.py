"""Groups of neighbours along one axis of a kernel, each with a scale of its own.

The axis is the contraction axis, counted from the end, so that a layer axis in front changes nothing: -2 for a dense
kernel [in, out] or a convolution [h, w, in, out], -1 for an embedding [V, D].
"""

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def split_groups(x: Shaped[Array, "..."], axis: int, group: int) -> Shaped[Array, "..."]:
    """[..., in, ...] to [..., in / group, group, ...]; the entries of a group then lie along the same `axis`."""
    at = x.ndim + axis
    return x.reshape(*x.shape[:at], x.shape[at] // group, group, *x.shape[at + 1 :])


def join_groups(x: Shaped[Array, "..."], axis: int) -> Shaped[Array, "..."]:
    """The inverse of `split_groups`."""
    at = x.ndim + axis - 1
    return x.reshape(*x.shape[:at], -1, *x.shape[at + 2 :])


def per_group(x: Shaped[Array, "..."], axis: int) -> Shaped[Array, "..."]:
    """One value a group, [..., in / group, ...], as it broadcasts against the split kernel."""
    return jnp.expand_dims(x, axis)
