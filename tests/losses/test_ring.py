"""The ring losses equal the global definitions, in value and every gradient, however the batch is spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jvlm.core.errors import ConfigError, UserError
from jvlm.losses.contrastive import sigmoid_loss, softmax_loss
from jvlm.losses.ring import contrastive_loss
from jvlm.losses.similarity import max_over_queries
from tests.losses.cases import make_case, value_and_grads

COUNT = 32
SCALES = [1.0, 14.3, 100.0]
FORMS = {
    "ring": {"bidirectional": False},
    "bidirectional": {},
    "two_level": {"form": "two_level"},
    "blocks": {"block": 3},
}


def make_mesh(devices: int):
    shape = {1: (1, 1), 2: (1, 2), 4: (1, 4), 8: (2, 4)}[devices]
    return jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:devices])


def ring_loss(kind, mesh, **options):
    """The ring with the signature of the global definition, its arguments laid out on the mesh."""

    def loss(zimg, ztxt, scale, bias=None, *, labels=None, weights=None):
        if mesh is not None:
            split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
            zimg, ztxt = (jax.lax.with_sharding_constraint(z, split) for z in (zimg, ztxt))
        return contrastive_loss(kind, zimg, ztxt, scale, bias, labels, weights, mesh=mesh, **options)

    return loss


def assert_equal(kind, loss, case, reference=None):
    """The project's tolerance: 1e-5 of the largest entry of each gradient, or of 1e-3 / N if that is larger."""
    reference = reference or {"softmax": softmax_loss, "sigmoid": sigmoid_loss}[kind]
    value, grads = value_and_grads(loss, case, bias=kind == "sigmoid")
    want, want_grads = value_and_grads(reference, case, bias=kind == "sigmoid")
    assert abs(value - want) <= 1e-5 * max(1.0, abs(want))
    for name, got, expected in zip(("zimg", "ztxt", "scale", "bias"), grads, want_grads):
        allowed = 1e-5 * max(np.abs(expected).max(), 1e-3 / len(case.zimg))
        assert np.abs(got - expected).max() <= allowed, name


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "labels and weights"])
def test_ring_equals_the_global_definition(kind, devices, form, extras):
    loss = ring_loss(kind, make_mesh(devices), **FORMS[form])
    for scale in SCALES:
        for solved in (False, True):
            case = make_case(COUNT, scale, bias=-2.0, solved=solved, labels=extras, weights=extras)
            assert_equal(kind, loss, case)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("options", [{}, {"block": 5}, {"form": "two_level"}, {"form": "global"}], ids=str)
def test_without_a_mesh_the_loss_is_the_same(kind, options):
    loss = ring_loss(kind, None, **options)
    assert_equal(kind, loss, make_case(COUNT, 14.3, bias=-2.0, labels=True, weights=True))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("neighbourhood", ["data", 4, 8])
def test_any_neighbourhood_gives_the_same_loss(kind, neighbourhood):
    loss = ring_loss(kind, make_mesh(8), form="two_level", neighbourhood=neighbourhood, block=3)
    assert_equal(kind, loss, make_case(COUNT, 14.3, bias=-2.0, labels=True, weights=True))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("form", ["ring", "two_level"])
