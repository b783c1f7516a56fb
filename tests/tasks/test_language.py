"""Learning to answer: only answers are learnt, packed rows are rows apart, and what is frozen stays as it is."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jvlm.core.tree import flatten
from jvlm.tasks import TASKS
from jvlm.tasks.base import split_batch
from jvlm.transforms.freeze import combine, partition
from tests.models_util import initialize, inputs, tiny

TEXT = dict(vocab_size=64, width=16, depth=2, num_heads=2, num_kv_heads=2, mlp_dim=24, length=16)
FROZEN = ("image_tower/*", "text_tower/*")


def llava() -> tuple[Any, Any]:
    tower = dict(width=24, depth=2, num_heads=2, mlp_dim=40)
    model, variables, _ = initialize(tiny("llava", image=tower, text=TEXT))
    return model, variables["params"]


def rows(model: Any, batch: int = 4) -> dict[str, np.ndarray]:
    given = inputs(model, batch)
    rng = np.random.default_rng(1)
    answer = (given["tokens"] != model.image_token) & (rng.random(given["tokens"].shape) < 0.7)
    return given | dict(answer=answer, weight=np.array([1, 0, 1, 1], np.float32)[:batch])


def test_the_loss_is_the_mean_surprise_of_the_answers_wherever_the_head_looks() -> None:
    model, params = llava()
    batch = rows(model)
    logits = jax.jit(model.apply)({"params": params}, batch["tokens"], batch["image"]).logits
    surprise = -jax.nn.log_softmax(logits[:, :-1])
    picked = np.take_along_axis(np.asarray(surprise), batch["tokens"][:, 1:, None], axis=2)[..., 0]
    wanted = batch["answer"][:, 1:] * batch["weight"][:, None]
    most = int(batch["answer"].sum(1).max())
    for options in (dict(chunk=3), dict(chunk=256), dict(answers=most)):
        task = TASKS["language"](model, **options)
        loss = jax.jit(lambda p, b, t=task: t.loss(p, {}, b, jax.random.key(0)))(params, batch)
        assert loss.weight == wanted.sum()
        np.testing.assert_allclose(loss.sum, (picked * wanted).sum(), rtol=1e-5)


def test_packed_samples_are_learnt_as_if_each_had_a_row() -> None:
    model, variables, _ = initialize(tiny("decoder", **TEXT))
    task = TASKS["language"](model)
    rng = np.random.default_rng(0)
    texts, answers = rng.integers(1, 64, (2, 8)).astype(np.int32), rng.random((2, 8)) < 0.6
    apart = dict(tokens=texts, answer=answers, weight=np.ones(2, np.float32))
    packed = dict(
        tokens=texts.reshape(1, 16), answer=answers.reshape(1, 16), weight=np.ones(1, np.float32),
        positions=np.tile(np.arange(8, dtype=np.int32), 2)[None],
        segments=np.repeat(np.array([1, 2], np.int32), 8)[None],
    )  # fmt: skip
    run = jax.jit(lambda p, batch: task.loss(p, {}, batch, jax.random.key(0)))
    a, b = (run(variables["params"], batch) for batch in (apart, packed))
    assert a.weight == b.weight
    np.testing.assert_allclose(a.sum, b.sum, rtol=1e-5)


def test_micro_batches_are_one_batch() -> None:
    model, params = llava()
    task, batch, rng = TASKS["language"](model), rows(model), jax.random.key(0)
    run = jax.jit(lambda p, batches: task.grads(p, jax.tree.map(lambda _: None, p), {}, batches, rng))
    one, two = (run(params, split_batch({k: jnp.asarray(v) for k, v in batch.items()}, k)) for k in (1, 2))
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-5)
    for path, leaf in flatten(one.grads).items():
        np.testing.assert_allclose(flatten(two.grads)[path], leaf, atol=1e-6, err_msg=path)


@pytest.fixture(scope="module")
def bridge_alone() -> dict[str, Any]:
    """Some steps of LLaVA's first stage: the projector learns, nothing else."""
    model, params = llava()
    task, batch = TASKS["language"](model), {k: jnp.asarray(v) for k, v in rows(model).items()}
    trained, frozen = partition(params, FROZEN)
    optimizer = optax.adamw(1e-2)

    def step(trained: Any, frozen: Any, kept: Any, key: jax.Array) -> Any:
        out = task.grads(trained, frozen, {}, split_batch(batch, 1), key)
        updates, kept = optimizer.update(out.grads, kept, trained)
        return optax.apply_updates(trained, updates), frozen, kept, out.loss

    kept = optimizer.init(trained)
    compiled = jax.jit(step).lower(trained, frozen, kept, jax.random.key(0)).compile()
    after, held, losses = trained, frozen, []
    for index in range(5):
        after, held, kept, loss = compiled(after, held, kept, jax.random.key(index))
        losses.append(float(loss))
    return dict(before=params, after=combine(after, held), kept=kept, losses=losses, text=compiled.as_text())


def test_frozen_parts_keep_their_bits(bridge_alone: dict[str, Any]) -> None:
    before, after = flatten(bridge_alone["before"]), flatten(bridge_alone["after"])
    assert bridge_alone["losses"][-1] < bridge_alone["losses"][0]
    for path, leaf in before.items():
        same = np.asarray(leaf).tobytes() == np.asarray(after[path]).tobytes()
        assert same == path.startswith(("image_tower/", "text_tower/")), path


def test_frozen_parts_have_no_gradient_and_no_optimizer_state(bridge_alone: dict[str, Any]) -> None:
    before = flatten(bridge_alone["before"])
    bridge = sum(leaf.size for path, leaf in before.items() if path.startswith("bridge/"))
    assert sum(leaf.size for leaf in jax.tree.leaves(bridge_alone["kept"])) <= 2 * bridge + 2
    outputs = bridge_alone["text"].split("->", 1)[1].split("\n", 1)[0]
    for path in ("image_tower/blocks/layers/mlp/up/kernel", "text_tower/blocks/layers/mlp/up/kernel"):
        shape = "f32[" + ",".join(map(str, before[path].shape)) + "]"
        made = [line for line in bridge_alone["text"].splitlines() if f"= {shape}" in line and "parameter" not in line]
        # What leaves the step in this shape are the parameters themselves; no product of a backward pass makes one.
        assert outputs.count(shape) <= sum(leaf.shape == before[path].shape for leaf in before.values()), path
        assert not [line for line in made if " dot(" in line or "dynamic-update-slice" in line], path
