"""The vocabulary of the library: what travels between data, models, losses and training.

Dimensions in shape annotations: `B` batch, `N` image tokens, `T` text tokens, `Q` queries, `D` width, `F` mlp,
`V` vocabulary, `L` layers, `E` embedding, `H W C` image axes only.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
Params = dict[str, Any]
"""Nested dict of arrays, or of weight leaves that stand for one (`core/leaves.py`)."""
Batch = Mapping[str, Any]
"""`image` [B, H, W, C], `tokens` [B, T], `weight` [B] (0 marks a placeholder), `label` [B], `index` [B]."""
Metrics = dict[str, Any]


Leaf = Any
"""A field of a pytree: an array, or the shape or the sharding of one where jax maps over the tree."""


class Variables(NamedTuple):
    """What a task initializes: `params` are trained, `state` is carried (batch statistics, queues)."""

    params: Params
    state: Params


class Loss(NamedTuple):
    """A loss as a sum and the weight it is to be divided by, so that accumulation and placeholders are exact."""

    sum: jax.Array
    weight: jax.Array
    state: Params
    metrics: Metrics


class Grads(NamedTuple):
    """Gradient of the mean loss (already divided by the global weight), beside the loss it belongs to."""

    grads: Params
    loss: jax.Array
    state: Params
    metrics: Metrics


Predict = Callable[..., Any]
