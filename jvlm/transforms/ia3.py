"""IA3: learned gains on a layer's input or output."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import struct

from jvlm.core import leaves
from jvlm.core.errors import UserError
from jvlm.core.leaves import Names
from jvlm.transforms.adapter_leaf import Adapter, kernel_of, widen


class Ia3(Adapter, struct.PyTreeNode):
    """A gain for each output of a layer, its bias included, or with `inputs` for each input of its kernel.

    (IA)3 (Liu et al., arXiv:2205.05638, section 3.3) puts the first on keys and values and the second on the second
    layer of an MLP. `vector` is [out] or [in], in a stack [L, out] or [L, in]; of ones it is the identity, exactly.
    """

    base: Any
    vector: Any
    inputs: bool = struct.field(pytree_node=False, default=False)
    name: str = struct.field(pytree_node=False, default="default")
    weight: float = struct.field(pytree_node=False, default=1.0)
    held: bool = struct.field(pytree_node=False, default=False)

    TRAINED = ("vector",)

    def arrays(self) -> dict[str, Any]:
        return {"vector": self.vector}

    def names_of(self, field: str, ndim: int, names: Names) -> Names:
        return (*names[: ndim - 1], names[-2] if self.inputs else names[-1])

    def fits(self) -> bool:
        shape = tuple(self.base.shape)
        return self.vector.shape == (*shape[: self.vector.ndim - 1], shape[-2] if self.inputs else shape[-1])

    @property
    def _gain(self) -> jax.Array:
        return self.vector if self.weight == 1.0 else 1.0 + self.weight * (self.vector - 1.0)

    def _before(self, x: jax.Array, groups: int = 1) -> jax.Array:
        if not self.inputs or self.weight == 0.0:
            return x
        gain = self._gain.astype(x.dtype)
        # The groups of a convolution share their kernel's inputs.
        return (x.reshape(*x.shape[:-1], groups, -1) * gain).reshape(x.shape) if groups > 1 else x * gain

    def matmul(self, x: jax.Array) -> jax.Array:
        return leaves.matmul(self._before(x), self.base)

    def conv(self, x: jax.Array, strides: Sequence[int], padding: Any, groups: int, dilation: int) -> jax.Array:
        return leaves.conv(self._before(x, groups), self.base, strides, padding, groups, dilation)

    def attend(self, x: jax.Array) -> jax.Array:
        return leaves.attend(x if self.inputs else x * self._gain.astype(x.dtype), self.base)

    def after(self, y: jax.Array) -> jax.Array:
        y = leaves.after(y, self.base)
        return y if self.inputs or self.weight == 0.0 else y * self._gain.astype(y.dtype)

    def materialize(self) -> jax.Array:
        base = kernel_of(self.base)
        if not self.inputs or self.weight == 0.0:
            return base
        return (base * widen(self._gain[..., None], base.ndim, self.vector.ndim - 1)).astype(base.dtype)

    def gain(self) -> jax.Array | None:
        below = super().gain()
        if self.inputs or self.weight == 0.0:
            return below
        return self._gain if below is None else below * self._gain

    def unmerge(self, kernel: jax.Array, path: str) -> jax.Array:
        if bool((self._gain == 0).any()):
            raise UserError(f"{path}: IA3 has a gain of 0 there, which cannot be undone; use the base")
        if not self.inputs:
            return kernel  # the gain of an output is taken back with the bias's
        return (kernel / widen(self._gain[..., None], kernel.ndim, self.vector.ndim - 1)).astype(kernel.dtype)
