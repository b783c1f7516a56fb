"""What a configuration may choose of a pod's messages shows in the compiled step."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jvlm.core import leaves, sharding
from jvlm.core.errors import ConfigError
from jvlm.plan.compile import abstract_step
from jvlm.plan.hlo import read_program
from jvlm.plan.topologies import describe, uncached
from jvlm.train.setup import setup
from tests.plan.slices import needs_libtpu
from tests.train.cases import toy_config


def kernel_gradient(wide: bool) -> Any:
    """The gradient of a bfloat16 product's float32 kernel, where that of the product is given."""

    def loss(kernel: jax.Array, x: jax.Array, slope: jax.Array) -> jax.Array:
        with leaves.wide_gradients(wide):
            return (leaves.matmul(x, kernel) * slope).astype(jnp.float32).sum()

    return jax.jit(jax.grad(loss))


@needs_libtpu
def test_gradients_cross_the_chips_in_the_dtype_of_the_choice() -> None:
    mesh = sharding.make_mesh({"data": 4}, describe("v5e:2x2").devices)
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    kernel = jax.ShapeDtypeStruct((256, 512), jnp.float32, sharding=whole)
    x, slope = (jax.ShapeDtypeStruct((64, size), jnp.bfloat16, sharding=split) for size in kernel.shape)
    sent = {}
    for wide in (False, True):
        with uncached():
            text = kernel_gradient(wide).lower(kernel, x, slope).compile().as_text()
        sent[wide] = sum(collective.bytes for collective in read_program(text).collectives)
    assert sent == {False: 2 * 256 * 512, True: 4 * 256 * 512}


def test_a_wide_gradient_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(8, 16)), jnp.float32)
    x, slope = (jnp.asarray(rng.normal(size=(64, size)), jnp.bfloat16) for size in kernel.shape)
    exact = np.asarray(x, np.float64).T @ np.asarray(slope, np.float64)
    narrow, wide = (np.abs(np.asarray(kernel_gradient(on)(kernel, x, slope)) - exact).max() for on in (False, True))
    assert wide < 1e-5 < 1e-3 < narrow


def test_a_run_takes_the_choice_and_refuses_another() -> None:
    def mixed(*overrides: str) -> int:
        """Products of bfloat16 that are summed and kept in float32, two-dimensional as kernels are."""
        config = toy_config(*overrides)
        with config.unlocked():
            config.update(model=dict(dtype="bfloat16"))
        run = setup(config, abstract=True)
        state, batch, seed, step = abstract_step(run)
        with sharding.use(run.mesh, run.rules):
            text = step.lower(state, batch, seed).as_text()
        found = r"stablehlo.dot_general.*\(tensor<\d+x\d+xbf16>, tensor<\d+x\d+xbf16>\) -> tensor<\d+x\d+xf32>"
        return len(re.findall(found, text))

    assert mixed("gradients=float32") > mixed() + 4
    with pytest.raises(ConfigError, match="'float16'"):
        setup(toy_config("gradients=float16"), abstract=True)
