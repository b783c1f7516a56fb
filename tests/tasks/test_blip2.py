"""BLIP-2's first stage: its three losses, each against its definition, on one device and on several."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core import sharding
from jvlm.core.tree import flatten
from jvlm.losses.matching import matching_loss
from jvlm.models.qformer import joint_mask
from jvlm.tasks import TASKS
from jvlm.tasks.base import split_batch
from tests.models_util import initialize, inputs, tiny


def made(**options: Any) -> tuple[Any, Any, dict[str, np.ndarray]]:
    fields = dict(depth=1, width=16, num_heads=2, mlp_dim=24)
    model, variables, _ = initialize(tiny("blip2-pretrain", image=fields, text=dict(fields, depth=2)))
    batch = inputs(model, 8)
    batch["tokens"] = np.maximum(batch["tokens"], 1)
    batch["tokens"][::2, 5:] = 0
    batch["weight"] = np.array([1, 1, 0, 1, 1, 1, 1, 1], np.float32)
    return TASKS["blip2-stage1"](model, start_id=63, **options), variables["params"], batch


@pytest.fixture(scope="module")
def computed() -> tuple[Any, Any, dict[str, np.ndarray], Any]:
    task, params, batch = made(smoothing=0.0)
    run = jax.jit(lambda p, b: task.grads(p, jax.tree.map(lambda _: None, p), {}, split_batch(b, 1), jax.random.key(3)))
    return task, params, batch, run(params, {k: jnp.asarray(v) for k, v in batch.items()})


def test_contrast_takes_the_query_that_fits_best(computed: Any) -> None:
    task, params, batch, out = computed
    pair = jax.jit(task.model.apply)({"params": params}, batch["image"], batch["tokens"])
    logits = np.einsum("nqe,me->nqm", pair.zimg, pair.ztxt).max(1) * float(pair.scale)
    kept = batch["weight"] > 0
    logits = logits[kept][:, kept]
    rows, columns = (-np.diag(jax.nn.log_softmax(x, axis=1)) for x in (logits, logits.T))
    np.testing.assert_allclose(out.metrics["loss_contrast"], (rows.mean() + columns.mean()) / 2, rtol=1e-4)


def test_captions_are_written_behind_the_queries(computed: Any) -> None:
    task, params, batch, out = computed
    words = np.concatenate([np.full((8, 1), 63), batch["tokens"][:, 1:]], axis=1)

    def logits(p: Any, image: Any, words: Any) -> Any:
        features = task.model.apply({"params": p}, image, method="features")
        x = task.model.apply({"params": p}, features, words, method="read")
        return task.model.apply({"params": p}, x, method="words")

    surprise = -jax.nn.log_softmax(jax.jit(logits)(params, batch["image"], words.astype(np.int32)))
    picked = np.take_along_axis(np.asarray(surprise)[:, :-1], words[:, 1:, None], axis=2)[..., 0]
    wanted = (words[:, 1:] != 0) * batch["weight"][:, None]
    np.testing.assert_allclose(out.metrics["loss_caption"], (picked * wanted).sum() / wanted.sum(), rtol=1e-4)


def test_the_loss_is_the_sum_of_its_parts(computed: Any) -> None:
    out = computed[-1]
    parts = sum(float(out.metrics[f"loss_{name}"]) for name in ("contrast", "match", "caption"))
    np.testing.assert_allclose(out.loss, parts, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in flatten(out.grads).values())


def test_sharded_equals_unsharded(computed: Any) -> None:
    task, params, batch, expected = computed
    mesh, rules = sharding.make_mesh(dict(data=8)), sharding.PRESETS["dp"]
    with sharding.use(mesh, rules):
        run = jax.jit(
            lambda p, b: task.grads(p, jax.tree.map(lambda _: None, p), {}, split_batch(b, 1), jax.random.key(3))
        )
        out = run(params, sharding.put_batch(batch, mesh))
    np.testing.assert_allclose(out.loss, expected.loss, rtol=1e-5)
    for path, leaf in flatten(expected.grads).items():
        np.testing.assert_allclose(flatten(out.grads)[path], leaf, atol=2e-5, err_msg=path)


def test_matching_is_cross_entropy_of_two_classes() -> None:
    logits = jnp.array([[0.0, 2.0], [1.0, -1.0], [3.0, 3.5], [jnp.inf, 0.0]])
    total, weight, right = matching_loss(logits, jnp.array([1.0, 1.0, 0.0, 1.0]), jnp.array([1.0, 2.0, 1.0, 0.0]))
    wanted = np.log1p(np.exp(-2.0)) + 2 * np.log1p(np.exp(2.0)) + np.log1p(np.exp(0.5))
    np.testing.assert_allclose(total, wanted, rtol=1e-6)
    assert (weight, right) == (4.0, 1.0)


def test_who_sees_whom() -> None:
    keep = jnp.array([[True, True, False]])
    both, causal, alone = (
        np.asarray(joint_mask(kind, 2, keep)[0, 0]).astype(int) for kind in ("bidirectional", "causal", "unimodal")
    )
    assert both.tolist() == [[1, 1, 1, 1, 0]] * 5
    assert causal.tolist() == [[1, 1, 0, 0, 0]] * 2 + [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    assert alone.tolist() == [[1, 1, 0, 0, 0]] * 2 + [[0, 0, 1, 1, 0]] * 3
