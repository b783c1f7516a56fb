"""CoOp: learned vectors that stand before a text in place of words."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jvlm.core import leaves
from jvlm.core.leaves import Names
from jvlm.transforms.adapter_leaf import Adapter


class Context(Adapter, struct.PyTreeNode):
    """A table of tokens [V, D] with learned `rows` [M, D] more, which the negative ids -1, -2, ... -M name.

    Context optimization (Zhou et al., arXiv:2109.01134, section 3.2): one context for all texts, or M / classes rows
    for each class. The preprocessing puts the ids before a text (`TextSpec.context`); being negative they are neither
    padding nor an end token, and no highest id. A logit over the vocabulary never sees the rows. The context is a part
    of the text, so no weight switches it off.
    """

    base: Any
    rows: Any
    name: str = struct.field(pytree_node=False, default="default")
    weight: float = struct.field(pytree_node=False, default=1.0)
    held: bool = struct.field(pytree_node=False, default=False)

    MERGES = False
    TRAINED = ("rows",)

    def arrays(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def names_of(self, field: str, ndim: int, names: Names) -> Names:
        return (None, names[-1])

    def fits(self) -> bool:
        return self.rows.shape[-1] == self.base.shape[-1]

    def take(self, ids: jax.Array, dtype: Any) -> jax.Array:
        words = leaves.take(self.base, jnp.maximum(ids, 0), dtype)
        learned = jnp.take(self.rows, jnp.clip(-1 - ids, 0, self.rows.shape[0] - 1), axis=0).astype(dtype)
        return jnp.where((ids < 0)[..., None], learned, words)
