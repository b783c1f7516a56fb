"""What a backward pass keeps of a repeated block, and the scan over a stack's layers."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.core import meta

from jvlm.core.build import lookup

_keep = jax.checkpoint_policies.save_only_these_names

# What the backward pass keeps of a block instead of recomputing it, from all to nothing. Products go by the names of
# their Dense: a backward pass needs all of them but the last one of a block, whose output is only added.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "projections": _keep("query", "key", "value", "out", "up", "gate"),
    "mlp_out": _keep("out", "up", "gate"),
    "mlp": _keep("up", "gate"),
    "attention": _keep("query", "key", "value", "out"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def recomputed(fn: Callable[..., Any], remat: str, prevent_cse: bool = True) -> Callable[..., Any]:
    """`fn` under the policy `remat`, a key of `REMAT`; inside of a scan `prevent_cse` is not needed."""
    if remat == "none":
        return fn
    return jax.checkpoint(fn, policy=lookup(REMAT, remat, "remat policy"), prevent_cse=prevent_cse)


def scanned(body: Callable[..., Any], depth: int, remat: str) -> Callable[..., Any]:
    """`body(block, carry, xs) -> (carry, ys)` over `depth` layers, whose parameters have a leading axis `layers`."""
    if remat != "none":
        body = nn.remat(body, policy=lookup(REMAT, remat, "remat policy"), prevent_cse=False)
    return nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=depth,
        metadata_params={meta.PARTITION_NAME: "layers"},
    )
