"""A small training state with everything a checkpoint has to hold, and the means to compare two of them by bits."""

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """Stands for a quantized kernel: a pytree of arrays with a static field."""

    codes: jax.Array
    scale: jax.Array
    group: int = dataclasses.field(metadata={"static": True})


def mesh_of(count: int) -> Mesh:
    return jax.make_mesh((count,), ("fsdp",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The first axis that the mesh divides is split, as under FSDP; the rest is replicated."""

    def one(leaf: Any) -> NamedSharding:
        spec: list[str | None] = [None] * leaf.ndim
        for axis, size in enumerate(leaf.shape):
            if size and size % mesh.size == 0 and size >= 8:
                spec[axis] = "fsdp"
                break
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(one, tree)


def template_of(tree: Any, mesh: Mesh) -> Any:
    def one(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(one, tree, shardings(tree, mesh))


def make_state(seed: int, mesh: Mesh) -> dict[str, Any]:
    """Params, adamw and muon moments after one update, weight leaves, PRNG key, counters, an empty array."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {"tower": {"kernel": normal(16, 24), "bias": normal(24)}, "head": {"kernel": normal(24, 8)}}
    rules: dict[Hashable, optax.GradientTransformation] = {"muon": optax.contrib.muon(0.02), "adamw": optax.adamw(1e-3)}
    label = {"tower": {"kernel": "muon", "bias": "adamw"}, "head": {"kernel": "adamw"}}
    optimizer = optax.multi_transform(rules, label)
    _, moments = optimizer.update(params, optimizer.init(params), params)
    state = {
        "params": params,
        "opt_state": moments,
        "frozen": {
            "packed": Packed(
                jnp.asarray(rng.integers(-8, 8, (16, 8)), jnp.int4), normal(2, 8).astype(jnp.bfloat16), group=8
            ),
            "half": normal(8, 3).astype(jnp.float16),
            "mask": jnp.asarray(rng.integers(0, 2, 16), bool),
            "bytes": jnp.asarray(rng.integers(0, 255, 9), jnp.uint8),
            "signed": jnp.asarray(rng.integers(-128, 127, (8, 2)), jnp.int8),
        },
        "queue": jnp.zeros((0, 4), jnp.float32),
        "rng": jax.random.key(seed),
        "step": jnp.int32(seed),
    }
    return jax.device_put(state, shardings(state, mesh))


def bits(leaf: jax.Array) -> bytes:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(found: Any, wanted: Any) -> None:
    """Same structure, dtypes, shapes and bits."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, a), b in zip(jax.tree_util.tree_flatten_with_path(found)[0], jax.tree.leaves(wanted)):
        name = jax.tree_util.keystr(path)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert bits(a) == bits(b), name
