"""Layers by the property that they are relied on for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core.errors import ConfigError
from jvlm.nn import attention, masks
from jvlm.nn.activations import ACTIVATIONS, activation
from jvlm.nn.attention import Attention, dot_product_attention
from jvlm.nn.axes import split
from jvlm.nn.conv import Conv, Padding
from jvlm.nn.norms import BatchNorm, LayerNorm, RMSNorm
from jvlm.nn.patches import PatchEmbed, drop_patches
from jvlm.nn.pooling import pick, text_position
from jvlm.nn.positions import sincos_2d
from jvlm.nn.projector import Projector
from tests.compiler import USUAL
from tests.reference import torch


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def apply(module: Any, variables: Any, *args: Any, **kwargs: Any) -> Any:
    return module.apply(variables, *args, **kwargs)


TORCH = {
    "gelu": torch.nn.GELU(),
    "gelu_tanh": torch.nn.GELU("tanh"),
    "relu": torch.nn.ReLU(),
    "relu2": lambda x: torch.relu(x) ** 2,
    "silu": torch.nn.SiLU(),
    "tanh": torch.nn.Tanh(),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_and_its_slope_equal_torch(name: str) -> None:
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    theirs = torch.from_numpy(x).requires_grad_()
    y = TORCH[name](theirs)
    y.sum().backward()
    fn = activation(name)
    np.testing.assert_allclose(fn(jnp.asarray(x)), y.detach().numpy(), atol=2e-6)
    assert theirs.grad is not None
    # Unoptimized, the hyperbolic tangent is rounded worse.
    slope = jax.jit(jax.grad(lambda x: fn(x).sum()), compiler_options=USUAL)
    np.testing.assert_allclose(slope(jnp.asarray(x)), theirs.grad.numpy(), atol=3e-6)


def test_an_unknown_activation_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gelu_tanh'"):
        activation("gelu_tan")


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_layer_norm_and_its_gradient_equal_torch(offset: float) -> None:
    x, scale, bias, weight = draw(4, 6) + offset, draw(6, seed=1), draw(6, seed=2), draw(4, 6, seed=3)
    ours = LayerNorm(1e-3)

    def value(x: jax.Array, scale: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = apply(ours, {"params": dict(scale=scale, bias=bias)}, x)
        return (y * weight).sum(), y

    grads, y = jax.grad(value, (0, 1, 2), has_aux=True)(x, scale, bias)
    theirs = [torch.from_numpy(np.array(a)).requires_grad_() for a in (x, scale, bias)]
    reference = torch.nn.functional.layer_norm(theirs[0], (6,), theirs[1], theirs[2], 1e-3)
    (reference * torch.from_numpy(np.array(weight))).sum().backward()
    # Some roundings of the input, which a single-pass variance would square: that loses a hundred times as much.
    tolerance = 1e-5 + 8 * float(np.spacing(np.float32(offset))) * float(jnp.abs(scale).max())
    np.testing.assert_allclose(y, reference.detach().numpy(), atol=tolerance)
    for a, b in zip(grads, theirs, strict=True):
        assert b.grad is not None
        np.testing.assert_allclose(a, b.grad.numpy(), atol=tolerance)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_and_its_gradient_equal_torch(offset: float) -> None:
    x, scale, weight = draw(4, 6), draw(6, seed=1), draw(4, 6, seed=2)
    ours = RMSNorm(eps=1e-3, offset=offset)

    def value(x: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = apply(ours, {"params": dict(scale=scale)}, x)
        return (y * weight).sum(), y

    grads, y = jax.grad(value, (0, 1), has_aux=True)(x, scale)
    theirs = [torch.from_numpy(np.array(a)).requires_grad_() for a in (x, scale)]
    reference = torch.nn.functional.rms_norm(theirs[0], (6,), theirs[1] + offset, 1e-3)
    (reference * torch.from_numpy(np.array(weight))).sum().backward()
    np.testing.assert_allclose(y, reference.detach().numpy(), atol=1e-5)
    for a, b in zip(grads, theirs, strict=True):
        assert b.grad is not None
        np.testing.assert_allclose(a, b.grad.numpy(), atol=1e-5)


def test_batch_norm_in_training_equals_torch_and_moves_its_statistics() -> None:
    x = draw(5, 3, 2, 4) * 2 + 1
    module = BatchNorm(eps=1e-3, momentum=0.9)
    variables, _ = split(dict(module.init(jax.random.key(0), x)))
    y, state = apply(module, variables, x, train=True, mutable=["batch_stats"])
    theirs = torch.nn.BatchNorm2d(4, eps=1e-3, momentum=0.1).train()
    reference = theirs(torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(y, reference.detach().numpy().transpose(0, 2, 3, 1), atol=2e-6)
    mean, var = state["batch_stats"]["mean"], state["batch_stats"]["var"]
    assert theirs.running_mean is not None
    assert theirs.running_var is not None
    np.testing.assert_allclose(mean, theirs.running_mean.numpy(), atol=1e-6)
    # torch tracks the unbiased variance, the papers' running average the batch's own.
    count = 5 * 3 * 2
    np.testing.assert_allclose(var, 0.9 + (theirs.running_var.numpy() - 0.9) * (count - 1) / count, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "groups", "padding"),
    [(8, 3, 1, 1, "SAME"), (9, 5, 2, 6, ((1, 2), (1, 2))), (7, 3, 2, 2, ((0, 1), (0, 1)))],
)
def test_convolution_equals_torch(size: int, kernel: int, strides: int, groups: int, padding: Padding) -> None:
    x = draw(2, size, size, 6)
    module = Conv(12, kernel, (None, "mlp"), strides, padding, groups)
    variables, names = split(dict(module.init(jax.random.key(0), x)))
    variables["params"]["bias"] = draw(12, seed=1)
    assert names["params"] == dict(kernel=(None, None, None, "mlp"), bias=("mlp",))
    weight = torch.from_numpy(np.array(variables["params"]["kernel"]).transpose(3, 2, 0, 1).copy())
    image = torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy())
    before, after = (kernel // 2, kernel // 2) if isinstance(padding, str) else padding[0]
    image = torch.nn.functional.pad(image, (before, after, before, after))
    bias = torch.from_numpy(np.array(variables["params"]["bias"]))
    reference = torch.nn.functional.conv2d(image, weight, bias, stride=strides, groups=groups)
    np.testing.assert_allclose(apply(module, variables, x), reference.numpy().transpose(0, 2, 3, 1), atol=2e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_torch(masked: bool) -> None:
    q, k, v = draw(2, 3, 4, 8), draw(2, 5, 4, 8, seed=1), draw(2, 5, 4, 8, seed=2)
    mask = jnp.asarray(np.random.default_rng(3).integers(0, 2, (2, 1, 3, 5)) > 0).at[..., 0].set(True)
    theirs = (torch.from_numpy(np.array(x).transpose(0, 2, 1, 3).copy()) for x in (q, k, v))
    given = torch.from_numpy(np.array(mask)) if masked else None
    reference = torch.nn.functional.scaled_dot_product_attention(*theirs, attn_mask=given)
    actual = dot_product_attention(q, k, v, mask if masked else None)
    np.testing.assert_allclose(actual, reference.numpy().transpose(0, 2, 1, 3), atol=1e-6)


def test_shared_key_and_value_heads_equal_repeated_ones() -> None:
    q, k, v = draw(2, 3, 4, 8), draw(2, 3, 2, 8, seed=1), draw(2, 3, 2, 8, seed=2)
    wide = (jnp.repeat(x, 2, axis=2) for x in (k, v))
    np.testing.assert_allclose(dot_product_attention(q, k, v), dot_product_attention(q, *wide), atol=0)


def test_many_queries_are_answered_in_blocks_with_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = draw(2, 12, 4, 8), draw(2, 10, 2, 8, seed=1), draw(2, 10, 2, 8, seed=2)

    def run() -> Any:
        def total(arrays: Any) -> tuple[jax.Array, jax.Array]:
            y = dot_product_attention(*arrays)
            return jnp.square(y).sum(), y

        traced = jax.make_jaxpr(total)(arrays)
        (_, y), slopes = jax.value_and_grad(total, has_aux=True)(arrays)
        return str(traced), (y, slopes)

    whole, wanted = run()
    monkeypatch.setattr(attention, "MOST_LOGITS", 55)
    blocks, found = run()
    # 5 rows of 10 would be few enough; 4 make blocks of one size.
    assert "2,4,12,10" in whole and "2,4,12,10" not in blocks and "2,4,4,10" in blocks
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)


def test_a_causal_mask_hides_what_follows() -> None:
    module, x = Attention(2), draw(1, 4, 8)
    variables, _ = split(dict(module.init(jax.random.key(0), x)))
    changed = x.at[:, 3].add(1.0)
    mask = masks.combine(masks.causal(4), None, masks.padding(jnp.ones((1, 4), bool)))
    a, b = (apply(module, variables, y, mask=mask) for y in (x, changed))
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    assert jnp.abs(a[:, 3] - b[:, 3]).max() > 1e-3


def test_no_masks_combine_to_none() -> None:
    assert masks.combine(None, None) is None


@pytest.mark.parametrize(("pool", "expected"), [("highest", 2), ("eos", 1), ("first", 0), ("last", 3)])
def test_text_pooling_picks_its_token(pool: str, expected: int) -> None:
    x, tokens = draw(1, 4, 5), jnp.asarray([[3, 7, 9, 7]])
    np.testing.assert_array_equal(pick(x, text_position(tokens, pool, 7)), x[:, expected])


def test_a_patch_embedding_is_torch_s_strided_convolution() -> None:
    module, x = PatchEmbed(7, 4), draw(2, 10, 13, 3)  # pixels beyond the last whole patch are dropped
    variables, _ = split(dict(module.init(jax.random.key(0), x)))
    kernel = np.array(variables["params"]["proj"]["kernel"]).reshape(4, 4, 3, 7).transpose(3, 2, 0, 1)
    image = torch.from_numpy(np.array(x).transpose(0, 3, 1, 2).copy())
    reference = torch.nn.functional.conv2d(image, torch.from_numpy(kernel.copy()), stride=4)
    expected = reference.numpy().reshape(2, 7, -1).transpose(0, 2, 1)
    np.testing.assert_allclose(apply(module, variables, x), expected, atol=1e-5)


def test_dropping_patches_keeps_a_different_part_of_each_sample_in_order() -> None:
    x = jnp.broadcast_to(jnp.arange(64.0)[None, :, None], (4, 64, 1))
    kept = np.asarray(drop_patches(x, 0.75, jax.random.key(0)))[..., 0]
    assert kept.shape == (4, 16)
    assert (np.diff(kept, axis=1) > 0).all()
    assert len({tuple(row) for row in kept}) == 4


def test_sine_cosine_positions_are_quarters_of_x_then_y() -> None:
    table = np.asarray(sincos_2d(2, 3, 8))[0].reshape(2, 3, 4, 2)
    np.testing.assert_allclose(table[1, 2, :, 0], [np.sin(2), np.cos(2), np.sin(1), np.cos(1)], atol=1e-6)
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_2d(2, 2, 6)


def test_merged_patches_are_neighbours_side_by_side() -> None:
    x = draw(2, 16, 3)
    grid = np.asarray(x).reshape(2, 4, 4, 3)
    expected = [
        np.concatenate([grid[:, 2 * row + i, 2 * col + j] for i in range(2) for j in range(2)], axis=-1)
        for row in range(2)
        for col in range(2)
    ]
    whole, apart = Projector(5, depth=1), Projector(5, depth=1, merge=2)
    variables = apart.init(jax.random.key(0), x)
    found = apply(apart, variables, x)
    assert found.shape == (2, 4, 5)
    np.testing.assert_allclose(found, apply(whole, variables, jnp.asarray(np.stack(expected, axis=1))), atol=1e-6)
    with pytest.raises(ValueError, match="12 patches are no square grid"):
        apart.init(jax.random.key(0), x[:, :12])
