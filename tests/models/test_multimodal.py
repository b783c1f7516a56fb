"""Multimodal decoders: written token by token they say what they say at once; pictures go where they belong."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm import models
from jvlm.generate.generator import Generator
from tests.models_util import initialize, inputs, tiny

FAMILIES = ("llava", "blip2", "paligemma", "flamingo")


@functools.cache
def made(family: str) -> tuple[Any, Any, dict[str, np.ndarray]]:
    model, variables, _ = initialize(tiny(family))
    given = inputs(model)
    words = np.random.default_rng(1).integers(0, 50, (3, 4)).astype(np.int32)
    return model, variables, given | dict(tokens=np.concatenate([given["tokens"], words], axis=1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stacked", [True, False])
def test_token_by_token_equals_all_at_once(family: str, stacked: bool) -> None:
    model, variables, given = made(family)
    tokens, read = given["tokens"], given["tokens"].shape[1] - 3
    writer = model if stacked else models.create(tiny(family, scan=False))
    whole = dict(given)
    if model.__class__.__name__ == "VisionLanguage" and model.prefix:
        whole["prefix"] = np.broadcast_to(np.arange(tokens.shape[1]) < read, tokens.shape)
    expected = jax.jit(model.apply)(variables, **whole).logits
    pad = np.zeros((3, 2), np.int32)
    prompt = dict(given, tokens=np.concatenate([pad, tokens[:, :read]], axis=1))
    prompt["mask"] = np.arange(read + 2)[None].repeat(3, 0) >= 2

    def start(variables: Any, prompt: Any) -> Any:
        return writer.apply(variables, writer.empty_cache(3, read + 6, stacked), **prompt, method="prefill")

    out = jax.jit(start)(variables, prompt)
    np.testing.assert_allclose(out.logits, expected[:, read - 1], atol=1e-5)
    step = jax.jit(lambda variables, token, cache: writer.apply(variables, token, cache, method="step"))
    for at in range(read, tokens.shape[1]):
        out = step(variables, tokens[:, at], out.cache)
        np.testing.assert_allclose(out.logits, expected[:, at], atol=1e-5)


@pytest.mark.parametrize("family", ["llava", "flamingo"])
def test_the_generator_writes_the_likeliest_tokens(family: str) -> None:
    _, variables, given = made(family)
    model = models.create(tiny(family, text=dict(length=24)))
    tokens = given["tokens"][:, :-4]
    mask = np.ones(tokens.shape, bool)
    inputs = dict(tokens=tokens, mask=mask, image=given["image"])
    written = np.asarray(list(Generator(model, variables, ends=[]).stream_inputs(inputs, 3))[-1])
    whole = np.concatenate([tokens, written], axis=1).astype(np.int32)
    logits = jax.jit(model.apply)(variables, whole, given["image"]).logits
    np.testing.assert_array_equal(written, np.argmax(logits, axis=-1)[:, -4:-1])


def test_a_picture_that_is_none_is_passed_over() -> None:
    model, variables, given = made("llava")
    none = np.ones_like(given["image"][:, :1])
    image = np.concatenate([given["image"][:, :1], none, given["image"][:, 1:]], axis=1)
    run = jax.jit(model.apply)
    mask = np.array([[True, False, True]] * 3)
    out = run(variables, given["tokens"], image, mask)
    np.testing.assert_allclose(out.logits, run(variables, given["tokens"], given["image"]).logits, atol=1e-6)


def test_places_that_are_given_are_taken() -> None:
    model, variables, given = made("llava")
    wanted = given["tokens"] == model.image_token
    count = model.image_tokens()
    places = np.where(wanted, np.cumsum(wanted, axis=1) - 1, -2).astype(np.int32)
    run = jax.jit(model.apply)
    swapped = np.where(wanted, (places + count) % (2 * count), -2).astype(np.int32)
    out = run(variables, given["tokens"], given["image"][:, ::-1], places=swapped)
    np.testing.assert_allclose(out.logits, run(variables, given["tokens"], given["image"]).logits, atol=1e-6)


def test_gates_at_zero_are_the_language_model_alone() -> None:
    model, variables, given = made("flamingo")
    params = dict(variables["params"])
    layers = dict(params["gates"]["layers"])
    layers |= {name: jnp.zeros_like(layers[name]) for name in ("gate_cross", "gate_mlp")}
    params["gates"] = dict(layers=layers)
    tokens = np.where(given["tokens"] == model.image_token, 0, given["tokens"])
    run = jax.jit(model.apply)
    out = run(dict(params=params), tokens, given["image"])
    alone = jax.jit(model.text_tower.apply)(dict(params=params["text_tower"]), tokens)
    np.testing.assert_allclose(out.logits, alone.logits, atol=1e-6)
    assert np.abs(run(variables, tokens, given["image"]).logits - alone.logits).max() > 1e-3


def test_packed_texts_see_only_their_own_pictures() -> None:
    model, variables, _ = made("flamingo")
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, (2, 5)).astype(np.int32)
    tokens[0, 1] = tokens[1, 3] = model.image_token
    image = rng.normal(size=(2, 1, 16, 16, 3)).astype(np.float32)
    apart = jax.jit(model.apply)(variables, tokens, image).logits
    positions = np.tile(np.arange(5, dtype=np.int32), 2)[None]
    segments = np.repeat(np.array([1, 2], np.int32), 5)[None]
    row = dict(tokens=tokens.reshape(1, 10), image=image.reshape(1, 2, 16, 16, 3))
    together = jax.jit(model.apply)(variables, **row, positions=positions, segments=segments).logits
    np.testing.assert_allclose(together[0], apart.reshape(10, -1), atol=1e-5)


def test_every_family_that_takes_pictures_and_writes_is_here() -> None:
    writes = {name for name, family in models.MODELS.items() if "image_token" in family.tiny}
    assert writes == set(FAMILIES)
