"""Prefix tuning: learned keys and values that stand before those of a text."""

import jax
import jax.numpy as jnp

from jvlm.core import leaves
from jvlm.core.errors import UserError
from jvlm.core.leaves import Names
from jvlm.transforms.adapter_leaf import RowAdapter


class Prefix(RowAdapter):
    """Learned `rows` [P, out] before what a layer gives, in a stack [L, P, out].

    On the keys and the values of an attention every query sees P positions more in every layer (Li and Liang,
    arXiv:2101.00190, section 4.2). Rotary positions do not turn them; the tokens' positions begin after them. A prefix
    is there or not: no weight but 1 and 0 means anything.
    """

    def names_of(self, field: str, ndim: int, names: Names) -> Names:
        return (*names[: ndim - 2], None, names[-1])

    def fits(self) -> bool:
        shape = tuple(self.base.shape)
        return self.rows.shape == (*shape[: self.rows.ndim - 2], self.rows.shape[-2], shape[-1])

    @property
    def learned(self) -> int:
        own = self.rows.shape[-2] if self.weight else 0
        return own + super().learned

    def after(self, y: jax.Array) -> jax.Array:
        y = leaves.after(y, self.base)
        if self.weight == 0.0:
            return y
        if self.weight != 1.0:
            raise UserError(f"the prefix {self.name!r} has weight {self.weight:g}; give it 1, or 0 to switch it off")
        rows = jnp.broadcast_to(self.rows.astype(y.dtype), (*y.shape[:-2], *self.rows.shape))
        return jnp.concatenate([rows, y], axis=-2)  # [..., P + T, out]
