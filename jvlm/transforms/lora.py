"""LoRA, rsLoRA and DoRA: a kernel plus a product of two thin ones."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jvlm.core import leaves
from jvlm.core.errors import UserError
from jvlm.core.leaves import Leaf, Names
from jvlm.transforms.adapter_leaf import Adapter, kernel_of, widen


class Lora(Adapter, struct.PyTreeNode):
    """`W + scale a b` in place of the kernel W (LoRA: Hu et al., arXiv:2106.09685, eq. 3).

    `a` has W's shape with the rank in place of `out` (so for a convolution it is one, for a table [V, r]), `b` is
    [r, out], `scale` a number: alpha / r, or alpha / sqrt(r) (rsLoRA, arXiv:2312.03732). With `magnitude` [out] the
    sum's columns are brought to that length (DoRA, arXiv:2402.09353, eq. 5), the present length taken for a constant
    in the gradient (its section 4.3). In a stack all of them have the layer axis first; `ranks` and `alphas` are then
    one a layer, and a layer of a smaller rank has zeros beyond it in both factors, whose gradients are zero, too.

    `key`, set for a training step, drops inputs of `a` at the rate `dropout`; without it nothing is dropped.
    `norm` [out] are lengths of W's columns after `scale a b`, kept by `remember` for DoRA's `unmerge`.
    """

    base: Any
    a: Any
    b: Any
    scale: Any
    magnitude: Any = None
    norm: Any = None
    key: Any = None
    name: str = struct.field(pytree_node=False, default="default")
    weight: float = struct.field(pytree_node=False, default=1.0)
    held: bool = struct.field(pytree_node=False, default=False)
    dropout: float = struct.field(pytree_node=False, default=0.0)
    ranks: tuple[int, ...] = struct.field(pytree_node=False, default=())
    alphas: tuple[float, ...] = struct.field(pytree_node=False, default=())
    rslora: bool = struct.field(pytree_node=False, default=False)

    TRAINED = ("a", "b", "magnitude")

    def arrays(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*self.TRAINED, "scale", "norm")}

    def names_of(self, field: str, ndim: int, names: Names) -> Names:
        if field == "a":
            return (*names[:-1], None)
        if field == "b":
            return (*names[: ndim - 2], None, names[-1])
        if field == "scale":
            return names[:ndim]
        return (*names[: ndim - 1], names[-1])

    def fits(self) -> bool:
        shape, rank = tuple(self.base.shape), self.a.shape[-1]
        return self.a.shape == (*shape[:-1], rank) and self.b.shape == (*shape[: self._lead], rank, shape[-1])

    def keyed(self, key: jax.Array) -> Leaf:
        leaf: Any = super().keyed(key)
        if not self.dropout:
            return leaf
        layers = self.b.shape[:-2]
        return leaf.replace(key=jax.random.split(key, layers) if layers else key)

    def matmul(self, x: jax.Array) -> jax.Array:
        y = leaves.matmul(x, self.base)
        if self.weight == 0.0:
            return y
        dropped = self._drop(x)
        low = leaves.matmul(leaves.matmul(dropped, self.a), self.b)
        return self._add(y, low * self._scale(y), lambda: leaves.matmul(dropped, self.base))

    def conv(self, x: jax.Array, strides: Sequence[int], padding: Any, groups: int, dilation: int) -> jax.Array:
        y = leaves.conv(x, self.base, strides, padding, groups, dilation)
        if self.weight == 0.0:
            return y
        dropped = self._drop(x)
        if groups > 1:
            # Groups see different inputs and different columns of b, so the update is no product of two convolutions.
            low = leaves.conv(dropped, self._update(), strides, padding, groups, dilation)
        else:
            low = leaves.matmul(leaves.conv(dropped, self.a, strides, padding, 1, dilation), self.b) * self._scale(y)
        return self._add(y, low, lambda: leaves.conv(dropped, self.base, strides, padding, groups, dilation))

    def take(self, ids: jax.Array, dtype: Any) -> jax.Array:
        y = leaves.take(self.base, ids, dtype)
        if self.weight == 0.0:
            return y
        return self._add(y, leaves.matmul(leaves.take(self.a, ids, dtype), self.b) * self._scale(y), lambda: y)

    def attend(self, x: jax.Array) -> jax.Array:
        y = leaves.attend(x, self.base)
        if self.weight == 0.0:
            return y
        given = x if self.magnitude is None else x * self._growth().astype(x.dtype)
        low = leaves.attend(leaves.attend(given, self.b), self.a) * self._scale(x)
        whole = y if self.magnitude is None else leaves.attend(given, self.base)
        return self.blend(y, whole + low)

    def materialize(self) -> jax.Array:
        base = kernel_of(self.base)
        if self.weight == 0.0:
            return base
        wide = base.astype(jnp.float32)
        adapted = wide + self._update()
        if self.magnitude is not None:
            adapted = adapted * widen(self._growth(), adapted.ndim, self._lead)
        return self.blend(wide, adapted).astype(base.dtype)

    def remember(self) -> Any:
        return self if self.magnitude is None else self.replace(norm=self._norm())

    def unmerge(self, kernel: jax.Array, path: str) -> jax.Array:
        wide = kernel.astype(jnp.float32)
        if self.magnitude is None:
            return (wide - self.weight * self._update()).astype(kernel.dtype)
        if self.norm is None:
            raise UserError(
                f"{path}: a DoRA that was merged elsewhere cannot be unmerged, since the lengths of its columns are "
                "not in the adapter; use the base"
            )
        # kernel = (1 - w) W + w g (W + u), with g the growth of columns and u the update
        growth = widen(self.magnitude / self.norm, kernel.ndim, self._lead)
        rest = wide - self.weight * growth * self._update()
        return (rest / (1 - self.weight + self.weight * growth)).astype(kernel.dtype)

    @property
    def _lead(self) -> int:
        return self.b.ndim - 2

    def _scale(self, x: jax.Array) -> jax.Array:
        return self.scale.astype(x.dtype)

    def _drop(self, x: jax.Array) -> jax.Array:
        if self.key is None or not self.dropout:
            return x
        keep = jax.random.bernoulli(self.key, 1.0 - self.dropout, x.shape)
        return jnp.where(keep, x / (1.0 - self.dropout), 0)

    def _update(self) -> jax.Array:
        """scale a b in the kernel's shape, float32."""
        a, b = (x.astype(jnp.float32) for x in (self.a, self.b))
        product = a @ widen(b, a.ndim, self._lead)
        return product * self.scale.reshape(self.scale.shape + (1,) * (product.ndim - self.scale.ndim))

    def _norm(self) -> jax.Array:
        return column_norm(kernel_of(self.base).astype(jnp.float32) + self._update(), self._lead)

    def _growth(self) -> jax.Array:
        return self.magnitude / jax.lax.stop_gradient(self._norm())

    def _add(self, y: jax.Array, low: jax.Array, dropped: Any) -> jax.Array:
        """`y` with the scaled update `low`; `dropped` gives the base's part of what DoRA stretches."""
        if self.magnitude is not None:
            growth = self._growth().astype(y.dtype)
            low = (growth - 1) * (y if self.key is None else dropped()) + growth * low
        return y + low if self.weight == 1.0 else y + self.weight * low


def column_norm(kernel: jax.Array, lead: int) -> jax.Array:
    """Euclidean length of the columns of `kernel`, over all axes but the `lead` first ones and the last."""
    return jnp.sqrt(jnp.square(kernel).sum(tuple(range(lead, kernel.ndim - 1))))
