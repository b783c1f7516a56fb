"""Properties of the models that convolve, at tiny size: sharded, recomputed, scanned, adapted, quantized, refused."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm import models
from jvlm.core import sharding
from jvlm.core.leaves import Leaf
from jvlm.core.tree import flatten, map_arrays
from jvlm.models.vq import nearest_codes
from jvlm.transforms.adapters import attach, merge
from jvlm.transforms.methods import make_method
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import dequantize_tree, quantizable, quantize_tree
from tests.models_util import initialize, inputs, tiny

# Unoptimized, what a program computes twice is rounded in two ways.
OPTIMIZED = {"xla_backend_optimization_level": 1}


@functools.cache
def initial(family: str) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """(model, params, names, inputs of a batch of 8)."""
    model, variables, names = initialize(tiny(family))
    return model, variables["params"], names["params"], inputs(model, batch=8)


@functools.cache
def program(**overrides: Any) -> Any:
    """The compiled UNet, by what is overridden: one program for all parameters of a structure."""
    model: Any = models.create(tiny("unet", **overrides))
    return jax.jit(lambda params, given: model.apply({"params": params}, **given))


def forward(params: Any, **overrides: Any) -> Any:
    return program(**overrides)(params, initial("unet")[3])


def objective(model: Any) -> Callable[..., Any]:
    """Gradient of the squares of the first output."""

    def value(params: Any, given: Any) -> jax.Array:
        out = model.apply({"params": params}, **given, train=True, rngs={"dropout": jax.random.key(1)})
        return jnp.square(jax.tree.leaves(out)[0]).sum()

    return jax.jit(jax.value_and_grad(value), compiler_options=OPTIMIZED)


@functools.cache
def expected() -> Any:
    model, params, _, given = initial("unet")
    return objective(model)(params, given)


@functools.cache
def base() -> Any:
    return forward(initial("unet")[1])


def assert_near(actual: Any, wanted: Any, tolerance: float) -> None:
    for (path, b), a in zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(actual), strict=True):
        difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()
        assert difference <= tolerance * max(1.0, np.abs(b).max()), f"{jax.tree_util.keystr(path)}: {difference}"


def test_sharded_equals_unsharded() -> None:
    model, params, names, given = initial("unet")
    mesh, rules = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)), sharding.PRESETS["fsdp_tp"]
    placed = jax.device_put(params, sharding.shard_params(params, names, mesh, rules))
    assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(placed))
    with sharding.use(mesh, rules):
        actual = objective(model)(placed, sharding.put_batch(given, mesh))
    assert_near(actual, expected(), 1e-5)


def test_recomputing_changes_neither_value_nor_gradient() -> None:
    _, params, _, given = initial("unet")
    assert_near(objective(models.create(tiny("unet", remat="full")))(params, given), expected(), 1e-6)


def test_scanned_equals_unrolled() -> None:
    assert_near(forward(initial("unet")[1], scan=False), base(), 1e-6)


def test_quantized_kernels_compute_what_they_stand_for() -> None:
    params = initial("unet")[1]
    paths = quantizable(flatten(params))
    quantized = quantize_tree(params, paths, "int8", 4, False).params
    assert sum(isinstance(leaf, QTensor) for leaf in flatten(quantized).values()) > 20
    assert_near(forward(quantized), forward(dequantize_tree(quantized)), 1e-5)


def test_lora_on_every_kernel_starts_as_the_base_and_merges() -> None:
    params = initial("unet")[1]
    method = make_method(dict(kind="lora", rank=3, targets=["*kernel"]))
    adapted = attach(params, method, jax.random.key(1))
    leaves = {path: leaf for path, leaf in flatten(adapted).items() if isinstance(leaf, Leaf)}
    assert leaves.keys() == {path for path in flatten(params) if path.endswith("kernel")}
    assert any(len(leaf.shape) == 4 for leaf in leaves.values())  # convolutions too
    assert_near(forward(adapted), base(), 1e-6)
    noise = np.random.default_rng(0)
    moved = map_arrays(
        lambda path, x: x + 0.1 * noise.normal(size=x.shape).astype(np.float32) if path.endswith("/b") else x, adapted
    )
    out = forward(moved)
    assert np.abs(out - base()).max() > 1e-3
    assert_near(forward(merge(moved)), out, 1e-5)


def test_bfloat16_stays_near() -> None:
    assert_near(forward(initial("unet")[1], dtype="bfloat16"), base(), 0.1)


def test_gradients_pass_the_codebook_straight_through() -> None:
    model, params, _, _ = initial("vq")

    def value(latents: jax.Array) -> jax.Array:
        chosen = jnp.take(params["codebook"], nearest_codes(latents, params["codebook"]), axis=0)
        passed = latents + jax.lax.stop_gradient(chosen - latents)
        return jnp.square(model.apply({"params": params}, passed, method="decode")).sum()

    latents = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 4)), jnp.float32)
    assert jnp.abs(jax.jit(jax.grad(value))(latents)).min() > 0


def test_a_size_that_is_no_multiple_is_refused() -> None:
    model, params, _, _ = initial("autoencoder")
    with pytest.raises(ValueError, match="9 x 8 pixels are no multiple of 2"):
        model.apply({"params": params}, jnp.zeros((1, 9, 8, 3)))
