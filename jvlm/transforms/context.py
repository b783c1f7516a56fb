"""CoOp and prompt tuning: learned vectors that stand before a text in place of words."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.core import leaves
from jvlm.core.leaves import Names
from jvlm.core.tree import flatten
from jvlm.transforms.adapter_leaf import Adapter, RowAdapter

NO_TOKEN = -(2**31)
"""The id of no token, learned ones included."""
NO_PICTURE = -2
"""The place of a token that takes no picture's feature."""


class Context(RowAdapter):
    """A table of tokens [V, D] with learned `rows` [M, D] more, which the negative ids -1, -2, ... -M name.

    Context optimization (Zhou et al., arXiv:2109.01134, section 3.2): one context for all texts, or M / classes rows
    for each class. The preprocessing puts the ids before a text (`TextSpec.context`); being negative they are neither
    padding nor an end token, and no highest id. A logit over the vocabulary never sees the rows. The context is a part
    of the text, so no weight switches it off. On the table of a language model it is prompt tuning (Lester et al.,
    arXiv:2104.08691), whose ids `prompted` puts before every row.
    """

    def names_of(self, field: str, ndim: int, names: Names) -> Names:
        return (None, names[-1])

    def fits(self) -> bool:
        return self.rows.shape[-1] == self.base.shape[-1]

    def take(self, ids: jax.Array, dtype: Any) -> jax.Array:
        words = leaves.take(self.base, jnp.maximum(ids, 0), dtype)
        learned = jnp.take(self.rows, jnp.clip(-1 - ids, 0, self.rows.shape[0] - 1), axis=0).astype(dtype)
        return jnp.where((ids < 0)[..., None], learned, words)


def prompted(params: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a language model is given, with the learned prompt of `params`, if there is one, before each row.

    `inputs` are arrays [B, T] by the names of `models.decoder.Decoder`'s arguments (`tokens` at least), and what
    belongs to no token. In a row of packed texts all of them see the one prompt.
    """
    count = max((leaf.rows.shape[0] for leaf in _contexts(params)), default=0)
    if not count:
        return dict(inputs)
    before: dict[str, Any] = dict(
        tokens=-1 - jnp.arange(count), positions=jnp.arange(count), segments=-1, places=NO_PICTURE, mask=True,
        answer=False, prefix=False,
    )  # fmt: skip
    rows = inputs["tokens"].shape[0]
    out = dict(inputs)
    for name, value in before.items():
        if inputs.get(name) is not None:
            own = jnp.asarray(inputs[name])
            own = own + count if name == "positions" else own
            start = jnp.broadcast_to(jnp.asarray(value, own.dtype), (rows, count))
            out[name] = jnp.concatenate([start, own], axis=1)
    return out


def _contexts(params: Mapping[str, Any]) -> list[Context]:
    """The contexts of a tree, whatever adapters stand over them."""
    found = []
    for leaf in flatten(params).values():
        while isinstance(leaf, Adapter):
            found += [leaf] if isinstance(leaf, Context) else []
            leaf = leaf.base
    return found
