"""The hooks of weight leaves, on the smallest leaf there is: sharding, freezing, keys, what follows a product."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import PartitionSpec

from jvlm.core import leaves, sharding
from jvlm.core.leaves import Leaf, Names
from jvlm.nn.conv import Conv
from jvlm.nn.dense import Dense, Embed
from jvlm.train.optim import make_optimizer
from jvlm.transforms.freeze import combine, partition


class Gain(Leaf, struct.PyTreeNode):
    """A kernel times a trained gain of each output; `noise` is the key of a step."""

    base: Any
    gain: Any
    noise: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    def materialize(self) -> jax.Array:
        base = self.base.materialize() if isinstance(self.base, Leaf) else self.base
        return base * self.gain[..., None, :]

    def place(self, names: Names, fn: Callable[[Names, Any], Any]) -> Any:
        base = leaves.place(self.base, names, fn)
        return self.replace(base=base, gain=leaves.place(self.gain, (*names[:-2], names[-1]), fn))

    def split(self) -> tuple[Any, Any]:
        trained, frozen = leaves.split(self.base)
        return self.replace(base=trained), self.replace(base=frozen, gain=None)

    def keyed(self, key: jax.Array) -> Leaf:
        return self.replace(noise=key)

    def after(self, y: jax.Array) -> jax.Array:
        return leaves.after(y, self.base) + 1


class Whole(Leaf, struct.PyTreeNode):
    """A leaf without opinions."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    def materialize(self) -> jax.Array:
        return self.value

    def place(self, names: Names, fn: Callable[[Names, Any], Any]) -> Any:
        return self.replace(value=leaves.place(self.value, names, fn))


@pytest.fixture
def params() -> dict[str, Any]:
    kernel = jnp.arange(3 * 8 * 16.0).reshape(3, 8, 16)
    return {
        "blocks": {"layers": {"up": {"kernel": Gain(Whole(kernel), jnp.ones((3, 16))), "bias": jnp.zeros((3, 16))}}},
        "head": {"kernel": jnp.ones((16, 4))},
    }


NAMES = {
    "blocks": {"layers": {"up": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}}},
    "head": {"kernel": ("mlp", None)},
}


def test_the_arrays_of_a_leaf_and_their_optimizer_state_are_sharded_with_the_kernel(params: dict[str, Any]) -> None:
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    placed = sharding.shard_params(params, NAMES, mesh, sharding.PRESETS["fsdp_tp"])
    leaf = placed["blocks"]["layers"]["up"]["kernel"]
    assert leaf.base.value.spec == PartitionSpec(None, ("fsdp",), ("tensor",))
    assert leaf.gain.spec == PartitionSpec(None, ("tensor",))
    assert jax.device_put(params, placed)["blocks"]["layers"]["up"]["kernel"].gain.sharding == leaf.gain
    trained, _ = partition(params, ["head/*"])
    shardings = sharding.shard_params(trained, NAMES, mesh, sharding.PRESETS["fsdp_tp"])
    state = optax.adam(1e-3).init(trained)
    assert (
        sharding.shard_like(state, trained, shardings, mesh)[0].mu["blocks"]["layers"]["up"]["kernel"].gain == leaf.gain
    )


def test_only_what_a_leaf_calls_trained_is_trained(params: dict[str, Any]) -> None:
    trained, frozen = partition(params, ["head/*"])
    assert [x.shape for x in jax.tree.leaves(trained)] == [(3, 16), (3, 16)]
    assert [x.shape for x in jax.tree.leaves(frozen)] == [(3, 8, 16), (16, 4)]
    whole = combine(trained, frozen)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(params), strict=True))
    trained, frozen = partition(params, ["*/kernel"])
    assert [x.shape for x in jax.tree.leaves(trained)] == [(3, 16)]  # the bias


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd", "lion", "adafactor"])
def test_every_optimizer_moves_the_trained_arrays_of_a_leaf(params: dict[str, Any], name: str) -> None:
    trained, _ = partition(params, ["head/*"])
    # The first names the array, the second its leaf, the third what is frozen.
    rates = [["*/gain", 0.5], ["*/up/kernel", 0.1], ["head/*", 7.0]]
    config: dict[str, Any] = dict(name=name, lr=0.1, weight_decay=0.1, lr_mult=rates, schedule=dict(name="constant"))
    optimizer, _ = make_optimizer(config, trained, 10)
    grads = jax.tree.map(jnp.ones_like, trained)
    updates: Any = optimizer.update(grads, optimizer.init(trained), trained)[0]
    gain, bias = updates["blocks"]["layers"]["up"]["kernel"].gain, updates["blocks"]["layers"]["up"]["bias"]
    assert float(jnp.abs(gain).max()) > 0
    # A gain of a layer is a vector, so it does not decay; it moves at half the bias's rate.
    np.testing.assert_allclose(gain, 0.5 * bias, rtol=1e-6)


def test_keys_differ_by_path_and_repeat(params: dict[str, Any]) -> None:
    two = params | {"other": {"kernel": params["blocks"]["layers"]["up"]["kernel"]}}
    first, again = (leaves.keyed(two, jax.random.key(0)) for _ in range(2))

    def noise(tree: Any) -> list[Any]:
        found = (tree["blocks"]["layers"]["up"]["kernel"], tree["other"]["kernel"])
        return [jax.random.key_data(leaf.noise).tolist() for leaf in found]

    assert noise(first) == noise(again) and noise(first)[0] != noise(first)[1]
    assert first["head"]["kernel"] is params["head"]["kernel"]


def test_a_leaf_acts_on_the_output_of_every_layer_after_the_bias() -> None:
    ids, x = jnp.arange(4), jnp.ones((1, 4, 4, 2))
    cases: Any = ((Dense(3, ("embed", None)), x), (Conv(3, 3, (None, None)), x), (Embed(5, 3), ids))
    for module, given in cases:
        variables = jax.tree.map(lambda x: x + 2, module.init(jax.random.key(0), given))
        plain = module.apply({"params": {k: v.value for k, v in variables["params"].items()}}, given)
        wrapped = {
            k: Gain(v.value, jnp.ones(3)) if v.value.ndim > 1 else v.value for k, v in variables["params"].items()
        }
        np.testing.assert_allclose(module.apply({"params": wrapped}, given), plain + 1, rtol=1e-6)
