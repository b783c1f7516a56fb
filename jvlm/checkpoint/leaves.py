"""A tree as named leaves: the form in which it is stored, and the comparison with what a restore asks for.

Orbax is handed a nested dict of plain arrays, not the tree itself. A checkpoint can then be read without
optax or any class of ours, and the NamedTuples and weight leaves come back from the template.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jvlm.checkpoint.manifest import LeafRecord
from jvlm.core.errors import UserError, nearest

STORABLE = frozenset(
    {"bool", "int2", "int4", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
    | {"float16", "bfloat16", "float32", "float64", "complex64", "complex128"}
    | {"float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e3m4", "float4_e2m1fn"}
)
"""Dtypes that TensorStore, which writes for Orbax, can hold; uint4 is not among them."""


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key (`jax.random.key`)."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def name_leaves(tree: Any) -> dict[str, Any]:
    """`{path: leaf}` in tree order; a path joins dict keys, field names and positions with `/`.

    Raises UserError when two leaves have one path, or one leaf's path is a folder of another's.
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name or name in named:
            raise UserError(f"leaf {name!r}: two leaves of the tree have this path; keys may not contain '/'")
        named[name] = leaf
    for name in named:
        parts = name.split("/")
        if any("/".join(parts[:depth]) in named for depth in range(1, len(parts))):
            raise UserError(f"leaf {name}: a part of its path is itself a leaf; keys may not contain '/'")
    return named


def check_storable(leaves: Mapping[str, Any]) -> None:
    """Raises UserError naming the first leaf that a checkpoint cannot hold."""
    for name, leaf in leaves.items():
        if not isinstance(leaf, jax.Array):
            raise UserError(f"leaf {name}: a {type(leaf).__name__}, not a jax.Array; put it on a device or into `meta`")
        if not is_key(leaf) and leaf.dtype.name not in STORABLE:
            raise UserError(f"leaf {name}: dtype {leaf.dtype} cannot be stored (Orbax refuses it); convert it first")


def as_stored(leaf: jax.Array) -> jax.Array:
    """A leaf as it goes to disk: a typed key as its uint32 data, anything else as it is."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def stored_struct(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding in which a wanted leaf is read from disk."""
    raw = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)) if is_key(leaf) else leaf
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=sharding)


def from_stored(array: jax.Array, record: LeafRecord) -> jax.Array:
    """The leaf that `as_stored` put away."""
    return array if record.key_impl is None else jax.random.wrap_key_data(array, impl=record.key_impl)


def check_template(wanted: Mapping[str, Any], saved: Mapping[str, LeafRecord], where: str) -> None:
    """Raises UserError naming the leaf when structure, shape or dtype differ; nothing is ever cast."""
    wrong = []
    for name, leaf in wanted.items():
        if name not in saved:
            wrong.append(f"leaf {name} is not in it ({nearest(name, [n for n in saved if n not in wanted] or saved)})")
        elif tuple(leaf.shape) != saved[name].shape:
            wrong.append(f"leaf {name} has shape {list(saved[name].shape)}, wanted is {list(leaf.shape)}")
        elif str(leaf.dtype) != saved[name].dtype:
            wrong.append(f"leaf {name} is {saved[name].dtype}, wanted is {leaf.dtype}")
    wrong += [f"leaf {name} is in it and not wanted" for name in saved if name not in wanted]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        advice = "use the configuration it was saved with, or start from it with `init`"
        raise UserError(f"{where} holds another state: {'; '.join(wrong[:3])}{more}; {advice}")
