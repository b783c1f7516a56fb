"""Bottleneck adapters: a narrow network with a residual connection, after a layer or beside it."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import struct

from jvlm.core import leaves
from jvlm.core.errors import UserError
from jvlm.core.leaves import Names
from jvlm.nn.activations import activation
from jvlm.transforms.adapter_leaf import Adapter


class Bottleneck(Adapter, struct.PyTreeNode):
    """`y + scale up(act(down(y)))` of a layer's output y, bias included (Houlsby et al., arXiv:1902.00751, figure 2).

    With `parallel` the network takes the layer's input instead and stands beside it (He et al., arXiv:2110.04366,
    table 1); `down` then has the kernel's shape with the rank in place of `out`, else it is [out, r]. `up` is [r, out].
    In a stack all have the layer axis first. `up` starts as zero, so that the adapter starts as the identity. It is
    not linear and cannot be merged.
    """

    base: Any
    down: Any
    down_bias: Any
    up: Any
    up_bias: Any
    scale: float = struct.field(pytree_node=False, default=1.0)
    parallel: bool = struct.field(pytree_node=False, default=False)
    act: str = struct.field(pytree_node=False, default="gelu")
    name: str = struct.field(pytree_node=False, default="default")
    weight: float = struct.field(pytree_node=False, default=1.0)
    held: bool = struct.field(pytree_node=False, default=False)

    MERGES = False
    TRAINED = ("down", "down_bias", "up", "up_bias")

    def arrays(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.TRAINED}

    def names_of(self, field: str, ndim: int, names: Names) -> Names:
        if field == "down":
            return (*names[:-1], None) if self.parallel else (*names[: ndim - 2], names[-1], None)
        lead = names[: ndim - (2 if field == "up" else 1)]
        return {"up": (*lead, None, names[-1]), "up_bias": (*lead, names[-1])}.get(field, (*lead, None))

    def fits(self) -> bool:
        shape, rank = tuple(self.base.shape), self.up.shape[-2]
        lead = shape[: self.up.ndim - 2]
        down = (*shape[:-1], rank) if self.parallel else (*lead, shape[-1], rank)
        return self.down.shape == down and self.up.shape == (*lead, rank, shape[-1])

    def matmul(self, x: jax.Array) -> jax.Array:
        y = leaves.matmul(x, self.base)
        return y + self._up(leaves.matmul(x, self.down)) if self._beside else y

    def conv(self, x: jax.Array, strides: Sequence[int], padding: Any, groups: int, dilation: int) -> jax.Array:
        y = leaves.conv(x, self.base, strides, padding, groups, dilation)
        if not self._beside:
            return y
        if groups > 1:
            raise UserError("a parallel adapter cannot stand beside a convolution in groups; leave it out of `targets`")
        return y + self._up(leaves.conv(x, self.down, strides, padding, 1, dilation))

    def after(self, y: jax.Array) -> jax.Array:
        y = leaves.after(y, self.base)
        return y if self.parallel or self.weight == 0.0 else y + self._up(leaves.matmul(y, self.down))

    def materialize(self) -> jax.Array:
        if self._beside:
            raise UserError("a parallel bottleneck adapter is no kernel; disable it first")
        return super().materialize()

    @property
    def _beside(self) -> bool:
        return self.parallel and self.weight != 0.0

    def _up(self, low: jax.Array) -> jax.Array:
        low = activation(self.act)(low + self.down_bias.astype(low.dtype))
        y = leaves.matmul(low, self.up) + self.up_bias.astype(low.dtype)
        return y * (self.scale * self.weight)
