"""What leaves a stack before its end: the hidden states that multimodal models take from a vision tower."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.nn.layers import at_layer
from jvlm.nn.remat import recomputed


def hidden_states(
    block: Any,
    params: Any,
    x: jax.Array,
    after: Sequence[int],
    *,
    scan: bool = True,
    remat: str = "none",
    train: bool = False,
    key: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
    """`x` [B, S, D] after each number of blocks in `after`, side by side along the last axis: [B, S, len(after) D].

    `block` and `params` are those of a `Stack`. Blocks beyond the last that is wanted are not
    computed. `key` is that of dropout, None without; `mask` goes to every block.
    """
    block = block.clone(parent=None, name=None)

    def one(x: jax.Array, item: Any) -> tuple[jax.Array, None]:
        layer, index = item
        rngs = {} if key is None else {"dropout": jax.random.fold_in(key, index)}
        return block.apply({"params": layer}, x, mask, train, rngs=rngs), None

    one = recomputed(one, remat, prevent_cse=not scan)
    states, done = {0: x}, 0
    for count in sorted(set(after)):
        if scan and count > done:
            part = jax.tree.map(lambda leaf, a=done, b=count: leaf[a:b], params["layers"])
            x, _ = jax.lax.scan(one, x, (part, jnp.arange(done, count)))
        for index in range(done, count) if not scan else ():
            x, _ = one(x, (at_layer(params, index), index))
        states[count], done = x, max(done, count)
    return jnp.concatenate([states[count] for count in after], axis=-1)
