"""Model FLOPs: products and convolutions once forward, once backward for each factor that training reaches."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jvlm.losses.ring import contrastive_loss
from jvlm.nn.axes import split
from jvlm.nn.block import Block
from jvlm.nn.stack import Stack
from jvlm.plan.flops import training_flops

X = jax.ShapeDtypeStruct((6, 8), jnp.bfloat16)
W = jax.ShapeDtypeStruct((8, 10), jnp.bfloat16)
V = jax.ShapeDtypeStruct((10, 8), jnp.bfloat16)
PRODUCT = 2 * 6 * 8 * 10


def test_a_first_layer_has_no_gradient_of_its_input() -> None:
    assert training_flops(lambda w, x: jnp.sum(x @ w), W, X) == 2 * PRODUCT
    assert training_flops(lambda p, x: jnp.sum(jnp.tanh(x @ p[0]) @ p[1]), (W, V), X) == 5 * PRODUCT


def test_a_frozen_kernel_has_no_gradient_but_passes_one_on() -> None:
    def forward(w, x, v):
        return jnp.sum(jnp.tanh(x @ w) @ v)

    assert training_flops(forward, W, X, V) == 2 * PRODUCT + 2 * PRODUCT
    # Nothing is trained below the frozen kernel: forward only.
    assert training_flops(lambda v, x, w: jnp.sum(jnp.tanh(x @ w) @ v), V, X, W) == PRODUCT + 2 * PRODUCT
    assert training_flops(lambda w, x: jnp.sum(jax.lax.stop_gradient(x @ w) + w.sum()), W, X) == PRODUCT


def test_loops_count_as_often_as_they_run_and_recomputation_never() -> None:
    def body(x, _):
        return jnp.tanh(jnp.tanh(x @ x.T) @ x), None

    def forward(w, policy):
        step = body if policy is None else jax.checkpoint(body, policy=policy)
        return jnp.sum(jax.lax.scan(step, w, length=5)[0])

    expected = 5 * 3 * (2 * 8 * 8 * 10 + 2 * 8 * 8 * 10)
    for policy in (None, jax.checkpoint_policies.nothing_saveable):
        assert training_flops(partial(forward, policy=policy), W) == expected


def test_what_only_metrics_read_does_not_count() -> None:
    def forward(w, x):
        jnp.sum(x @ w)
        return jnp.sum(w)

    assert training_flops(forward, W, X) == 0


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_counts_true_window_positions(groups: int) -> None:
    image = jax.ShapeDtypeStruct((2, 9, 8, 4), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 4 // groups, 6), jnp.float32)

    def forward(kernel, image):
        numbers = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )
        return jnp.sum(out)

    assert training_flops(forward, kernel, image) == 2 * (2 * 2 * 6 * (4 // groups) * (3 * 9 - 2) * (3 * 8 - 2))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("form", ["ring", "global"])
def test_a_contrastive_loss_is_one_matrix_of_logits(kind: str, form: str) -> None:
    z = jax.ShapeDtypeStruct((16, 4), jnp.float32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)

    def forward(*given: Any) -> Any:
        (zimg, ztxt), bias = given
        return contrastive_loss(kind, zimg, ztxt, jnp.ones(()), bias, form=form)[0]

    assert training_flops(forward, (z, z), scalar) == 3 * 2 * 16 * 16 * 4


def test_sums_that_only_a_cpu_writes_as_products_do_not_count() -> None:
    module = Stack(Block(num_heads=2, mlp_dim=12), depth=3, remat="full")
    x = jnp.zeros((2, 5, 8))
    params = split(jax.eval_shape(module.init, jax.random.key(0), x)["params"])[0]
    tokens, width, hidden = 10, 8, 12
    layer = 2 * tokens * (4 * width**2 + 2 * width * hidden) + 2 * 2 * tokens * 5 * width

    def forward(params, x):
        return jnp.sum(module.apply({"params": params}, x)[0])

    # Of a loop every turn counts alike, so the first layer's gradient of the data is among them.
    assert training_flops(forward, params, x) == 3 * 3 * layer


def test_integers_and_flags_pass_no_gradient() -> None:
    def forward(w, x, v):
        chosen = jnp.argmax(x @ w, axis=1)
        return jnp.sum(jax.nn.one_hot(chosen, 10, dtype=jnp.bfloat16) @ v) + w.sum()

    assert training_flops(forward, W, X, V) == 2 * PRODUCT
