"""Published figures from shapes alone, and errors that are those of the arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm import models
from jvlm.core.tree import count, flatten, map_paths
from jvlm.transforms.account import bytes_per_parameter, layer_errors, stored_bytes
from jvlm.transforms.quantize import quantizable, quantize, quantize_tree
from tests.models_util import abstract


def test_a_65b_llama_takes_half_a_byte_and_a_64th_per_parameter() -> None:
    # LLaMA-65B, arXiv:2302.13971, table 2; its hidden width is that of the release.
    size = dict(width=8192, depth=80, num_heads=64, mlp_dim=22016)
    model = models.create({"family": "decoder", "variant": "llama-2-7b", **size})
    shapes = abstract(model)[0]["params"]
    assert count(shapes) == pytest.approx(65.3e9, rel=0.001)

    def measure(scheme: str, double: bool) -> float:
        def run(params: Any) -> Any:
            return quantize_tree(params, ("*kernel",), scheme, 64, double).params

        return bytes_per_parameter(jax.eval_shape(run, shapes))

    assert 0.5158 < measure("nf4", double=True) <= 0.516
    assert measure("nf4", double=False) == 0.5 + 4 / 64
    assert measure("int8", double=False) == 1 + 4 / 64
    assert measure("int4_asym", double=False) == 0.5 + 5 / 64


def test_four_bits_count_as_half_a_byte() -> None:
    leaf = quantize(jnp.ones((128, 10)), "int4", 64)
    assert stored_bytes(dict(kernel=leaf, bias=jnp.zeros(10, jnp.bfloat16))) == 640 + 2 * 10 * 4 + 20


def test_errors_are_told_layer_by_layer() -> None:
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 64, 16)), jnp.float32)
    before = dict(
        blocks=dict(layers=dict(up=dict(kernel=kernel))),
        head=dict(kernel=kernel[0]),
        stem=dict(kernel=kernel.reshape(2, 3, 32, 16)),
    )
    after = quantize_tree(before, scheme="int4", group=32).params
    errors = layer_errors(before, after)
    dense = map_paths(lambda _, leaf: leaf.dequantize(), after)
    assert {path: len(x) for path, x in errors.items()} == {
        "blocks/layers/up/kernel": 3, "head/kernel": 1, "stem/kernel": 1
    }  # fmt: skip
    wanted, actual = np.asarray(kernel), np.asarray(dense["blocks"]["layers"]["up"]["kernel"])
    for layer in range(3):
        ratio = np.linalg.norm(actual[layer] - wanted[layer]) / np.linalg.norm(wanted[layer])
        assert errors["blocks/layers/up/kernel"][layer] == pytest.approx(ratio, rel=1e-5)
    assert quantizable(flatten(before)) == list(errors)
