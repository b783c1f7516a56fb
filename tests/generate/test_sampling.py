"""Tokens are drawn from the distribution that transformers' filters leave."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.core.errors import ConfigError
from jvlm.generate.sampling import choose, filtered, penalize, sampling
from tests.reference import torch, transformers

LOGITS = np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32) * 2
CASES: list[tuple[float, int, float]] = [
    (1.0, 0, 1.0),
    (0.5, 0, 1.0),
    (1.0, 5, 1.0),
    (1.0, 0, 0.7),
    (2.0, 7, 0.6),
    (0.3, 1, 0.01),
    (1.0, 50, 0.999),
]


def reference(temperature: float, top_k: int, top_p: float) -> np.ndarray:
    from transformers.generation import logits_process as process

    scores: Any = torch.from_numpy(LOGITS)
    ids: Any = None  # not read
    steps = [process.TemperatureLogitsWarper(temperature)]
    steps += [process.TopKLogitsWarper(top_k)] if top_k else []
    steps += [process.TopPLogitsWarper(top_p)] if top_p < 1 else []
    for step in steps:
        scores = step(ids, scores)
    return torch.softmax(scores, -1).numpy()


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), CASES)
def test_the_filtered_distribution_is_transformers(temperature: float, top_k: int, top_p: float) -> None:
    how = sampling(temperature, top_k, top_p)
    actual = jax.nn.softmax(filtered(jnp.asarray(LOGITS), how), -1)
    np.testing.assert_allclose(actual, reference(temperature, top_k, top_p), atol=1e-6)


def test_draws_follow_the_filtered_distribution() -> None:
    how, count = sampling(1.3, 6, 0.9), 4000
    logits = jnp.tile(jnp.asarray(LOGITS[:1]), (count, 1))
    drawn = np.asarray(choose(logits, how, jax.random.key(1)))
    share = np.bincount(drawn, minlength=20) / count
    expected = reference(1.3, 6, 0.9)[0]
    assert (share[expected == 0] == 0).all()
    np.testing.assert_allclose(share, expected, atol=4 * 0.5 / count**0.5)


def test_the_penalty_is_transformers() -> None:
    ids = np.asarray([[1, 4, 4], [0, 19, 7], [2, 3, 5]])
    process: Any = transformers.RepetitionPenaltyLogitsProcessor(1.7)
    expected = process(torch.from_numpy(ids), torch.from_numpy(LOGITS.copy())).numpy()
    seen = np.zeros(LOGITS.shape, bool)
    np.put_along_axis(seen, ids, True, axis=1)
    np.testing.assert_allclose(penalize(jnp.asarray(LOGITS), jnp.asarray(seen), 1.7), expected, rtol=1e-6)


def test_temperature_zero_takes_the_likeliest() -> None:
    np.testing.assert_array_equal(choose(jnp.asarray(LOGITS), sampling(), jax.random.key(0)), LOGITS.argmax(-1))


@pytest.mark.parametrize(
    "wrong", [dict(temperature=-1.0), dict(top_p=0.0), dict(top_k=-2), dict(repetition_penalty=0.0)]
)
def test_numbers_without_meaning_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        sampling(**wrong)
