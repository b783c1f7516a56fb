"""What a backward pass computes in which order, and on which platform."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jvlm.nn.mlp import Mlp

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 8)), jnp.float32)


def barriers(mlp: Mlp, platform: str, of: Any = (0, 1)) -> list[str]:
    """Types of what the barriers of a lowered backward pass hold together, differentiated by (parameters, input)."""
    params = jax.eval_shape(mlp.init, jax.random.key(0), X)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y: Any = jax.checkpoint(mlp.apply)(params, x)
        return jnp.square(y).sum()

    text = jax.jit(jax.grad(loss, argnums=of)).trace(params, X).lower(lowering_platforms=(platform,)).as_text()
    # A recomputation has a barrier of its own, around what it begins from.
    found = [line.rpartition(" : ")[2] for line in text.splitlines() if "optimization_barrier" in line]
    return [kind for kind in found if kind.count("tensor") == 2]


def test_a_tpu_uses_no_gradient_of_a_hidden_layer_before_its_kernels_is_there() -> None:
    gated = Mlp(32, gated=True, act="silu")
    assert barriers(gated, "tpu") == ["tensor<4x6x8xf32>, tensor<8x32xf32>"] * 2  # `up` and `gate`, not `down`
    assert not barriers(gated, "cpu")
    assert not barriers(gated, "tpu", of=1)  # a frozen kernel has no gradient to wait for
