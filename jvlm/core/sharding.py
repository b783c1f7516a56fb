"""From logical axis names to shardings: the presets, the mesh, and the constraint on activations.

Modules in `nn/` name the axes of their parameters and activations; here, and nowhere else, a name meets a mesh axis.
Mesh axes are `replica` (slices, over the data-center network), `data`, `fsdp` and `tensor`.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jvlm.core import leaves
from jvlm.core import tree as trees
from jvlm.core.errors import ConfigError, nearest
from jvlm.core.leaves import Names

AXES = ("replica", "data", "fsdp", "tensor")
BATCH_AXES = ("replica", "data", "fsdp")
Rules = Mapping[str, str | tuple[str, ...] | None]

PRESETS: dict[str, Rules] = {
    # Parameters replicated.
    "dp": {"batch": BATCH_AXES},
    # Every kernel sharded along its width, gathered layer by layer.
    "fsdp": {"batch": BATCH_AXES, "embed": "fsdp"},
    # Besides, heads, hidden units and vocabulary split over `tensor` (Megatron's pairing of column and row).
    "fsdp_tp": {
        "batch": BATCH_AXES,
        "embed": "fsdp",
        "heads": "tensor",
        "mlp": "tensor",
        "vocab": "tensor",
    },
    # And between the products, where every chip of `tensor` would keep the same, each keeps its part of the tokens
    # (arXiv:2205.05198).
    "fsdp_sp": {
        "batch": BATCH_AXES,
        "embed": "fsdp",
        "heads": "tensor",
        "mlp": "tensor",
        "vocab": "tensor",
        "sequence": "tensor",
    },
}

_active: ContextVar[tuple[Mesh, Rules] | None] = ContextVar("jvlm_sharding", default=None)


def make_mesh(shape: Mapping[str, int] | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over `AXES`. `shape` gives sizes by axis; one may be -1, missing ones are 1; None puts all on `data`.

    On several slices `replica` is their number unless given, and no other axis leaves a slice.
    Raises ConfigError for an unknown axis, sizes that do not divide the devices or a `replica` that is no multiple of
    the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = dict.fromkeys(AXES, 1) | {"replica": slices} | dict(shape or {"data": -1})
    for name in sizes:
        if name not in AXES:
            raise ConfigError(f"mesh axis {name!r} is unknown; {nearest(name, AXES)}")
    free = [name for name, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) == 1 and len(devices) % fixed == 0:
        sizes[free[0]] = len(devices) // fixed
    if len(free) > 1 or math.prod(sizes.values()) != len(devices):
        raise ConfigError(f"mesh {dict(shape or {})} does not fit {len(devices)} devices; use -1 for one axis at most")
    extents = tuple(sizes[name] for name in AXES)
    if slices > 1:
        if sizes["replica"] % slices:
            raise ConfigError(f"mesh axis 'replica' is {sizes['replica']}, no multiple of the {slices} slices")
        inside = (sizes["replica"] // slices, *extents[1:])
        placed = create_hybrid_device_mesh(inside, (slices, 1, 1, 1), devices)
        return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    return jax.make_mesh(extents, AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES))


def spec(names: Names, shape: Sequence[int], mesh: Mesh, rules: Rules) -> PartitionSpec:
    """PartitionSpec of an array whose axes are called `names`.

    An axis that its mesh axes do not divide stays whole, and a mesh axis is used once, by the first name that asks.
    """
    used: set[str] = set()
    parts: list[Any] = []
    for name, extent in zip(names, shape, strict=True):
        wanted = (rules.get(name) if name else None) or ()
        axes: tuple[str, ...] = (wanted,) if isinstance(wanted, str) else wanted
        axes = tuple(axis for axis in axes if mesh.shape[axis] > 1 and axis not in used)
        if axes and extent % math.prod(mesh.shape[axis] for axis in axes) == 0:
            used.update(axes)
            parts.append(axes)
        else:
            parts.append(None)
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def shard_params(shapes: Any, names: Any, mesh: Mesh, rules: Rules) -> Any:
    """Tree of NamedSharding for a tree of shapes (None where a half of it is missing) and its twin tree of names.

    A weight leaf derives the names of its arrays from its kernel's, so that scales are sharded with their kernel.
    """
    flat_names = trees.flatten(names)

    def sharding(names: Names, array: Any) -> NamedSharding:
        return NamedSharding(mesh, spec(names, array.shape, mesh, rules))

    return trees.map_paths(lambda path, leaf: leaves.place(leaf, flat_names[path], sharding), shapes)


def place_leaf(leaf: leaves.Leaf, sharding: NamedSharding) -> leaves.Leaf:
    """`leaf` with its arrays on the mesh axes of `sharding`, its kernel's; an axis that does not divide stays whole."""
    mesh: Any = sharding.mesh
    names = tuple(map(str, range(len(leaf.shape))))
    rules: Rules = dict(zip(names, tuple(sharding.spec) + (None,) * len(names)))

    def put(names: Names, array: Any) -> jax.Array:
        return jax.device_put(array, NamedSharding(mesh, spec(names, array.shape, mesh, rules)))

    return leaf.place(names, put)


def shard_like(tree: Any, params: Mapping[str, Any], shardings: Mapping[str, Any], mesh: Mesh) -> Any:
    """Shardings for a tree that holds arrays beside parameters (optimizer state, averages).

    An array whose path ends in a parameter's path and whose shape is the parameter's takes its sharding; everything
    else (counters, Adafactor's row and column statistics) is small and replicated.
    """
    arrays = jax.tree_util.tree_leaves_with_path(params)
    placed = jax.tree.leaves(shardings)
    by_path = {_keys(path): (tuple(leaf.shape), s) for (path, leaf), s in zip(arrays, placed, strict=True)}
    whole = NamedSharding(mesh, PartitionSpec())

    def choose(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = _keys(path)
        for start in range(len(keys)):
            if keys[start:] in by_path:
                shape, sharding = by_path[keys[start:]]
                if tuple(leaf.shape) == shape:
                    return sharding
        return whole

    return jax.tree_util.tree_map_with_path(choose, tree)


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: the first axis over every batch axis of the mesh."""
    return NamedSharding(mesh, PartitionSpec(tuple(a for a in BATCH_AXES if mesh.shape[a] > 1) or None))


def batch_shards(mesh: Mesh) -> int:
    """Number of parts that a batch is cut into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of each array, made one part of a global array sharded over the batch axes."""
    sharding = batch_sharding(mesh)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """Makes `constrain` mean something while a function is traced inside."""
    token = _active.set((mesh, rules))
    try:
        with jax.set_mesh(mesh):
            yield
    finally:
        _active.reset(token)


def active() -> tuple[Mesh, Rules] | None:
    """The mesh and the rules of the surrounding `use`, if any."""
    return _active.get()


def active_mesh() -> Mesh | None:
    """The mesh of the surrounding `use`, if any."""
    found = active()
    return found[0] if found else None


def constrain(x: jax.Array, names: Names) -> jax.Array:
    """Pins an activation's sharding by its axis names; the identity outside `use`.

    Without it FSDP lets the partitioner replicate the batch: 275 GB of temporaries instead of 5.
    """
    active = _active.get()
    if active is None or active[0].size == 1:
        return x
    mesh, rules = active
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec(names, x.shape, mesh, rules)))
