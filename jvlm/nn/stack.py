"""A block repeated over depth: one set of parameters with a leading layer axis, scanned or unrolled.

Both ways share the parameter tree, so a checkpoint does not know which one wrote it.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.core import meta

from jvlm.core.build import lookup

# What the backward pass keeps of a block instead of recomputing it.
REMAT: dict[str, Callable[..., Any] | None] = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Stack(nn.Module):
    """Applies `block` `depth` times; the block takes `(x, mask, train)` and returns x.

    Parameters lie under `layers`, each with a leading axis [depth]. `scan` compiles one layer; without it the loop is
    unrolled, which runs faster on a CPU and compiles slower. `remat` is a key of `REMAT`.
    """

    block: Any
    depth: int
    scan: bool = True
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        def body(block: Any, carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(carry, mask, train), None

        if self.remat != "none":
            policy = lookup(REMAT, self.remat, "remat policy")
            body = nn.remat(body, policy=policy, prevent_cse=not self.scan)
        run = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.depth,
            unroll=1 if self.scan else self.depth,
            metadata_params={meta.PARTITION_NAME: "layers"},
        )
        x, _ = run(self.block.copy(name="layers"), x, None)
        return x
