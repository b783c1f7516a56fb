"""A block repeated over depth: one set of parameters with a leading layer axis, scanned or unrolled.

Both ways share the parameter tree, so a checkpoint does not know which one wrote it.
"""

from typing import Any

import jax
from flax import linen as nn

from jvlm.nn.layers import by_layer
from jvlm.nn.remat import recomputed, scanned


class Stack(nn.Module):
    """Applies `block` `depth` times; the block takes `(x, mask, train, at)` and returns x.

    `mask` goes to every block as it is; one of cross-attention takes its memory there.

    Parameters lie under `layers`, each with a leading axis [depth]. `scan` compiles one layer; without it the loop is
    unrolled, which runs faster on a CPU and compiles slower. `remat` is a key of `REMAT`.

    Returns x [B, S, D] and, unrolled, the token [B, D] at the position `at` where one is given, computed by a last
    block that does nothing else: a compiled program holds of the two what it uses. Scanned, None stands for the token,
    since to single out a layer would copy the others' parameters.
    """

    block: Any
    depth: int
    scan: bool = True
    remat: str = "none"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        at: int | jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        if self.scan or self.is_initializing():
            return self._scanned(x, mask, train), None
        return self._unrolled(x, mask, train, at)

    def _scanned(self, x: jax.Array, mask: jax.Array | None, train: bool) -> jax.Array:
        def body(block: Any, carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(carry, mask, train), None

        run = scanned(body, self.depth, self.remat)
        return run(self.block.copy(name="layers"), x, None)[0]

    def _unrolled(self, x: jax.Array, mask: jax.Array | None, train: bool, at: Any) -> tuple[jax.Array, Any]:
        block = self.block.clone(parent=None, name=None)
        layers = by_layer(self.variables["params"], self.depth)
        rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}

        def apply(index: int, x: jax.Array, at: Any = None) -> jax.Array:
            keys = {name: jax.random.fold_in(key, index) for name, key in rngs.items()}

            def run(params: Any, x: jax.Array) -> jax.Array:
                return block.apply({"params": params}, x, mask, train, at, rngs=keys)

            return recomputed(run, self.remat)(layers[index], x)

        for index in range(self.depth - 1):
            x = apply(index, x)
        token = None if at is None else apply(self.depth - 1, x, at)
        return apply(self.depth - 1, x), token
