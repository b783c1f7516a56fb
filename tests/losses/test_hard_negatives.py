"""Hard negatives follow the softmax of the similarities, however the batch is spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jvlm.losses.hard_negatives import fetch, hard_negatives
from jvlm.losses.similarity import max_over_queries

N, E = 16, 8


def make_mesh(devices: int):
    return jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    zimg, ztxt = (rng.standard_normal((N, E)).astype(np.float32) for _ in range(2))
    labels = np.arange(N, dtype=np.int32) // 2
    weights = np.ones(N, np.float32)
    weights[3] = 0.0
    return jnp.asarray(zimg), jnp.asarray(ztxt), jnp.asarray(labels), jnp.asarray(weights)


def test_draws_follow_the_softmax_over_negatives(pairs):
    zimg, ztxt, labels, weights = pairs
    draw = jax.jit(jax.vmap(lambda key: hard_negatives(key, zimg, ztxt, jnp.float32(0.7), labels, weights)))
    count = 20_000
    texts, images = (np.asarray(x) for x in draw(jax.random.split(jax.random.key(1), count)))
    allowed = np.asarray(labels)[:, None] != np.asarray(labels)[None, :]
    allowed &= (np.asarray(weights) > 0)[:, None] & (np.asarray(weights) > 0)[None, :]
    powers = np.where(allowed, np.exp(0.7 * np.asarray(zimg @ ztxt.T, np.float64)), 0.0)
    for drawn, expected in ((texts, powers), (images, powers.T)):
        for row in range(N):
            if row == 3:
                assert (drawn[:, row] == -1).all()
                continue
            share = np.bincount(drawn[:, row], minlength=N) / count
            want = expected[row] / expected[row].sum()
            assert (share[want == 0] == 0).all()
            # Five standard deviations of a share.
            assert (np.abs(share - want) <= 5 * np.sqrt(want * (1 - want) / count) + 1e-9).all()


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("options", [{}, {"block": 1}, {"neighbourhood": 2}], ids=str)
def test_draws_do_not_depend_on_the_devices(pairs, devices, options):
    zimg, ztxt, labels, weights = pairs
    key = jax.random.key(7)
    whole = hard_negatives(key, zimg, ztxt, jnp.float32(5.0), labels, weights)
    mesh = make_mesh(devices)
    if devices == 1:
        options = {name: value for name, value in options.items() if name != "neighbourhood"}
    spread = jax.jit(lambda *x: hard_negatives(*x, mesh=mesh, **options))(
        key, zimg, ztxt, jnp.float32(5.0), labels, weights
    )
    np.testing.assert_array_equal(whole, spread)


def test_image_and_text_draws_are_independent(pairs):
    same = jnp.ones((N, E))
    texts, images = hard_negatives(jax.random.key(0), same, same, jnp.float32(1.0))
    assert (texts != images).any()


def test_queries_count_by_their_largest_product(pairs):
    _, ztxt, _, _ = pairs
    zimg = jnp.stack([jnp.roll(ztxt, 1, axis=0), -ztxt], axis=1)  # the text before is by far the most similar
    unit = zimg / jnp.linalg.norm(zimg, axis=-1, keepdims=True)
    texts = ztxt / jnp.linalg.norm(ztxt, axis=-1, keepdims=True)
    drawn, _ = hard_negatives(jax.random.key(0), unit, texts, jnp.float32(1000.0), similarity=max_over_queries)
    np.testing.assert_array_equal(drawn, (np.arange(N) - 1) % N)


def test_a_batch_without_negatives_draws_none(pairs):
    zimg, ztxt, _, _ = pairs
    for drawn in hard_negatives(jax.random.key(0), zimg, ztxt, jnp.float32(1.0), jnp.zeros(N, jnp.int32)):
        assert (drawn == -1).all()


@pytest.mark.parametrize("devices", [1, 8])
def test_fetch_equals_indexing_with_its_gradient(devices):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((N, 3, 2)), jnp.float32)
    places = jnp.asarray(rng.integers(0, N, N), jnp.int32)
    mesh = make_mesh(devices)
    np.testing.assert_array_equal(jax.jit(lambda x: fetch(x, places, mesh=mesh))(x), x[places])
    slope = jax.jit(jax.grad(lambda x: jnp.sum(fetch(x, places, mesh=mesh) ** 2)))(x)
    np.testing.assert_allclose(slope, jax.grad(lambda x: jnp.sum(x[places] ** 2))(x), rtol=1e-6)


def test_fetch_never_gathers_the_array():
    mesh = make_mesh(8)
    x, places = jnp.zeros((N, 4)), jnp.zeros(N, jnp.int32)
    program = jax.jit(lambda x: fetch(x, places, mesh=mesh)).lower(x).compile().as_text()
    assert program is not None
    assert "collective-permute" in program
    assert "all-gather" not in program
