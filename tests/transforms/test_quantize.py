"""Codes and scales are those of the published implementations, bit for bit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core.errors import ConfigError
from jvlm.core.tree import flatten
from jvlm.transforms import double_quantization
from jvlm.transforms.qtensor import QTensor
from jvlm.transforms.quantize import quantize, quantize_tree
from jvlm.transforms.schemes import SCHEMES
from tests.reference_quantization import IntxUnpackedToInt8Tensor, MappingType, bitsandbytes, torch


def kernel(*shape: int, dtype: Any = "float32") -> jax.Array:
    """Values like a trained kernel's, with an outlier, a block of zeros and ties halfway between codes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape or (256, 96)).astype(np.float32) * 0.02
    x[..., 3, 5] = 1.7
    x[..., :64, 0] = 0
    ties = np.linspace(-7.5, 7.5, min(64, x.shape[-2])) / 100
    x[..., : len(ties), 1] = ties
    return jnp.asarray(x, dtype)


def to_torch(x: jax.Array) -> torch.Tensor:
    """Our kernel [in, out] as torch's weight [out, in] of the same dtype."""
    return torch.from_numpy(np.array(x.astype(jnp.float32)).T.copy()).to(getattr(torch, str(x.dtype)))


def nibbles(packed: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """bitsandbytes' codes 0..15 [out, in]: the first of a pair in the high half of a byte."""
    flat = packed.numpy().reshape(-1)
    return np.stack([flat >> 4, flat & 15], axis=-1).reshape(shape)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_nf4_equals_bitsandbytes(dtype: str, group: int) -> None:
    x = kernel(dtype=dtype)
    packed, state = bitsandbytes.quantize_4bit(to_torch(x), blocksize=group, quant_type="nf4")
    leaf = quantize(x, "nf4", group)
    np.testing.assert_array_equal(np.asarray(leaf.codes).astype(int).T + 8, nibbles(packed, x.shape[::-1]))
    np.testing.assert_array_equal(np.asarray(leaf.scale).T.reshape(-1), state.absmax.numpy())
    assert leaf.dequantize().dtype == dtype
    wanted = bitsandbytes.dequantize_4bit(packed, state).float().numpy()
    np.testing.assert_array_equal(np.asarray(leaf.dequantize().astype(jnp.float32)).T, wanted)


def test_double_quantization_reads_bitsandbytes_statistics_exactly() -> None:
    x = kernel(512, 384)
    packed, state = bitsandbytes.quantize_4bit(to_torch(x), blocksize=64, quant_type="nf4", compress_statistics=True)
    nested: Any = state
    ours = quantize(x, "nf4", 64, double=True)
    np.testing.assert_array_equal(double_quantization.dynamic_map(), nested.state2.code.numpy())
    theirs = QTensor(
        ours.codes,
        jnp.asarray(nested.absmax.numpy().reshape(384, 8).T),
        magnitude=jnp.asarray(nested.state2.absmax.numpy()),
        offset=jnp.asarray(nested.offset.numpy()),
    )
    wanted = bitsandbytes.dequantize_4bit(packed, state).numpy().T
    np.testing.assert_array_equal(theirs.dequantize(), wanted)
    np.testing.assert_array_equal(jax.jit(QTensor.dequantize)(theirs), wanted)
    # bitsandbytes' CPU code rounds the scales by a coarse table and takes the neighbour now and then.
    difference = np.abs(np.asarray(ours.scale).astype(int) - np.asarray(theirs.scale))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.005
    np.testing.assert_allclose(ours.magnitude, theirs.magnitude, rtol=1e-6)
    np.testing.assert_allclose(ours.offset, theirs.offset, rtol=1e-6)


def test_double_quantization_takes_the_nearest_entry() -> None:
    scale = jnp.asarray(np.random.default_rng(0).uniform(0.01, 0.3, (3, 40, 30)), jnp.float32)
    codes, magnitude, offset = double_quantization.compress(scale, -2)
    table = double_quantization.dynamic_map().astype(np.float64)
    for layer in range(3):
        flat = np.asarray(scale[layer], np.float64).T.reshape(-1) - float(offset[layer])
        blocks = np.split(flat, range(256, flat.size, 256))
        np.testing.assert_allclose(magnitude[layer], [np.abs(block).max() for block in blocks], rtol=1e-5)
        unit = np.concatenate([block / np.abs(block).max() for block in blocks])
        near = np.abs(unit[:, None] - table).min(-1)
        chosen = np.abs(unit - table[np.asarray(codes[layer]).T.reshape(-1)])
        np.testing.assert_allclose(chosen, near, atol=1e-6)
    np.testing.assert_allclose(double_quantization.expand(codes, magnitude, offset, -2), scale, atol=2e-3)


@pytest.mark.parametrize("group", [32, 256])
@pytest.mark.parametrize("scheme", ["int4", "int4_asym", "int8", "int8_asym"])
def test_integers_equal_torchao(scheme: str, group: int) -> None:
    x = kernel()
    mapping = MappingType.ASYMMETRIC if scheme.endswith("asym") else MappingType.SYMMETRIC
    bits = getattr(torch, scheme.removesuffix("_asym"))
    block: Any = (1, group)
    wanted = IntxUnpackedToInt8Tensor.from_hp(to_torch(x), block, bits, mapping_type=mapping)
    leaf = quantize(x, scheme, group)
    np.testing.assert_array_equal(np.asarray(leaf.codes).astype(int).T, wanted.qdata.numpy())
    np.testing.assert_array_equal(np.asarray(leaf.scale).T, wanted.scale.numpy())
    np.testing.assert_array_equal(np.asarray(leaf.dequantize()).T, wanted.dequantize().numpy())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiled_equals_eager_and_four_bits_are_native(scheme: str) -> None:
    x = kernel()
    leaf = quantize(x, scheme)
    again = jax.jit(lambda x: quantize(x, scheme))(x)
    for a, b in zip(jax.tree.leaves(leaf), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert leaf.codes.dtype == (jnp.int8 if scheme.startswith("int8") else jnp.int4)
    assert jax.tree.leaves(leaf)[0].shape == x.shape


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_of_a_stack_is_quantized_by_itself(scheme: str, double: bool) -> None:
    x = kernel(3, 128, 40) * jnp.asarray([1.0, 5.0, 0.1])[:, None, None]
    stacked = quantize(x, scheme, 32, double)
    for layer in range(3):
        alone = quantize(x[layer], scheme, 32, double)
        for whole, own in zip(jax.tree.leaves(stacked), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(whole[layer], own)
        np.testing.assert_array_equal(stacked.dequantize()[layer], alone.dequantize())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_error_is_within_half_a_step(scheme: str) -> None:
    x = kernel()
    error = jnp.abs(quantize(x, scheme).dequantize() - x).reshape(-1, 64, x.shape[1])
    largest = jnp.abs(x).reshape(error.shape).max(1)
    # The widest gap of a code: NF4's lowest; clipping at the top costs integers up to a whole step.
    step = {"nf4": 0.304 / 2, "int4": 1 / 7.5, "int4_asym": 2 / 15, "int8": 1 / 127.5, "int8_asym": 2 / 255}[scheme]
    assert (error.max(1) <= step * largest * 1.001 + 1e-9).all()


def tree() -> dict[str, Any]:
    return dict(
        blocks=dict(query=dict(kernel=kernel(2, 64, 32), bias=jnp.zeros((2, 32))), norm=dict(scale=jnp.ones((2, 64)))),
        stem=dict(kernel=kernel(3, 3, 24, 32)),
        token_embed=dict(embedding=kernel(100, 64)),
    )


def test_patterns_choose_kernels_and_what_does_not_divide_is_reported() -> None:
    params, left = quantize_tree(tree(), ("blocks/*", "stem*", "*embedding"), "int4")
    flat = flatten(params)
    assert isinstance(flat["blocks/query/kernel"], QTensor) and flat["blocks/query/kernel"].axis == -2
    assert isinstance(flat["token_embed/embedding"], QTensor) and flat["token_embed/embedding"].axis == -1
    assert left == {"stem/kernel": "its 24 inputs are no multiple of 64"}
    assert isinstance(flat["stem/kernel"], jax.Array) and isinstance(flat["blocks/norm/scale"], jax.Array)
    again = quantize_tree(params, ("*kernel",), "nf4", group=8)
    assert again.left == {"blocks/query/kernel": "a QTensor already"}


@pytest.mark.parametrize("pattern", ["blocks/query/kernl", "*norm/scale"])
def test_a_pattern_that_matches_no_kernel_is_an_error_that_shows_the_nearest(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"matches no parameter; .*kernel"):
        quantize_tree(tree(), ("*kernel", pattern))


def test_wrong_schemes_and_groups_are_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'int4'"):
        quantize(kernel(), "int44")
    with pytest.raises(ConfigError, match="groups of 48"):
        quantize(kernel(), "int4", 48)


def test_whole_columns_share_a_scale_without_a_group() -> None:
    leaf = quantize(kernel(100, 20), "int8", None)
    assert leaf.group == 100 and leaf.scale.shape == (1, 20)
