"""An unrolled stack computes of its last block what is read: one token costs less and is the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.nn import masks
from jvlm.nn.axes import split
from jvlm.nn.block import Block
from jvlm.nn.pooling import pick
from jvlm.nn.remat import REMAT
from jvlm.nn.stack import Stack
from jvlm.plan.hlo import read_program

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 6, 8)), jnp.float32)
KEEP = jnp.arange(6) < jnp.asarray([[6], [4], [5]])
MASKS = {"none": None, "causal": masks.causal(6), "padding": masks.padding(KEEP)}
POSITIONS = {"first": 0, "last": 5, "each": jnp.asarray([1, 3, 4])}


def stack(scan: bool = False, **fields: Any) -> Stack:
    block_fields = {key: fields.pop(key) for key in ("post_norm", "dropout") if key in fields}
    return Stack(Block(num_heads=2, mlp_dim=16, **block_fields), depth=3, scan=scan, **fields)


def params_of(module: Stack) -> Any:
    params = split(module.init(jax.random.key(0), X)["params"])[0]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)


def run(module: Stack, params: Any, **arguments: Any) -> Any:
    return module.apply({"params": params}, X, **arguments)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("at", POSITIONS)
@pytest.mark.parametrize("post_norm", [False, True])
def test_the_token_alone_equals_the_one_in_the_sequence(mask: str, at: str, post_norm: bool) -> None:
    module, position = stack(post_norm=post_norm), POSITIONS[at]
    weights = jnp.linspace(-1, 1, 24).reshape(3, 8)

    def value(params: Any, alone: bool) -> jax.Array:
        sequence, token = run(module, params, mask=MASKS[mask], at=position)
        return (weights * (token if alone else pick(sequence, position))).sum()

    params = params_of(module)
    for one, other in zip(*(jax.tree.leaves(jax.value_and_grad(value)(params, alone)) for alone in (True, False))):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * max(1, float(jnp.abs(other).max())))


@pytest.mark.parametrize("remat", ["none", "full"])
def test_unrolled_equals_scanned(remat: str) -> None:
    scanned, unrolled = stack(scan=True), stack(remat=remat)
    params = params_of(scanned)
    expected, none = run(scanned, params, at=0)
    actual, token = run(unrolled, params, at=0)
    assert none is None
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(token, expected[:, 0], rtol=1e-5, atol=1e-5)


def test_a_program_that_reads_the_token_does_not_compute_the_others() -> None:
    module = stack()
    params = params_of(module)

    def products(index: int) -> float:
        program = jax.jit(jax.grad(lambda p: run(module, p, at=0)[index].sum()))
        cost: Any = program.lower(params).compile().cost_analysis()
        return cost["flops"]

    assert products(1) < 0.8 * products(0)


def test_layers_draw_their_own_dropout() -> None:
    module = stack(dropout=0.5)
    params = params_of(module)

    def of(seed: int) -> jax.Array:
        return run(module, params, train=True, rngs={"dropout": jax.random.key(seed)})[0]

    np.testing.assert_array_equal(of(0), of(0))
    assert jnp.abs(of(0) - of(1)).max() > 1e-3
    assert str(jax.make_jaxpr(of)(0)).count("random_fold_in") >= module.depth


def test_each_policy_recomputes_the_products_that_it_does_not_keep() -> None:
    tokens, width, hidden = X.shape[0] * X.shape[1], 8, 16
    square, wide = 2 * tokens * width * width, 2 * tokens * width * hidden
    inside = 2 * (2 * tokens * X.shape[1] * width)  # logits and weighted sum of attention
    norms = 4 * (2 * tokens * width)  # mean and variance are products on a CPU
    # Never the product `down`: nothing needs its output again.
    expected = {
        "none": 0,
        "dots": inside,
        "projections": inside + norms,
        "mlp_out": 3 * square + inside + norms,
        "mlp": 4 * square + inside + norms,
        "attention": inside + wide + norms,
        "full": 4 * square + inside + wide + norms,
    }
    assert list(expected) == list(REMAT)

    def flops(remat: str) -> int:
        module = stack(scan=True, remat=remat)
        params = params_of(module)
        step = jax.jit(jax.grad(lambda p: jnp.sum(run(module, p)[0] ** 2)))
        return read_program(step.lower(params).compile().as_text() or "").flops

    least = flops("none")
    assert {remat: flops(remat) - least for remat in REMAT} == {key: 3 * value for key, value in expected.items()}
