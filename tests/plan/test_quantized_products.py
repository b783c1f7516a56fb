"""What a TPU program does with a quantized kernel: it reads the codes and never holds the kernel."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jvlm.core import leaves
from jvlm.plan.topologies import describe, uncached
from jvlm.transforms.account import stored_bytes
from jvlm.transforms.quantize import quantize
from tests.plan.slices import needs_libtpu

WIDTH, ROWS, DEPTH = 2048, 128, 4
KERNEL = 2 * WIDTH * WIDTH
"""Bytes of one kernel written out in bfloat16."""


def compiled(function: Any, *shapes: tuple[tuple[int, ...], str, bool]) -> tuple[Any, float]:
    """(program for one v5e chip, bytes of its arguments); an argument is (shape, dtype or scheme, double)."""
    mesh = Mesh(np.array(describe("v5e:1x1").devices), ("chip",))
    sharding = NamedSharding(mesh, PartitionSpec())

    def argument(shape: tuple[int, ...], kind: str, double: bool) -> Any:
        if kind == "bfloat16":
            plain = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        else:
            kernel = jax.ShapeDtypeStruct(shape, jnp.float32)
            plain = jax.eval_shape(lambda kernel: quantize(kernel, kind, 64, double), kernel)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), plain)

    given = [argument(*shape) for shape in shapes]
    with uncached():
        return jax.jit(function, out_shardings=sharding).lower(*given).compile(), stored_bytes(given)


@needs_libtpu
@pytest.mark.parametrize(("scheme", "double"), [("int4", False), ("nf4", False), ("nf4", True)])
def test_a_product_reads_the_codes_and_holds_no_kernel(scheme: str, double: bool) -> None:
    program, given = compiled(leaves.matmul, ((ROWS, WIDTH), "bfloat16", False), ((WIDTH, WIDTH), scheme, double))
    memory, cost = program.memory_analysis(), program.cost_analysis()
    # A kernel written out would be written and read: twice its bytes more, and once more of the memory.
    limit = given + 2 * ROWS * WIDTH + KERNEL / 2
    assert memory.peak_memory_in_bytes < limit
    assert cost["bytes accessed"] < limit


@needs_libtpu
def test_a_gradient_through_a_stack_holds_no_kernel() -> None:
    def loss(x: jax.Array, stack: Any) -> jax.Array:
        out, _ = jax.lax.scan(lambda x, kernel: (jnp.tanh(leaves.matmul(x, kernel)), None), x, stack)
        return out.astype(jnp.float32).sum()

    program, given = compiled(jax.grad(loss), ((ROWS, WIDTH), "bfloat16", False), ((DEPTH, WIDTH, WIDTH), "nf4", False))
    activations = DEPTH * 2 * ROWS * WIDTH
    assert program.memory_analysis().peak_memory_in_bytes < given + 6 * activations + KERNEL / 2
