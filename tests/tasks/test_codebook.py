"""A codebook moved by averages is that of the definition, on any number of devices and micro-batches."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jvlm
from jvlm.checkpoint.parts import read_parts
from jvlm.core import sharding
from jvlm.core.errors import ConfigError
from jvlm.losses.codebook import EPSILON, moved, usage
from jvlm.models.vq import nearest_codes
from jvlm.tasks.autoencoding import CodebookAutoencoding
from jvlm.tasks.base import split_batch
from jvlm.train.config import load_config
from jvlm.train.loop import train
from tests.models_util import initialize, tiny

V, E = 11, 4


def definition(vectors: Any, counts: Any, sums: Any, latents: np.ndarray, decay: float) -> dict[str, np.ndarray]:
    """Appendix A.1 of arXiv:1711.00937, word by word."""
    new: dict[str, list[Any]] = dict(vectors=[], counts=[], sums=[])
    chosen = [int(np.argmin([np.sum((z - e) ** 2) for e in vectors])) for z in latents]
    for word in range(len(vectors)):
        own = [z for z, at in zip(latents, chosen) if at == word]
        new["counts"].append(decay * counts[word] + (1 - decay) * len(own))
        new["sums"].append(decay * sums[word] + (1 - decay) * np.sum(own, axis=0, initial=0.0))
    total = sum(new["counts"])
    for count, total_of in zip(new["counts"], new["sums"]):
        new["vectors"].append(total_of / ((count + EPSILON) / (total + len(vectors) * EPSILON) * total))
    return {name: np.asarray(x, np.float32) for name, x in new.items()}


def case() -> tuple[CodebookAutoencoding, dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    model: Any
    model, variables, _ = initialize(dict(tiny("vq"), averaged=True))
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(V, E)).astype(np.float32)
    counts = rng.uniform(0.5, 3, V).astype(np.float32)
    state = dict(codebooks=dict(vectors=vectors, counts=counts, sums=(vectors * counts[:, None])))
    image = rng.uniform(-1, 1, (8, 8, 8, 3)).astype(np.float32)
    weight = np.asarray([1, 1, 0, 1, 1, 1, 0, 1], np.float32)
    return (
        CodebookAutoencoding(model, decay=0.8, least=0.0),
        variables["params"],
        state,
        dict(image=image, weight=weight),
    )


def run(task: Any, params: Any, state: Any, batch: Any, micro: int, devices: int) -> Any:
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    with sharding.use(mesh, sharding.PRESETS["dp"]):
        batch = sharding.put_batch(batch, mesh)
        frozen = jax.tree.map(lambda _: None, params)
        step = jax.jit(lambda p, s, b, key: task.grads(p, frozen, s, split_batch(b, micro), key))
        return jax.device_get(step(params, state, batch, jax.random.key(0)))


@pytest.mark.parametrize(("devices", "micro"), [(1, 1), (1, 2), (8, 1)])
def test_a_step_moves_it_by_the_averages_of_the_whole_batch(devices: int, micro: int) -> None:
    task, params, state, batch = case()
    encode = jax.jit(lambda p, x: task.model.apply({"params": p, **state}, x, method="encode"))
    latents = encode(params, jnp.asarray(batch["image"]))
    kept = np.asarray(latents)[batch["weight"] > 0].reshape(-1, E)
    wanted = definition(**state["codebooks"], latents=kept, decay=0.8)
    found = run(task, params, state, batch, micro, devices)
    assert set(found.state) == {"codebooks"} and "codebook" not in found.grads
    for name, array in wanted.items():
        np.testing.assert_allclose(found.state["codebooks"][name], array, atol=1e-5, rtol=1e-4, err_msg=name)
    codes = np.asarray(nearest_codes(jnp.asarray(kept), jnp.asarray(state["codebooks"]["vectors"])))
    share = np.bincount(codes, minlength=V) / len(codes)
    if micro == 1:
        entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
        np.testing.assert_allclose(found.metrics["perplexity"], np.exp(entropy), rtol=1e-4)


def test_a_word_that_nothing_chooses_starts_again_as_a_latent_of_the_batch() -> None:
    rng = np.random.default_rng(1)
    latents = rng.normal(size=(2, 3, E)).astype(np.float32)
    codes, counted = np.zeros((2, 3), np.int32), np.asarray([[1, 1, 0], [1, 0, 0]], np.float32)
    seen = usage(jnp.asarray(latents), jnp.asarray(codes), jnp.asarray(counted), V, jax.random.key(0))
    codebook = dict(vectors=np.ones((V, E), np.float32), counts=np.full(V, 0.11, np.float32))
    codebook["sums"] = codebook["vectors"] * 0.11
    codebook = jax.tree.map(jnp.asarray, codebook)
    new, revived = moved(codebook, seen, decay=0.8, least=0.1)
    known = latents[counted > 0]
    for word in range(1, V):  # 0.8 * 0.11 is below 0.1
        near = np.abs(known - new["vectors"][word]).max(-1).min()
        assert new["counts"][word] == 1 and near < 1e-3
    assert revived == V - 1 and new["counts"][0] > 0.5 and len(np.unique(np.asarray(new["vectors"][1:]), axis=0)) == 3
    still, _ = moved(codebook, seen, decay=0.8, least=0.0)
    np.testing.assert_allclose(still["counts"][1:], 0.088, rtol=1e-5)


def test_a_batch_of_placeholders_leaves_it_alone() -> None:
    task, params, state, batch = case()
    found = run(task, params, state, dict(batch, weight=np.zeros(8, np.float32)), 1, 1)
    jax.tree.map(np.testing.assert_array_equal, found.state, state)


def test_averages_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="give 0 < decay < 1 and least >= 0"):
        CodebookAutoencoding(case()[0].model, decay=1.0)


def test_a_run_is_resumed_to_the_bit_and_exported_for_diffusers(tmp_path: Path) -> None:
    from tests.reference_diffusers import diffusers

    root = Path(__file__).resolve().parents[2] / "configs" / "vq_tiny_emoji_pretrain.py:tiny"
    small = ["model.widths=(8,)", "model.image_size=8", "batch_size=8", "checkpoint={'keep_last': 9}"]
    config = load_config(str(root), [*small, "export='diffusers'"])
    train(config, str(tmp_path / "whole"), quiet=True)
    shutil.copytree(tmp_path / "whole/checkpoints/00000002", tmp_path / "parts/checkpoints/00000002")
    train(config, str(tmp_path / "parts"), quiet=True)
    one, other = (read_parts(tmp_path / name / "checkpoints", ("params", "state")) for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, one.tree, other.tree)
    book = one.tree["state"]["codebooks"]
    assert float(np.std(book["counts"])) > 0
    opened = diffusers.VQModel.from_pretrained(tmp_path / "whole" / "export")
    np.testing.assert_array_equal(opened.quantize.embedding.weight.detach().numpy(), book["vectors"])
    again = jvlm.load(tmp_path / "whole" / "export")
    np.testing.assert_array_equal(again.params["codebook"], book["vectors"])
