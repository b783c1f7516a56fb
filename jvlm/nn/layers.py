"""The parameters of a stack, layer by layer: joined along a leading axis `layers`, or taken apart as `layer_0`, ..."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def by_layer(params: Mapping[str, Any], depth: int) -> list[Any]:
    """The trees of the `depth` layers of a stack's `params`, joined or taken apart."""
    if "layers" not in params:
        return [params[f"layer_{index}"] for index in range(depth)]
    leaves, structure = jax.tree.flatten(params["layers"])
    # Split at once, so that the layers' gradients are joined by one concatenation instead of padded and added.
    split = [jnp.split(leaf, depth) for leaf in leaves]
    return [jax.tree.unflatten(structure, [part[index][0] for part in split]) for index in range(depth)]


def at_layer(params: Mapping[str, Any], index: int) -> Any:
    """The tree of one layer."""
    if "layers" in params:
        return jax.tree.map(lambda leaf: leaf[index], params["layers"])
    return params[f"layer_{index}"]


def unstack(params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with every stack's `layers` taken apart into `layer_0`, `layer_1`, ...

    A step that reads all weights for one token must not copy them first, as slicing a stack does on a CPU.
    """
    out: dict[str, Any] = {}
    for name, part in params.items():
        if name == "layers" and isinstance(part, Mapping):
            depth = jax.tree.leaves(part)[0].shape[0]
            out |= {f"layer_{index}": jax.tree.map(lambda x, i=index: x[i], dict(part)) for index in range(depth)}
        else:
            out[name] = unstack(part) if isinstance(part, Mapping) else part
    return out
