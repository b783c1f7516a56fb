"""Names of axes to partition specs, meshes and batches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jvlm.core import sharding
from jvlm.core.errors import ConfigError

RULES = sharding.PRESETS["fsdp_tp"]


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))


@pytest.mark.parametrize(
    ("names", "shape", "expected"),
    [
        (("embed", "mlp"), (8, 16), PartitionSpec(("fsdp",), ("tensor",))),
        (("layers", "embed", "heads"), (3, 8, 16), PartitionSpec(None, ("fsdp",), ("tensor",))),
        # trailing whole axes are left out
        (("embed", None), (8, 16), PartitionSpec(("fsdp",))),
        ((None, "unheard"), (8, 16), PartitionSpec()),
        ((), (), PartitionSpec()),
        # a mesh axis is used once, by the first name that asks
        (("heads", "mlp"), (8, 16), PartitionSpec(("tensor",))),
        # an axis that the mesh does not divide stays whole
        (("embed", "mlp"), (7, 16), PartitionSpec(None, ("tensor",))),
        # a batch is cut over every batch axis of more than one device
        (("batch", None, None), (8, 3, 3), PartitionSpec(("data", "fsdp"))),
        (("batch", None, "heads"), (8, 3, 4), PartitionSpec(("data", "fsdp"), None, ("tensor",))),
    ],
)
def test_spec(names: sharding.Names, shape: tuple[int, ...], expected: PartitionSpec, mesh: jax.sharding.Mesh) -> None:
    assert sharding.spec(names, shape, mesh, RULES) == expected


def test_an_axis_whose_name_was_refused_leaves_the_mesh_axis_to_the_next(mesh: jax.sharding.Mesh) -> None:
    assert sharding.spec(("heads", "mlp"), (7, 16), mesh, RULES) == PartitionSpec(None, ("tensor",))


def test_mesh_axes_of_one_device_are_not_mentioned() -> None:
    one = sharding.make_mesh(dict(data=8))
    assert sharding.spec(("embed", "mlp"), (8, 16), one, RULES) == PartitionSpec()


def test_a_free_mesh_axis_takes_the_rest() -> None:
    assert dict(sharding.make_mesh(dict(data=-1, tensor=4)).shape) == dict(replica=1, data=2, fsdp=1, tensor=4)
    assert dict(sharding.make_mesh().shape) == dict(replica=1, data=8, fsdp=1, tensor=1)


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        (dict(dta=8), "did you mean 'data'"),
        (dict(data=3), "does not fit 8 devices"),
        (dict(data=-1, fsdp=3), "does not fit 8 devices"),
        (dict(data=-1, fsdp=-1), "one axis at most"),
    ],
)
def test_a_wrong_mesh_is_refused(shape: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        sharding.make_mesh(shape)


def test_optimizer_state_is_sharded_like_its_parameter(mesh: jax.sharding.Mesh) -> None:
    params = {"a": {"kernel": jnp.zeros((8, 16))}, "b": {"a": {"kernel": jnp.zeros((4, 8))}}}
    names = {"a": {"kernel": ("embed", "mlp")}, "b": {"a": {"kernel": ("mlp", "embed")}}}
    shardings = sharding.shard_params(params, names, mesh, RULES)
    state = optax.adam(1e-3).init(params)
    placed = sharding.shard_like(state, params, shardings, mesh)
    for moments in (placed[0].mu, placed[0].nu):
        assert moments == shardings
    assert placed[0].count.spec == PartitionSpec()


def test_statistics_of_another_shape_are_replicated(mesh: jax.sharding.Mesh) -> None:
    params = {"a": {"kernel": jnp.zeros((8, 16))}}
    shardings = sharding.shard_params(params, {"a": {"kernel": ("embed", "mlp")}}, mesh, RULES)
    rows = {"a": {"kernel": jnp.zeros((8,))}}
    assert sharding.shard_like(rows, params, shardings, mesh)["a"]["kernel"].spec == PartitionSpec()


def test_a_batch_is_cut_over_every_batch_axis(mesh: jax.sharding.Mesh) -> None:
    batch = sharding.put_batch(dict(x=np.arange(8.0)), mesh)
    assert sharding.batch_shards(mesh) == 4
    assert {shard.data.shape for shard in batch["x"].addressable_shards} == {(2,)}
    assert (np.asarray(batch["x"]) == np.arange(8.0)).all()


def test_constraints_mean_nothing_outside_use_and_shard_inside(mesh: jax.sharding.Mesh) -> None:
    x = jnp.zeros((8, 4))
    assert sharding.constrain(x, ("batch", None)) is x
    assert sharding.active_mesh() is None
    with sharding.use(mesh, RULES):
        assert sharding.active_mesh() is mesh
        y = jax.jit(lambda x: sharding.constrain(x, ("batch", "mlp")))(x)
    assert sharding.active_mesh() is None
    assert y.sharding.is_equivalent_to(
        jax.sharding.NamedSharding(mesh, PartitionSpec(("data", "fsdp"), ("tensor",))), 2
    )
