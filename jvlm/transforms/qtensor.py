"""A kernel in few bits that multiplies like any other: the weight leaf of quantization."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jvlm.core.leaves import Leaf, Names
from jvlm.transforms import double_quantization
from jvlm.transforms.groups import join_groups, per_group, split_groups
from jvlm.transforms.schemes import SCHEMES


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QTensor(Leaf):
    """`codes` of the kernel's shape, [*L, in, out] for a dense one, in native `jnp.int4` or `int8`.

    `scale` [*L, in / group, out] is float, or uint8 codes under double quantization, whose blocks have the `magnitude`
    [*L, blocks] and the mean `offset` [*L]. `zero` [*L, in / group, out] is there for asymmetric schemes. `inner` [*L,
    in] multiplies the input before the product (activation-aware scaling). `axis` is the contraction axis, -2, or -1
    for an embedding [V, D]; a convolution [h, w, in, out] has groups along its input channels. `dtype` is the kernel's
    own. Every array carries the layer axes *L, so that a scan over layers cuts the leaf into leaves.
    """

    codes: Any
    scale: Any
    zero: Any = None
    magnitude: Any = None
    offset: Any = None
    inner: Any = None
    scheme: str = field(default="nf4", metadata=dict(static=True))
    axis: int = field(default=-2, metadata=dict(static=True))
    group: int = field(default=64, metadata=dict(static=True))
    dtype: str = field(default="float32", metadata=dict(static=True))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    def scales(self) -> Float[Array, "..."]:
        """One float32 a group, [*L, in / group, out]."""
        if self.magnitude is None:
            return self.scale.astype(jnp.float32)
        return double_quantization.expand(self.scale, self.magnitude, self.offset, self.axis)

    def dequantize(self) -> Float[Array, "..."]:
        """The kernel that the codes stand for, in its own dtype."""
        return self._values().astype(self.dtype)

    def materialize(self) -> jax.Array:
        return self.dequantize()

    def place(self, names: Names, fn: Callable[[Names, Any], Any]) -> "QTensor":
        lead = names[:-2]
        own = dict(codes=names, scale=names, zero=names, magnitude=(*lead, None), offset=lead, inner=names[:-1])
        found = {name: getattr(self, name) for name in own}
        return replace(self, **{name: fn(own[name], x) for name, x in found.items() if x is not None})

    def matmul(self, x: jax.Array) -> jax.Array:
        if self.axis != -2:
            return super().matmul(x)
        return _product(x, self)

    def attend(self, x: jax.Array) -> jax.Array:
        if self.axis != -1:
            return super().attend(x)
        return _product(x, self)

    def take(self, ids: Int[Array, "..."], dtype: Any) -> jax.Array:
        if self.axis != -1:
            return super().take(ids, dtype)
        rows = {"codes": self.codes, "scale": self.scales(), "zero": self.zero}
        cut = {name: x[ids] for name, x in rows.items() if x is not None}
        return replace(self, **cut, magnitude=None, offset=None)._values().astype(dtype)

    def conv(self, x: jax.Array, strides: Sequence[int], padding: Any, groups: int, dilation: int) -> jax.Array:
        def run(x: jax.Array, leaf: QTensor) -> jax.Array:
            return super(QTensor, leaf).conv(x, strides, padding, groups, dilation)

        return jax.checkpoint(run)(x, self)

    def _values(self) -> Float[Array, "..."]:
        blocks = split_groups(self.codes, self.axis, self.group)
        values = SCHEMES[self.scheme].decode(blocks, self.zero, self.axis)
        values = join_groups(values * per_group(self.scales(), self.axis), self.axis)
        return values if self.inner is None else values * self.inner[..., None]


def _product(x: Float[Array, "..."], leaf: QTensor) -> Float[Array, "..."]:
    """`x` [..., in] times a kernel [in, out] (`axis` -2) or against the rows of a table [out, in] (-1).

    Written as a product with the dequantized kernel, which XLA computes on the way into the product: a TPU never holds
    it. Nothing of it is kept for the gradient but the codes: a kernel written out for each layer of a scan would be the
    whole model again.
    """

    def run(x: jax.Array, leaf: QTensor) -> jax.Array:
        kernel = leaf.dequantize().astype(x.dtype)
        y = x.reshape(-1, x.shape[-1]) @ (kernel if leaf.axis == -2 else kernel.T)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    return jax.checkpoint(run)(x, leaf)
