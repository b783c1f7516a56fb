"""What a decoder computes does not depend on how its input is cut, padded, packed or cached."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.nn.cache import Cache
from jvlm.nn.layers import unstack
from tests.models.decoders import KINDS, kind

kinds = pytest.mark.parametrize("name", KINDS)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 64, (3, 12)).astype(np.int32)


def full(name: str, tokens: Any = TOKENS, **given: Any) -> np.ndarray:
    model, variables = kind(name)
    return np.asarray(jax.jit(model.apply)(variables, tokens, **given).logits)


def assert_near(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, atol=2e-5 * max(1.0, np.abs(expected).max()), rtol=0)


def by_steps(model: Any, variables: Any, cache: Cache, prompt: int, **given: Any) -> np.ndarray:
    """Logits of `TOKENS`, the first `prompt` of them at once and then one by one."""
    out = jax.jit(model.apply)(variables, TOKENS[:, :prompt], cache=cache, **given)
    logits = [out.logits]
    step = jax.jit(lambda variables, tokens, cache: model.apply(variables, tokens, cache, method="step"))
    for at in range(prompt, TOKENS.shape[1]):
        out = step(variables, TOKENS[:, at], out.cache)
        logits.append(out.logits[:, None])
    return np.concatenate(logits, axis=1)


@kinds
def test_cached_decoding_equals_full_decoding(name: str) -> None:
    model, variables = kind(name)
    assert_near(by_steps(model, variables, model.empty_cache(3, 20), 5), full(name))


@kinds
def test_layers_taken_apart_equal_the_stack(name: str) -> None:
    model, variables = kind(name)
    model, apart = model.clone(scan=False), {"params": unstack(variables["params"])}
    assert "layer_0" in apart["params"]["blocks"]
    assert_near(by_steps(model, apart, model.empty_cache(3, 12, stacked=False), 4), full(name))
    assert_near(by_steps(model, variables, model.empty_cache(3, 12), 4), full(name))


@kinds
def test_a_prompt_s_last_layer_is_computed_for_its_last_token_alone(name: str) -> None:
    model, variables = kind(name)
    read = jax.jit(lambda m, cache, x: m.apply(variables, cache, tokens=x, method="prefill"), static_argnums=0)
    whole, last = (read(m, m.empty_cache(3, 16), TOKENS) for m in (model, model.clone(scan=False)))
    assert (whole.tokens.shape[1], last.tokens.shape[1]) == (12, 1)
    assert_near(last.tokens, whole.tokens[:, -1:])
    assert_near(last.logits, full(name)[:, -1])
    jax.tree.map(assert_near, last.cache, whole.cache)


def test_a_ring_of_the_window_s_length_is_enough() -> None:
    model, variables = kind("mistral")
    assert_near(by_steps(model, variables, model.empty_cache(3, 3), 2), full("mistral"))
    # One slot less forgets what the window still shows.
    assert np.abs(by_steps(model, variables, model.empty_cache(3, 2), 2) - full("mistral")).max() > 1e-2


@kinds
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_unequal_texts_equals_them_one_by_one(name: str, side: str) -> None:
    lengths = (12, 7, 4)
    tokens, mask = RNG.integers(0, 64, TOKENS.shape).astype(np.int32), np.zeros(TOKENS.shape, bool)
    for row, length in enumerate(lengths):
        where = slice(12 - length, 12) if side == "left" else slice(0, length)
        tokens[row, where] = TOKENS[row, :length]
        mask[row, where] = True
    together = full(name, tokens, mask=mask)
    for row, length in enumerate(lengths):
        assert_near(together[row][mask[row]], full(name, TOKENS[row : row + 1, :length])[0])


@kinds
def test_texts_packed_into_a_row_equal_them_apart(name: str) -> None:
    segments = np.repeat([[1, 2, 3]], (5, 4, 3), axis=1)
    positions = np.concatenate([np.arange(n) for n in (5, 4, 3)])[None]
    packed = full(name, TOKENS[:1], segments=segments, positions=positions)[0]
    for start, end in ((0, 5), (5, 9), (9, 12)):
        assert_near(packed[start:end], full(name, TOKENS[:1, start:end])[0])


@kinds
def test_embeddings_equal_their_tokens(name: str) -> None:
    model, variables = kind(name)
    embeddings = model.apply(variables, jnp.asarray(TOKENS), method="embed")
    assert_near(full(name, None, embeddings=embeddings), full(name))


@kinds
def test_logits_of_one_token_equal_those_of_all(name: str) -> None:
    at = jnp.asarray([3, 11, 0])
    assert_near(full(name, at=at), full(name)[np.arange(3), np.asarray(at)])


def test_later_tokens_do_not_change_earlier_ones() -> None:
    other = TOKENS.copy()
    other[:, 6:] = (other[:, 6:] + 1) % 64
    np.testing.assert_array_equal(full("llama", other)[:, :6], full("llama")[:, :6])


@pytest.mark.parametrize("cached", [False, True])
def test_tokens_of_the_prefix_see_each_other(cached: bool) -> None:
    model, _ = kind("llama")
    prefix = np.arange(12)[None].repeat(3, axis=0) < 5
    given: dict[str, Any] = dict(cache=model.empty_cache(3, 16)) if cached else {}
    base = full("llama", prefix=prefix, **given)
    inside, outside = TOKENS.copy(), TOKENS.copy()
    inside[:, 4] = (inside[:, 4] + 1) % 64
    outside[:, 5] = (outside[:, 5] + 1) % 64
    assert (np.abs(full("llama", inside, prefix=prefix, **given) - base).max(-1) > 1e-4).all()
    np.testing.assert_array_equal(full("llama", outside, prefix=prefix, **given)[:, :5], base[:, :5])


def test_a_cache_that_is_already_filled_is_attended_to() -> None:
    """As a learned prefix of keys and values is."""
    model, _ = kind("llama")
    cache = model.empty_cache(3, 14)
    filled = cache.replace(
        key=cache.key.at[:, :, :, :2].set(1.0), value=cache.value.at[:, :, :, :2].set(1.0),
        keep=cache.keep.at[:, :2].set(True), index=cache.index + 2,
    )  # fmt: skip
    positions = np.arange(12)[None]
    with_prefix = full("llama", cache=filled, positions=positions)
    assert np.abs(with_prefix - full("llama")).max() > 1e-2
    assert_near(full("llama", cache=filled.replace(keep=cache.keep), positions=positions), full("llama"))
