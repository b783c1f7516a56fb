"""Attention that passes over what its mask hides is the attention that computes it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.nn import masks
from jvlm.nn.grouped_attention import grouped_attention, ordered_attention

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("length", "learned", "window"), [(70, 0, None), (67, 3, None), (64, 0, 9), (5, 0, None)])
def test_what_stands_after_a_token_need_not_be_computed(length: int, learned: int, window: int | None) -> None:
    shapes = (2, length, 6, 8), (2, 3, learned + length, 8), (2, 3, learned + length, 8)
    query, key, value = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in shapes)
    at = jnp.broadcast_to(jnp.arange(length), (2, length))
    keep = jnp.asarray(np.arange(length) >= np.asarray([[0], [2]]))  # the second text is padded on the left
    mask = masks.visible(at, at, keep, window)
    options = dict(scale=0.3, cap=5.0)
    wanted = grouped_attention(query, key, value, mask, None, **options)
    found = jax.jit(lambda *given: ordered_attention(*given, **options))(query, key, value, mask)
    real = np.asarray(keep)
    np.testing.assert_allclose(np.asarray(found)[real], np.asarray(wanted)[real], atol=1e-6)
