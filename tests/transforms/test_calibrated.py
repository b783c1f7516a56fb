"""Rounding that knows the inputs loses less of the output than rounding that does not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core import leaves
from jvlm.core.tree import flatten
from jvlm.data import emoji
from jvlm.data.image_spec import ImageSpec
from jvlm.data.processor import Processor
from jvlm.evals.samples import open_data
from jvlm.transforms.awq import awq
from jvlm.transforms.calibrate import collect
from jvlm.transforms.calibrated import METHODS, quantize_calibrated
from jvlm.transforms.gptq import gptq
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import quantize, quantize_tree
from tests.models_util import initialize, inputs, tiny


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def correlated(rows: int, width: int, seed: int) -> np.ndarray:
    """Inputs as layers have them: correlated, a few channels much larger than the others."""
    x = normal(rows, width // 4, seed=seed) @ normal(width // 4, width, seed=99) + 0.3 * normal(rows, width, seed=seed)
    x[:, ::17] *= 8
    return x


def output_error(x: np.ndarray, kernel: np.ndarray, leaf: QTensor) -> float:
    return float(np.linalg.norm(x @ kernel - np.asarray(leaves.matmul(jnp.asarray(x), leaf))))


def test_moments_are_those_of_what_each_layer_is_given() -> None:
    params = dict(
        first=dict(kernel=jnp.asarray(normal(6, 8))), layers=dict(kernel=jnp.asarray(normal(3, 8, 8, seed=1)))
    )
    seen: list[list[np.ndarray]] = [[], [], [], []]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        x = jnp.tanh(leaves.matmul(x, params["first"]["kernel"]))
        return jax.lax.scan(lambda x, k: (jnp.tanh(leaves.matmul(x, k)), None), x, params["layers"]["kernel"])[0]

    batches = [jnp.asarray(normal(4, 5, 6, seed=seed)) for seed in range(3)]
    for x in batches:
        seen[0].append(np.asarray(x).reshape(-1, 6))
        x = jnp.tanh(x @ params["first"]["kernel"])
        for layer in range(3):
            seen[1 + layer].append(np.asarray(x).reshape(-1, 8))
            x = jnp.tanh(x @ params["layers"]["kernel"][layer])
    for pass_bytes in (1, 1 << 20):
        moments = collect(apply, params, batches, pass_bytes=pass_bytes)
        found = [*moments["first/kernel"], *moments["layers/kernel"]]
        for one, rows in zip(found, map(np.concatenate, seen), strict=True):
            assert one.count == len(rows) == 60
            np.testing.assert_allclose(one.gram, rows.T @ rows, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(one.magnitude, np.abs(rows).sum(0), rtol=1e-5)


def published(kernel: np.ndarray, gram: np.ndarray, group: int) -> np.ndarray:
    """GPTQ's algorithm without blocks, in float64, int4: the integer codes [in, out]."""
    kernel, extent = kernel.astype(np.float64), len(kernel)
    gram = gram.astype(np.float64) + 0.01 * np.diag(gram).mean() * np.eye(extent)
    upper = np.linalg.cholesky(np.linalg.inv(gram)).T
    codes = np.zeros(kernel.shape, int)
    for row in range(extent):
        if row % group == 0:
            scale = np.abs(kernel[row : row + group]).max(0) / 7.5
        codes[row] = np.clip(np.round(kernel[row] / scale), -8, 7)
        error = (kernel[row] - codes[row] * scale) / upper[row, row]
        kernel[row:] -= np.outer(upper[row, row:], error)
    return codes


@pytest.mark.parametrize("group", [32, 128])
def test_gptq_is_the_published_algorithm(group: int) -> None:
    x, kernel = correlated(300, 128, 0), normal(128, 40, seed=2)
    gram = x.T @ x / len(x)
    leaf = gptq(jnp.asarray(kernel), jnp.asarray(gram), jnp.abs(x).mean(0), "int4", group)
    # A value within rounding of two codes may fall to either side, and moves a few after it.
    assert (np.asarray(leaf.codes).astype(int) == published(kernel, gram, group)).mean() > 0.98


def test_gptq_with_uncorrelated_inputs_is_plain_rounding() -> None:
    kernel = jnp.asarray(normal(64, 24))
    gram = jnp.diag(jnp.linspace(0.0, 2.0, 64))
    leaf = gptq(kernel, gram, jnp.ones(64), "nf4", 16)
    np.testing.assert_array_equal(leaf.codes, quantize(kernel, "nf4", 16).codes)


@pytest.mark.parametrize("scheme", ["int4", "int4_asym", "nf4"])
@pytest.mark.parametrize(("method", "share"), [("gptq", 0.7), ("awq", 0.9)])
def test_calibration_lowers_the_error_of_outputs_not_seen(method: str, share: float, scheme: str) -> None:
    x, kernel = correlated(256, 128, 0), normal(128, 64, seed=2)
    leaf = METHODS[method](
        jnp.asarray(kernel), jnp.asarray(x.T @ x / len(x)), jnp.asarray(np.abs(x).mean(0)), scheme, 64
    )
    fresh = correlated(256, 128, 1)
    plain = output_error(fresh, kernel, quantize(jnp.asarray(kernel), scheme, 64))
    assert output_error(fresh, kernel, leaf) < share * plain


def test_scaling_by_activation_is_never_worse_than_rounding_on_what_it_saw() -> None:
    x, kernel = normal(200, 64), normal(64, 32, seed=1)
    gram = x.T @ x / len(x)
    leaf = awq(jnp.asarray(kernel), jnp.asarray(gram), jnp.asarray(np.abs(x).mean(0)), "int4", 32)
    assert leaf.inner is not None and leaf.inner.shape == (64,)
    assert output_error(x, kernel, leaf) <= 1.0001 * output_error(x, kernel, quantize(jnp.asarray(kernel), "int4", 32))


def test_a_calibrated_clip_keeps_its_embeddings_better() -> None:
    model, variables, _ = initialize(tiny("clip"))
    source = open_data({"name": "tar", "paths": [str(path) for path in emoji.shards("validation")]})
    images = jnp.asarray(Processor(ImageSpec.clip(16)).images([source[at].image for at in range(64)]))
    tokens = jnp.asarray(inputs(model, batch=64)["tokens"])
    batches = [dict(image=images[at : at + 16], tokens=tokens[at : at + 16]) for at in range(0, 64, 16)]

    def apply(params: Any, batch: Any) -> Any:
        return model.apply({"params": params}, **batch)

    params, run = variables["params"], jax.jit(apply)
    moments = collect(apply, params, batches[:3])
    assert len(moments["image_tower/blocks/layers/mlp/up/kernel"]) == 2
    wanted = run(params, batches[3])

    def error(quantized: Any) -> float:
        out = run(quantized, batches[3])
        return sum(float(jnp.linalg.norm(a - b)) for a, b in ((out.zimg, wanted.zimg), (out.ztxt, wanted.ztxt)))

    plain = quantize_tree(params, scheme="int4", group=16).params
    fitted, left = quantize_calibrated(params, moments, "gptq", scheme="int4", group=16)
    assert not left and jax.tree.structure(fitted) == jax.tree.structure(plain)
    assert error(fitted) < 0.9 * error(plain)
    # A leaf for each kernel, scaled where the inputs were seen.
    scaled = flatten(quantize_calibrated(params, moments, "awq", scheme="int4", group=16).params)
    assert {path for path, leaf in scaled.items() if isinstance(leaf, QTensor) and leaf.inner is not None} == set(
        moments
    )