def test_finite_at_the_largest_scale_with_weights_of_zero(kind, form):
    loss = ring_loss(kind, make_mesh(8), form=form)
    case = make_case(16, scale=100.0, bias=-10.0)
    few = case._replace(weights=jnp.zeros(16).at[5].set(1.0))
    none = case._replace(weights=jnp.zeros(16))
    opposed = case._replace(ztxt=-case.zimg, weights=jnp.ones(16))
    for each in (few, none, opposed):
        value, grads = value_and_grads(loss, each, bias=kind == "sigmoid")
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in grads)
        assert_equal(kind, loss, each)
    assert not any(np.any(g) for g in value_and_grads(loss, none, bias=kind == "sigmoid")[1])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_placeholders_are_invisible_even_when_not_finite(kind):
    loss = ring_loss(kind, make_mesh(8))
    case = make_case(16, 14.3, bias=-2.0, labels=True)._replace(weights=jnp.ones(16))
    assert case.labels is not None
    places = np.random.default_rng(1).permutation(24)[:16]  # where the real samples lie among 8 placeholders

    def spread(x, fill):
        return jnp.full((24, *x.shape[1:]), fill, x.dtype).at[places].set(x)

    padded = case._replace(
        zimg=spread(case.zimg, np.nan),
        ztxt=spread(case.ztxt, np.inf),
        labels=spread(case.labels, 0),
        weights=spread(case.weights, 0.0),
    )
    value, grads = value_and_grads(loss, case, bias=kind == "sigmoid")
    got, got_grads = value_and_grads(loss, padded, bias=kind == "sigmoid")
    assert abs(got - value) <= 1e-5 * max(1.0, abs(value))
    for g, want in zip(got_grads, grads):
        if g.ndim:
            assert not np.any(np.delete(g, places, axis=0))
            g = g[places]
        assert np.abs(g - want).max() <= 1e-5 * max(np.abs(want).max(), 1e-3 / 16)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_a_maximum_over_queries_as_similarity(kind):
    mesh, plain = make_mesh(2), make_case(8, 14.3, bias=-2.0, labels=True, weights=True)
    queries = jax.random.normal(jax.random.key(0), (8, 3, plain.zimg.shape[1]))
    case = plain._replace(zimg=queries / jnp.linalg.norm(queries, axis=-1, keepdims=True))
    options = {"mesh": mesh, "similarity": max_over_queries}
    assert_equal(kind, ring_loss(kind, **options), case, reference=ring_loss(kind, **options, form="global"))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_bfloat16_products_keep_float32_sums(kind):
    case = make_case(COUNT, 14.3, bias=-2.0)
    loss = ring_loss(kind, make_mesh(8), dot_dtype=jnp.bfloat16)
    value, grads = value_and_grads(loss, case, bias=kind == "sigmoid")
    reference = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}[kind]
    rounded = case._replace(**{z: getattr(case, z).astype(jnp.bfloat16) for z in ("zimg", "ztxt")})
    want, want_grads = value_and_grads(reference, rounded, bias=kind == "sigmoid")
    # The products of bfloat16 factors are exact, so the loss is that of the rounded embeddings.
    assert abs(value - want) <= 1e-5 * max(1.0, abs(want))
    for got, expected in zip(grads, want_grads):
        assert got.dtype == np.float32
        assert np.abs(got - expected.astype(np.float32)).max() <= 2**-7 * np.abs(expected).max()


def test_wrong_arguments_are_named():
    case = make_case(12, 1.0)
    with pytest.raises(UserError, match="12 does not divide among 8 devices"):
        contrastive_loss("softmax", case.zimg, case.ztxt, case.scale, mesh=make_mesh(8))
    with pytest.raises(ConfigError, match="did you mean 'softmax'"):
        contrastive_loss("sofmax", case.zimg, case.ztxt, case.scale)
    with pytest.raises(ConfigError, match="did you mean 'two_level'"):
        contrastive_loss("softmax", case.zimg, case.ztxt, case.scale, form="two-level")
    with pytest.raises(ConfigError, match="needs a bias"):
        contrastive_loss("sigmoid", case.zimg, case.ztxt, case.scale)
    for neighbourhood, message in (("fsd", "did you mean 'fsdp'"), (3, "neighbourhoods of 3 do not divide 2")):
        with pytest.raises(ConfigError, match=message):
            contrastive_loss(
                "softmax",
                case.zimg,
                case.ztxt,
                case.scale,
                mesh=make_mesh(2),
                form="two_level",
                neighbourhood=neighbourhood,
            )


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_ring_computes_in_float32_where_jax_defaults_to_float64(kind):
    case = make_case(COUNT, 14.3, bias=-10.0)
    mesh = make_mesh(8)
    want, _ = contrastive_loss(kind, case.zimg, case.ztxt, case.scale, case.bias, mesh=mesh)
    with jax.enable_x64(True):
        got, _ = contrastive_loss(kind, case.zimg, case.ztxt, case.scale, case.bias, mesh=mesh)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)
