"""Attention in tiles is the attention by einsum: values, gradients, on a mesh, inside a decoder, in a plan."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jvlm.core import sharding
from jvlm.core.errors import ConfigError
from jvlm.models import decoder as decoders
from jvlm.nn import masks, splash
from jvlm.nn.grouped_attention import grouped_attention
from jvlm.plan.hlo import read_program
from jvlm.plan.topologies import describe, uncached
from tests.models.decoders import kind
from tests.plan.slices import needs_libtpu

RNG = np.random.default_rng(0)
B, T, H, K, D = 2, 200, 4, 2, 32
SEGMENTS = jnp.asarray([[1] * 90 + [2] * 80 + [0] * 30, [1] * 200], jnp.int32)
CASES: dict[str, dict[str, Any]] = {
    "causal": {},
    "packed window, capped": dict(segments=SEGMENTS, window=70, cap=3.0),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles of a few tokens."""
    monkeypatch.setattr(splash, "TILE", splash.LANES)


def drawn() -> tuple[jax.Array, ...]:
    """Queries, keys, values, and slopes of what comes of them."""
    shapes = (B, T, H, D), (B, K, T, D), (B, K, T, D), (B, T, H, D)
    return tuple(jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in shapes)


def by_einsum(query: Any, key: Any, value: Any, segments: Any = None, window: Any = None, **options: Any) -> jax.Array:
    at = jnp.broadcast_to(jnp.arange(T), (B, T))
    mask = masks.visible(at, at, window=window, segments=None if segments is None else (segments, segments))
    return grouped_attention(query, key, value, mask, **options)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_those_of_the_einsum(case: str) -> None:
    options = CASES[case] | dict(scale=D**-0.5)
    query, key, value, slope = drawn()

    def both(fn: Any) -> Any:
        def total(*given: jax.Array) -> Any:
            y = fn(*given, **options)
            return (y * slope).sum(), y

        (_, y), grads = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value)
        return y, *grads

    for found, wanted in zip(both(splash.splash_attention), both(by_einsum), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max(), rtol=0)


def test_on_a_mesh_every_chip_computes_its_rows_and_heads() -> None:
    query, key, value, _ = drawn()
    mesh = sharding.make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])
    with sharding.use(mesh, sharding.PRESETS["fsdp_tp"]):
        found = jax.jit(splash.splash_attention)(query, key, value, SEGMENTS)
        with pytest.raises(ConfigError, match="splits 4 heads of queries but not the 1 of keys"):
            splash.splash_attention(query, key[:, :1], value[:, :1])
    np.testing.assert_allclose(found, by_einsum(query, key, value, SEGMENTS), atol=2e-5)
    assert found.sharding.spec[:3:2] == (("data",), ("tensor",)) or found.sharding.spec[:3:2] == ("data", "tensor")


def test_a_decoder_in_tiles_is_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    model, variables = kind("mistral")
    tiled: Any = model.clone(attention="splash")
    tokens = RNG.integers(0, 64, (2, 12)).astype(np.int32)
    positions = jnp.asarray([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2], list(range(12))])
    segments = jnp.asarray([[1] * 5 + [2] * 4 + [0] * 3, [1] * 12])
    padded = jnp.asarray([[0] * 4 + [1] * 8, [1] * 12], bool)
    inputs = [dict(positions=positions, segments=segments), dict(mask=padded)]
    kept = [np.asarray(real) for real in (segments > 0, padded)]
    wanted = [np.asarray(jax.jit(model.apply)(variables, tokens, **given).logits) for given in inputs]
    same = jax.jit(tiled.apply)(variables, tokens, **inputs[0]).logits
    np.testing.assert_array_equal(same, wanted[0])  # no TPU, no kernel
    monkeypatch.setattr(decoders, "uses_kernel", lambda attention: attention == "splash")
    calls = []
    monkeypatch.setattr(splash, "computed_pairs", lambda *given: calls.append(given) or 0)
    for given, real, logits in zip(inputs, kept, wanted, strict=True):
        found = np.asarray(jax.jit(lambda v, t, given=given: tiled.apply(v, t, **given).logits)(variables, tokens))
        np.testing.assert_allclose(found[real], logits[real], atol=2e-5 * np.abs(logits).max())
    assert calls


def test_what_the_kernel_cannot_hide_is_refused_by_name() -> None:
    tokens = jnp.zeros((2, 12), jnp.int32)
    for name, given, reason in (
        ("gemma2", {}, "layers with windows of their own"),
        ("llama", dict(prefix=tokens > 0), "a prefix that sees all of itself"),
    ):
        model, variables = kind(name)
        with pytest.raises(ConfigError, match=reason):
            jax.eval_shape(lambda v, m=model, g=given: m.clone(attention="splash").apply(v, tokens, **g), variables)
    with pytest.raises(ConfigError, match="'splash'"):
        splash.uses_kernel("splish")


@needs_libtpu
def test_a_tpu_writes_no_logits_and_the_plan_counts_the_kernel_s_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splash, "TILE", 512)
    rows, length, heads, width = 2, 1024, 4, 128
    mesh = sharding.make_mesh({"data": 2, "tensor": 2}, describe("v5e:2x2").devices)
    rules = sharding.PRESETS["fsdp_tp"]

    def lowered(attend: Any) -> Any:
        def total(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array) -> jax.Array:
            return (attend(query, key, value, segments).astype(jnp.float32) ** 2).sum()

        def given(shape: tuple[int, ...], *names: str | None) -> jax.ShapeDtypeStruct:
            dtype = jnp.bfloat16 if len(shape) == 4 else jnp.int32
            names = (*names, *[None] * (len(shape) - len(names)))
            placed = NamedSharding(mesh, sharding.spec(names, shape, mesh, rules))
            return jax.ShapeDtypeStruct(shape, dtype, sharding=placed)

        keys = given((rows, heads // 2, length, width), "batch", "heads")
        query = given((rows, length, heads, width), "batch", None, "heads")
        with sharding.use(mesh, rules):
            return jax.jit(jax.grad(total, (0, 1, 2))).lower(query, keys, keys, given((rows, length), "batch"))

    def by_masks(query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array) -> jax.Array:
        at = jnp.broadcast_to(jnp.arange(length), (rows, length))
        return grouped_attention(query, key, value, masks.visible(at, at, segments=(segments, segments)))

    assert f"{length}x{length}x" in lowered(by_masks).as_text()
    with uncached():
        compiled = lowered(splash.splash_attention).compile()
    text = compiled.as_text()
    assert f"{length},{length}]" not in text
    # A chip has one row and two heads, whose logits alone would be 8 MB in float32.
    assert compiled.memory_analysis().peak_memory_in_bytes < 2 * length**2 * 4
    # Of two by two tiles the one above the diagonal is passed over; 2 products forward, 3 and 4 backward.
    tiles, tile = 3, 2 * 512**2 * width
    program = read_program(text)
    assert program.custom_calls["tpu_custom_call"] == 3
    assert program.flops == 2 * tiles * (2 + 3 + 4) * tile
