"""Gradient-cached accumulation is exact: K micro-batches are one batch K times as large."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core import sharding
from jvlm.core.tree import flatten
from jvlm.losses.contrastive import clipped_scale, sigmoid_loss, softmax_loss
from jvlm.tasks import TASKS
from jvlm.tasks.base import split_batch
from jvlm.transforms.freeze import combine, partition
from tests.models_util import initialize, inputs, tiny

BATCH = 16
MODELS: dict[str, dict[str, Any]] = {
    "softmax": tiny("clip", image=dict(dropout=0.2, depth=1), text=dict(dropout=0.2, depth=1)),
    "sigmoid": tiny("siglip", image=dict(dropout=0.2, depth=1), text=dict(dropout=0.2, depth=1)),
}


def make(kind: str, **options: Any) -> tuple[Any, dict[str, Any], dict[str, np.ndarray]]:
    model, variables, _ = initialize(MODELS[kind])
    batch = inputs(model, BATCH)
    batch["weight"] = (np.arange(BATCH) % 5 != 0).astype(np.float32)
    return TASKS["contrastive"](model, kind=kind, **options), variables["params"], batch


def reference(task: Any, kind: str, params: Any, batches: Any, rng: jax.Array) -> Any:
    """The loss of all micro-batches as one batch, by the global definition and plain differentiation."""

    def loss(params: Any) -> Any:
        outs = []
        for index in range(batches["image"].shape[0]):
            rngs = {"dropout": jax.random.fold_in(rng, index)}
            image, tokens = batches["image"][index], batches["tokens"][index]
            outs.append(task.model.apply({"params": params}, image, tokens, train=True, rngs=rngs))
        zimg = jnp.concatenate([out.zimg for out in outs])
        ztxt = jnp.concatenate([out.ztxt for out in outs])
        weights = batches["weight"].reshape(-1)
        scale = clipped_scale(params["logit_scale"])
        if kind == "softmax":
            total, weight = softmax_loss(zimg, ztxt, scale, weights=weights)
        else:
            total, weight = sigmoid_loss(zimg, ztxt, scale, params["logit_bias"], weights=weights)
        return total / weight

    return jax.value_and_grad(loss)(params)


def assert_close(actual: Any, expected: Any) -> None:
    wanted = flatten(expected)
    # The gradient of a key's bias is zero but for rounding: it shifts all logits of a query alike.
    floor = 1e-2 * max(float(jnp.abs(leaf).max()) for leaf in wanted.values())
    for path, value in flatten(actual).items():
        bound = 1e-5 * max(float(jnp.abs(wanted[path]).max()), floor)
        np.testing.assert_allclose(value, wanted[path], rtol=0, atol=bound, err_msg=path)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("micro", [1, 4])
def test_micro_batches_equal_one_batch_with_dropout(kind: str, micro: int) -> None:
    task, params, batch = make(kind)
    rng = jax.random.key(7)
    batches = split_batch({key: jnp.asarray(value) for key, value in batch.items()}, micro)
    got = jax.jit(task.grads)(params, partition(params, ())[1], {}, batches, rng)
    loss, grads = jax.jit(lambda p: reference(task, kind, p, batches, rng))(params)
    np.testing.assert_allclose(got.loss, loss, rtol=1e-5)
    assert_close(got.grads, grads)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_micro_batches_under_the_ring_equal_one_batch_on_one_device(kind: str) -> None:
    task, params, batch = make(kind, form="ring")
    rng = jax.random.key(7)
    mesh = sharding.make_mesh({"data": 4, "fsdp": 2})
    with sharding.use(mesh, sharding.PRESETS["dp"]):
        placed = sharding.put_batch(batch, mesh)
        grads = jax.jit(lambda p, b: task.grads(p, partition(p, ())[1], {}, split_batch(b, 2), rng))
        got = grads(params, placed)
    batches = split_batch({key: jnp.asarray(value) for key, value in batch.items()}, 2)
    loss, wanted = jax.jit(lambda p: reference(task, kind, p, batches, rng))(params)
    np.testing.assert_allclose(got.loss, loss, rtol=1e-5)
    assert_close(got.grads, wanted)


def test_a_frozen_tower_gets_no_gradient_and_the_other_keeps_its_own() -> None:
    task, params, batch = make("softmax")
    rng = jax.random.key(7)
    batches = split_batch({key: jnp.asarray(value) for key, value in batch.items()}, 2)
    whole = jax.jit(task.grads)(params, partition(params, ())[1], {}, batches, rng).grads
    trained, frozen = partition(params, ("image_tower/*",))
    grads = jax.jit(task.grads)(trained, frozen, {}, batches, rng).grads
    left = {path: leaf for path, leaf in flatten(grads).items() if leaf is not None}
    assert left and not any(path.startswith("image_tower/") for path in left)
    for path, leaf in left.items():
        np.testing.assert_allclose(leaf, flatten(whole)[path], rtol=1e-5, atol=1e-8, err_msg=path)
    assert jax.tree.structure(combine(trained, frozen)) == jax.tree.structure(params)
