"""What all adapter leaves share: a base that stays as it is, arrays of their own that are trained, a name, a weight."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from jvlm.core import leaves
from jvlm.core.leaves import Leaf, Names


class Adapter(Leaf):
    """A leaf over `base`, an array or another leaf, so that adapters stack and stand on quantized kernels.

    `weight` interpolates between the base (0) and the adapted layer (1), linearly, and may exceed 1; at 0 the adapter
    computes nothing. `name` tells the adapters of one kernel apart. A `held` adapter is not trained.
    """

    base: Any
    name: str
    weight: float
    held: bool
    replace: Callable[..., Any]
    """The same adapter with other fields; `flax.struct` gives it."""

    TRAINED: ClassVar[tuple[str, ...]]
    """Fields that are trained. Every other array is derived from the configuration or is the base's."""

    MERGES: ClassVar[bool] = True
    """Whether the adapter is a change of the kernel and the bias, which can be merged."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def split(self) -> tuple[Any, Any]:
        trained, frozen = leaves.split(self.base)
        if not jax.tree.leaves(trained):
            trained = None  # so that the trained half is the same whatever the base is made of
        nothing = jax.tree.map(lambda _: None, self.replace(base=None))
        if self.held:
            return nothing.replace(base=trained), self.replace(base=frozen)
        own = {name: getattr(self, name) for name in self.TRAINED}
        return nothing.replace(base=trained, **own), self.replace(base=frozen, **dict.fromkeys(own))

    def keyed(self, key: jax.Array) -> Leaf:
        if not isinstance(self.base, Leaf):
            return self
        return self.replace(base=self.base.keyed(jax.random.fold_in(key, 1)))

    def place(self, names: Names, fn: Callable[[Names, Any], Any]) -> Any:
        own = {
            name: None if array is None else fn(self.names_of(name, array.ndim, names), array)
            for name, array in self.arrays().items()
        }
        return self.replace(base=leaves.place(self.base, names, fn), **own)

    @abc.abstractmethod
    def arrays(self) -> dict[str, Any]:
        """The adapter's own arrays by field, None where the other half has it."""

    @abc.abstractmethod
    def names_of(self, field: str, ndim: int, names: Names) -> Names:
        """Names of the axes of one own array, from those of the kernel's: the layer axis first where there is one."""

    @property
    def learned(self) -> int:
        return self.base.learned if isinstance(self.base, Leaf) else 0

    def matmul(self, x: jax.Array) -> jax.Array:
        return leaves.matmul(x, self.base)

    def take(self, ids: jax.Array, dtype: Any) -> jax.Array:
        return leaves.take(self.base, ids, dtype)

    def attend(self, x: jax.Array) -> jax.Array:
        return leaves.attend(x, self.base)

    def conv(self, x: jax.Array, strides: Sequence[int], padding: Any, groups: int, dilation: int) -> jax.Array:
        return leaves.conv(x, self.base, strides, padding, groups, dilation)

    def after(self, y: jax.Array) -> jax.Array:
        return leaves.after(y, self.base)

    def materialize(self) -> jax.Array:
        return kernel_of(self.base)

    @abc.abstractmethod
    def fits(self) -> bool:
        """Whether the own arrays have the shapes that the base's asks for."""

    def gain(self) -> jax.Array | None:
        """What the merged kernel and bias are multiplied by along their last axis, on account of `after`."""
        return self.base.gain() if isinstance(self.base, Adapter) else None

    def remember(self) -> Any:
        """The adapter with what `unmerge` will need of the base."""
        return self

    def unmerge(self, kernel: jax.Array, path: str) -> jax.Array:
        """The kernel that this adapter turned into `kernel`, which `path` names in an error."""
        return kernel  # unless the adapter says otherwise, it is no change of the kernel

    def blend(self, base: jax.Array, adapted: jax.Array) -> jax.Array:
        """`base` moved towards `adapted` by the weight."""
        return adapted if self.weight == 1.0 else base + self.weight * (adapted - base)


def kernel_of(base: Any) -> jax.Array:
    """A base as one array."""
    return base.materialize() if isinstance(base, Leaf) else base


def widen(array: jax.Array, ndim: int, lead: int) -> jax.Array:
    """`array`, its first `lead` axes the layers', with axes of size one after them up to `ndim` axes."""
    return jnp.reshape(array, (*array.shape[:lead], *(1,) * (ndim - array.ndim), *array.shape[lead:]))


class RowAdapter(Adapter, struct.PyTreeNode):
    """Learned `rows` [..., rows, out] that stand before what the base gives; no change of its kernel."""

    base: Any
    rows: Any
    name: str = struct.field(pytree_node=False, default="default")
    weight: float = struct.field(pytree_node=False, default=1.0)
    held: bool = struct.field(pytree_node=False, default=False)

    MERGES = False
    TRAINED = ("rows",)

    def arrays(self) -> dict[str, Any]:
        return {"rows": self.rows}
