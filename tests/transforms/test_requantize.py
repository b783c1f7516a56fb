"""An adapter over quantized kernels becomes quantized kernels, and what rounding took of it is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core.tree import flatten
from jvlm.transforms.lora import Lora
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import quantize_tree
from jvlm.transforms.requantize import requantize


def params(size: float) -> tuple[dict, dict]:
    """(kernels in NF4 under adapters whose update is `size` times as large as the kernel, the same in four bits)."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    layers = dict(up=dict(kernel=normal(2, 64, 32)))
    dense = dict(layers=layers, down=dict(kernel=normal(64, 64)), head=dict(kernel=normal(64, 32)))
    base = quantize_tree(dense, ("layers/*", "down/*"), "nf4", 32, double=True).params

    def adapted(leaf: QTensor | jax.Array) -> Lora:
        lead, (rows, columns) = leaf.shape[:-2], leaf.shape[-2:]
        scale = jnp.full(lead, size / 2.0)
        return Lora(leaf, normal(*lead, rows, 4), normal(*lead, 4, columns), scale)

    flat = flatten(base)
    return {"layers": {"up": {"kernel": adapted(flat["layers/up/kernel"])}}, "down": base["down"],
            "head": {"kernel": adapted(flat["head/kernel"])}}, base  # fmt: skip


@pytest.mark.parametrize(("size", "low", "high"), [(0.5, 0.9, 1.1), (0.0005, -0.5, 0.5)])
def test_kernels_are_rounded_as_their_base_was_and_the_change_is_told(size: float, low: float, high: float) -> None:
    adapted, base = params(size)
    out, changes = requantize(adapted)
    flat = flatten(out)
    assert list(changes) == ["layers/up/kernel"]
    again, change = flat["layers/up/kernel"], changes["layers/up/kernel"]
    before = flatten(base)["layers/up/kernel"]
    assert jax.tree.structure(again) == jax.tree.structure(before)
    merged = adapted["layers"]["up"]["kernel"].materialize()
    difference = float(jnp.linalg.norm(again.dequantize() - merged) / jnp.linalg.norm(merged))
    assert change.error == pytest.approx(difference, rel=1e-5) and difference < 0.12
    update = merged - before.dequantize()
    assert change.update == pytest.approx(
        float(jnp.linalg.norm(update) / jnp.linalg.norm(before.dequantize())), rel=1e-5
    )
    # A large update survives the rounding; one far below a code's width is lost, and the report says so.
    assert low < change.kept < high
    np.testing.assert_array_equal(flat["down/kernel"].codes, adapted["down"]["kernel"].codes)
    np.testing.assert_allclose(flat["head/kernel"], adapted["head"]["kernel"].materialize(), rtol=1e-6)
