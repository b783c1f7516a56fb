"""A quantized leaf multiplies, looks up and convolves as the kernel it stands for, and is differentiated like it."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core import leaves
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import quantize
from jvlm.transforms.schemes import SCHEMES

FORMS = [(scheme, double) for scheme in SCHEMES for double in (False, True)]
forms = pytest.mark.parametrize(("scheme", "double"), FORMS)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_near(actual: Any, wanted: Any, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(actual, wanted, atol=tolerance * float(jnp.abs(wanted).max()))


@forms
def test_products_equal_those_of_the_dequantized_kernel(scheme: str, double: bool) -> None:
    x, kernel = normal(2, 5, 64), quantize(normal(64, 48, seed=1), scheme, 16, double)
    assert_near(leaves.matmul(x, kernel), x @ kernel.dequantize())
    scaled = replace(kernel, inner=jnp.exp(normal(64, seed=2)))
    assert_near(leaves.matmul(x, scaled), (x * scaled.inner) @ kernel.dequantize())
    table = quantize(normal(50, 32, seed=1), scheme, 16, double, axis=-1)
    dense, ids = table.dequantize(), jnp.asarray([[3, 0, 49], [7, 3, 3]])
    np.testing.assert_array_equal(leaves.take(table, ids, jnp.float32), dense[ids])
    assert leaves.take(table, ids, jnp.bfloat16).dtype == jnp.bfloat16
    assert_near(leaves.attend(normal(2, 32), table), normal(2, 32) @ dense.T)
    image, filters = normal(2, 8, 8, 16), quantize(normal(3, 3, 16, 24, seed=1), scheme, 16, double)
    assert_near(leaves.conv(image, filters, (2, 2), "SAME"), leaves.conv(image, filters.dequantize(), (2, 2), "SAME"))


@forms
def test_input_gradients_equal_those_of_the_dequantized_kernel(scheme: str, double: bool) -> None:
    x, kernel = normal(7, 64), quantize(normal(64, 48, seed=1), scheme, 16, double)

    def loss(x: jax.Array, kernel: Any) -> jax.Array:
        return jnp.sin(leaves.matmul(x, kernel)).sum()

    assert_near(jax.grad(loss)(x, kernel), jax.grad(loss)(x, kernel.dequantize()))
    under_jit = jax.jit(jax.grad(jax.checkpoint(loss)))
    assert_near(under_jit(x, kernel), jax.grad(loss)(x, kernel.dequantize()))


def test_a_gradient_keeps_codes_and_no_kernel() -> None:
    stack = quantize(normal(6, 64, 64), "int4", 16)

    def loss(x: jax.Array) -> jax.Array:
        out, _ = jax.lax.scan(lambda x, layer: (jnp.tanh(leaves.matmul(x, layer)), None), x, stack)
        return out.sum()

    _, pullback = jax.vjp(loss, normal(4, 64))
    floats = [x for x in jax.tree.leaves(pullback) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert max(x.size for x in floats) < stack.codes.size / 4


def test_a_scan_cuts_a_stack_into_its_layers() -> None:
    stack = quantize(normal(3, 32, 32), "nf4", 16, double=True)
    stack = replace(stack, inner=jnp.exp(normal(3, 32, seed=1)))
    x = normal(4, 32)
    scanned, _ = jax.lax.scan(lambda x, layer: (leaves.matmul(x, layer), None), x, stack)
    for layer in stack.dequantize():
        x = x @ layer
    assert_near(scanned, x, 1e-5)


def test_places_name_every_array_after_the_kernel() -> None:
    leaf = quantize(normal(3, 32, 16), "int4_asym", 16, double=True)
    leaf = replace(leaf, inner=jnp.ones((3, 32)))
    seen = leaf.place(("layers", "embed", "mlp"), lambda names, array: (names, array.ndim))
    assert isinstance(seen, QTensor)
    for found in (seen.codes, seen.scale, seen.zero):
        assert found == (("layers", "embed", "mlp"), 3)
    assert seen.magnitude == (("layers", None), 2)
    assert seen.offset == (("layers",), 1)
    assert seen.inner == (("layers", "embed"), 2)


def test_bfloat16_inputs_give_bfloat16_outputs_near_the_exact_product() -> None:
    x, kernel = normal(5, 64), quantize(normal(64, 48, seed=1), "nf4", 16)
    low = leaves.matmul(x.astype(jnp.bfloat16), kernel)
    assert low.dtype == jnp.bfloat16
    assert_near(low.astype(jnp.float32), x @ kernel.dequantize(), 0.02)


def test_nothing_of_a_quantized_leaf_is_trained() -> None:
    trained, frozen = quantize(normal(64, 48), "int4", 16).split()
    assert not jax.tree.leaves(trained) and len(jax.tree.leaves(frozen)) == 2
