"""Every family computes with quantized kernels, without knowing: scanned, sharded, saved and restored elsewhere."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm import models
from jvlm.checkpoint.manager import Checkpoints
from jvlm.core import sharding
from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten, map_paths, unflatten
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import quantizable, quantize_tree
from tests.models_util import TRANSFORMERS, initialize, inputs, tiny

families = pytest.mark.parametrize("family", TRANSFORMERS)
GROUP = 16


@functools.cache
def quantized(family: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(model, variables with every kernel and table that divides in four bits, names)."""
    model, variables, names = initialize(tiny(family))
    paths, double = quantizable(flatten(variables["params"])), family == "bert"
    params = jax.jit(lambda params: quantize_tree(params, paths, "nf4", GROUP, double).params)(variables["params"])
    return model, variables | dict(params=params), names


def run(model: Any, variables: Any, given: Any) -> Any:
    return jax.jit(lambda variables, given: model.apply(variables, **given))(variables, given)


@jax.jit
def dequantized(variables: dict[str, Any]) -> dict[str, Any]:
    return map_paths(lambda _, leaf: leaf.materialize() if isinstance(leaf, Leaf) else leaf, variables)


def assert_near(actual: Any, wanted: Any, tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, float(jnp.abs(b).max())))


@families
def test_the_forward_pass_equals_that_of_the_dequantized_kernels(family: str) -> None:
    model, variables, _ = quantized(family)
    count = sum(isinstance(leaf, QTensor) for leaf in flatten(variables["params"]).values())
    assert count >= 6
    given = inputs(model)
    wanted = run(model, dequantized(variables), given)
    assert_near(run(model, variables, given), wanted, 1e-5)


def test_unrolled_quantized_kernels_equal_scanned_ones() -> None:
    model, variables, _ = quantized("decoder")
    given = inputs(model)
    unrolled = models.create(tiny("decoder", scan=False))
    assert_near(run(unrolled, variables, given), run(model, variables, given), 1e-5)


def test_gradients_pass_through_quantized_kernels() -> None:
    model, variables, _ = quantized("bert")
    given = {name: jnp.asarray(x) for name, x in inputs(model).items()}
    flat = flatten(variables["params"])
    state = {name: tree for name, tree in variables.items() if name != "params"}
    biases = {path: leaf for path, leaf in flat.items() if not isinstance(leaf, Leaf)}

    def loss(biases: Any, flat: Any) -> jax.Array:
        out = model.apply({"params": unflatten(flat | biases), **state}, **given)
        return jnp.stack([jnp.sin(3 * x).sum() for x in jax.tree.leaves(out)]).sum()

    dense = flatten(dequantized(variables)["params"])
    gradient = jax.jit(jax.grad(loss))
    assert_near(gradient(biases, flat), gradient(biases, dense), 1e-4)


@pytest.mark.parametrize("family", ["align", "blip2", "clip", "decoder", "flamingo", "t5"])
def test_scales_are_sharded_with_their_kernels_and_change_nothing(family: str) -> None:
    model, variables, names = quantized(family)
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.PRESETS["fsdp_tp"]
    placed = jax.device_put(variables, sharding.shard_params(variables, names, mesh, rules))
    found = [leaf for leaf in flatten(placed["params"]).values() if isinstance(leaf, QTensor)]
    assert any(not leaf.codes.sharding.is_fully_replicated for leaf in found)
    for leaf in found:
        spec = leaf.codes.sharding.spec
        if all(extent % 2 == 0 for extent in leaf.scale.shape):
            assert leaf.scale.sharding.spec == spec
    given = inputs(model, batch=4)
    with sharding.use(mesh, rules):
        actual = run(model, placed, sharding.put_batch(given, mesh))
    assert_near(actual, run(model, variables, given), 1e-5)


@pytest.mark.parametrize("family", models.MODELS)
def test_a_quantized_tree_is_saved_restored_and_resharded_to_the_bit(family: str, tmp_path: Path) -> None:
    _, variables, names = quantized(family)
    flat = flatten({"params": variables["params"]})
    tree = unflatten({path: leaf for path, leaf in flat.items() if isinstance(leaf, QTensor)})
    assert tree

    def shardings(shape: dict[str, int], preset: str) -> Any:
        return sharding.shard_params(tree, names, sharding.make_mesh(shape), sharding.PRESETS[preset])

    checkpoints = Checkpoints(tmp_path, asynchronous=False)
    checkpoints.save(1, jax.device_put(tree, shardings(dict(fsdp=8), "fsdp")), {})
    other = shardings(dict(data=2, fsdp=2, tensor=2), "fsdp_tp")
    template = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, other)
    restored = checkpoints.restore(template).tree
    checkpoints.close()
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(restored), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    for found, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(other), strict=True):
        assert found.sharding.is_equivalent_to(wanted, found.ndim)
