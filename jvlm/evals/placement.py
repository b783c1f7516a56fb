"""Where rows of a batch and a model's variables lie on a mesh."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jvlm.core.sharding import batch_sharding
from jvlm.core.types import Params


def local_rows(mesh: Mesh, size: int) -> list[int]:
    """Rows of a batch of `size` that this process's devices hold, ascending."""
    index = batch_sharding(mesh).addressable_devices_indices_map((size,))
    spans = {s[0].indices(size)[:2] for s in index.values() if s is not None}
    return [row for span in sorted(spans) for row in range(*span)]


def place(variables: Params, mesh: Mesh) -> Params:
    """`variables` on the devices of `mesh`: as they are where they lie there already, else replicated."""
    whole = NamedSharding(mesh, PartitionSpec())
    devices = set(mesh.devices.flat)

    def put(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
            return leaf
        return jax.device_put(leaf, whole)

    return jax.tree.map(put, variables)
