"""Prefix and prompt tuning in a decoder: cached, packed and switched off they are what they are in one pass."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core.errors import ConfigError, UserError
from jvlm.core.tree import flatten, unflatten
from jvlm.generate.generator import Generator
from jvlm.tasks.language import Language
from jvlm.transforms.adapters import activate, attach, frozen_paths
from jvlm.transforms.context import prompted
from jvlm.transforms.freeze import partition
from jvlm.transforms.methods import make_method
from tests.models.decoders import kind
from tests.models_util import initialize, inputs, tiny

LENGTH = 3


def adapted(name: str, decoder: str) -> tuple[Any, Any]:
    """(model, parameters) of a decoder with a prefix or prompt whose vectors are random and large."""
    model, variables = kind(decoder, length=24, depth=2)
    params = attach(variables["params"], make_method(dict(kind=name, length=LENGTH)), jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), len(flatten(params)))
    grown = {
        path: leaf.replace(rows=jax.random.normal(key, leaf.rows.shape)) if hasattr(leaf, "rows") else leaf
        for key, (path, leaf) in zip(keys, flatten(params).items())
    }
    return model, unflatten(grown)


@pytest.mark.parametrize(("name", "decoder"), [("prefix", "mistral"), ("prompt", "gpt2")])
def test_cached_decoding_writes_what_full_passes_choose(name: str, decoder: str) -> None:
    model, params = adapted(name, decoder)
    prompts = [[5, 9, 2, 7], [3, 8]]
    found = Generator(model, {"params": params}, ends=[]).generate(prompts, 4)

    @jax.jit
    def choose(tokens: jax.Array, mask: jax.Array) -> jax.Array:
        given = prompted(params, dict(tokens=tokens, mask=mask))
        return model.apply({"params": params}, **given, at=-1).logits.argmax(-1)

    # Padded on the left to one shape, so that there is one program.
    for prompt, written in zip(prompts, found, strict=True):
        for count in range(4):
            text = [*prompt, *written[:count]]
            row = np.zeros((1, 8), np.int32)
            row[0, 8 - len(text) :] = text
            assert choose(jnp.asarray(row), jnp.arange(8)[None] >= 8 - len(text))[0] == written[count]


@pytest.mark.parametrize("name", ["prefix", "prompt"])
def test_texts_packed_into_a_row_cost_what_they_cost_alone(name: str) -> None:
    model, params = adapted(name, "llama")
    task = Language(model, length=10)
    tokens = np.random.default_rng(0).integers(1, model.vocab_size, (1, 10)).astype(np.int32)
    segments = np.asarray([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2]], np.int32)
    positions = np.asarray([[*range(6), *range(4)]], np.int32)
    alone = np.zeros((2, 10), np.int32), np.zeros((2, 10), np.int32)
    for row, (start, end) in enumerate([(0, 6), (6, 10)]):
        alone[0][row, : end - start], alone[1][row, : end - start] = tokens[0, start:end], 1
    loss = jax.jit(lambda batch: task.loss(params, {}, batch, jax.random.key(0)))
    packed = loss(dict(tokens=tokens, segments=segments, positions=positions, answer=np.ones((1, 10), bool)))
    rows = loss(
        dict(
            tokens=alone[0], segments=alone[1], positions=np.broadcast_to(np.arange(10, dtype=np.int32), (2, 10)),
            answer=alone[1] > 0,
        )
    )  # fmt: skip
    assert packed.weight == rows.weight == 8
    np.testing.assert_allclose(packed.sum, rows.sum, rtol=1e-5)


def test_only_its_rows_are_trained_and_at_weight_0_the_base_is_there_bit_for_bit() -> None:
    method = make_method(dict(kind="prefix", length=LENGTH))
    model, variables, _ = initialize(tiny("clip"))  # attention without a cache or positions takes one, too
    clip: Any = model
    given = jax.tree.map(jnp.asarray, inputs(clip))
    params = attach(variables["params"], method, jax.random.key(0))
    trained, _ = partition(params, frozen_paths(params, method))
    assert {leaf.shape[-2] for leaf in jax.tree.leaves(trained)} == {LENGTH}
    run = jax.jit(lambda params: clip.apply({"params": params}, **given).zimg)
    plain = run(variables["params"])
    assert np.abs(run(params) - plain).max() > 1e-4
    np.testing.assert_array_equal(run(activate(params, {})), plain)
    with pytest.raises(UserError, match=r"the prefix .default. has weight 0\.5"):
        run(activate(params, {"default": 0.5}))


def test_a_prefix_of_keys_alone_is_refused() -> None:
    params = initialize(tiny("decoder"))[1]["params"]
    method = make_method(dict(kind="prefix", targets=["*attn/key/kernel"]))
    with pytest.raises(ConfigError, match="give the keys and the values of an attention, both"):
        attach(params, method, jax.random.key(0))
