"""Logical axis names carried by parameters at initialization.

Modules box their initializers with names; `split` unboxes a freshly initialized tree into plain arrays and a twin
tree of names, after which nothing in the library sees a box again.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct
from flax.core import meta

from jvlm.core.sharding import Names


class Named(struct.PyTreeNode, meta.AxisMetadata):
    """An array with the names of its axes. Unlike flax's `Partitioned` it never constrains a sharding itself."""

    value: Any
    names: Names = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "Named":
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Named":
        names = list(self.names)
        names.insert(index, params.get(meta.PARTITION_NAME))
        return self.replace(names=tuple(names))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Named":
        names = list(self.names)
        names.pop(index)
        return self.replace(names=tuple(names))


def named(init: Callable[..., jax.Array], names: Names) -> Callable[..., Any]:
    """`init` whose result is a `Named` array; flax unboxes it before a module sees it."""

    def boxed(*args: Any, **kwargs: Any) -> Named:
        return Named(value=init(*args, **kwargs), names=names)

    return boxed


def split(boxed: Any) -> tuple[Any, Any]:
    """A tree with boxes to (plain arrays, names of their axes). An unnamed array gets a None per axis."""
    plain = jax.tree.map(lambda x: x.unbox() if _is_box(x) else x, boxed, is_leaf=_is_box)
    names = jax.tree.map(lambda x: x.names if isinstance(x, Named) else (None,) * x.ndim, boxed, is_leaf=_is_box)
    return plain, names


def split_shapes(init: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
    """What `split` gives of `init(*args)`, as shapes: nothing is computed."""
    return split(jax.eval_shape(init, *args))


def _is_box(x: Any) -> bool:
    return isinstance(x, meta.AxisMetadata)
