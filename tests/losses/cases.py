"""Contrastive batches for the tests, and the mean loss with its gradients."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Case(NamedTuple):
    zimg: jax.Array
    ztxt: jax.Array
    scale: jax.Array
    bias: jax.Array
    labels: jax.Array | None = None
    weights: jax.Array | None = None


def make_case(count, scale, bias=0.0, solved=False, labels=False, weights=False, width=16, seed=0) -> Case:
    """Random unit embeddings; `solved`: texts equal images."""
    rng = np.random.default_rng(seed)
    zimg, ztxt = rng.normal(size=(2, count, width))
    label = rng.integers(0, max(count // 3, 1), count)
    if solved:
        ztxt = zimg
    zimg, ztxt = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, ztxt))
    weight = np.where(rng.random(count) < 0.25, 0.0, rng.choice([1.0, 1.0, 0.5], count))
    return Case(
        jnp.asarray(zimg, jnp.float32),
        jnp.asarray(ztxt, jnp.float32),
        jnp.float32(scale),
        jnp.float32(bias),
        jnp.asarray(label, jnp.int32) if labels else None,
        jnp.asarray(weight, jnp.float32) if weights else None,
    )


@lru_cache(maxsize=8)
def _compiled(loss, bias: bool):
    def mean(zimg, ztxt, scale, *rest):
        *rest, labels, weights = rest
        total, weight = loss(zimg, ztxt, scale, *rest, labels=labels, weights=weights)
        return total / jnp.maximum(weight, 1e-6)

    return jax.jit(jax.value_and_grad(mean, argnums=tuple(range(4 if bias else 3))))


def value_and_grads(loss, case: Case, bias: bool = True):
    """Mean loss and its gradients for both embeddings, scale and, where the loss has one, bias."""
    scalars = (case.scale, case.bias) if bias else (case.scale,)
    value, grads = _compiled(loss, bias)(case.zimg, case.ztxt, *scalars, case.labels, case.weights)
    return float(value), [np.asarray(g) for g in grads]
