"""The global contrastive losses against the reference implementations, and their behaviour at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jvlm.losses.contrastive import MAX_SCALE, clipped_scale, sigmoid_loss, softmax_loss
from tests.losses.cases import make_case, value_and_grads
from tests.reference import torch

SCALES = [1.0, 14.3, 100.0]


def close(got, want, count):
    """The tolerance of the rings, here against float64 references."""
    for g, w in zip(got, want, strict=True):
        g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
        assert np.abs(g - w).max() <= 1e-5 * max(np.abs(w).max(), 1e-3 / count)


def torch_grads(loss, *leaves):
    loss.backward()
    return float(loss.detach()), [leaf.grad.numpy() for leaf in leaves]


def same_label(case):
    labels = torch.tensor(np.asarray(case.labels))
    return labels[:, None] == labels[None, :]


def torch_leaves(case):
    arrays = (case.zimg, case.ztxt, case.scale, case.bias)
    return [torch.tensor(np.asarray(a, np.float64), requires_grad=True) for a in arrays]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("solved", [False, True])
def test_softmax_equals_transformers_and_open_clip(scale, solved):
    import open_clip.loss
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    case = make_case(count=24, scale=scale, solved=solved)
    loss, grads = value_and_grads(softmax_loss, case, bias=False)
    zimg, ztxt, tscale, _ = torch_leaves(case)
    want, want_grads = torch_grads(image_text_contrastive_loss(tscale * ztxt @ zimg.T), zimg, ztxt, tscale)
    assert abs(loss - want) <= 1e-5 * max(1.0, abs(want))
    close(grads, want_grads, 24)
    other = open_clip.loss.ClipLoss()(zimg, ztxt, tscale)
    assert abs(loss - float(other.detach())) <= 1e-5 * max(1.0, abs(want))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bias", [-10.0, 0.0])
@pytest.mark.parametrize("solved", [False, True])
def test_sigmoid_equals_open_clip(scale, bias, solved):
    import open_clip.loss

    case = make_case(count=24, scale=scale, bias=bias, solved=solved)
    loss, grads = value_and_grads(sigmoid_loss, case)
    leaves = torch_leaves(case)
    want, want_grads = torch_grads(open_clip.loss.SigLipLoss()(*leaves), *leaves)
    assert abs(loss - want) <= 1e-5 * max(1.0, abs(want))
    close(grads, want_grads, 24)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("solved", [False, True])
def test_softmax_with_labels_and_weights_equals_the_textbook_in_float64(scale, solved):
    case = make_case(count=20, scale=scale, labels=True, weights=True, solved=solved)
    loss, grads = value_and_grads(softmax_loss, case, bias=False)
    zimg, ztxt, tscale, _ = torch_leaves(case)
    weights = torch.tensor(np.asarray(case.weights, np.float64))
    keep = weights > 0
    target = same_label(case).double()[keep][:, keep]
    target = target / target.sum(1, keepdim=True)
    logits = tscale * zimg[keep] @ ztxt[keep].T
    rows = -(target * torch.log_softmax(logits, 1)).sum(1) - (target * torch.log_softmax(logits.T, 1)).sum(1)
    want, want_grads = torch_grads((weights[keep] * rows).sum() / 2 / weights.sum(), zimg, ztxt, tscale)
    assert abs(loss - want) <= 1e-5 * max(1.0, abs(want))
    close(grads, want_grads, 20)


@pytest.mark.parametrize("scale", SCALES)
def test_sigmoid_with_labels_and_weights_equals_the_textbook_in_float64(scale):
    case = make_case(count=20, scale=scale, bias=-3.0, labels=True, weights=True)
    loss, grads = value_and_grads(sigmoid_loss, case)
    leaves = zimg, ztxt, tscale, tbias = torch_leaves(case)
    weights = torch.tensor(np.asarray(case.weights, np.float64))
    keep = weights > 0
    same = same_label(case)[keep][:, keep]
    logits = (tscale * zimg @ ztxt.T + tbias)[keep][:, keep]
    pairs = -torch.nn.functional.logsigmoid(torch.where(same, logits, -logits))
    share = (weights[keep][:, None] + weights[keep][None]) / 2
    want, want_grads = torch_grads((share * pairs).sum() / weights.sum(), *leaves)
    assert abs(loss - want) <= 1e-5 * max(1.0, abs(want))
    close(grads, want_grads, 20)


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", ["all weights zero", "batch of one", "one present", "one label", "opposed"])
def test_finite_in_value_and_gradient(loss, scale, kind):
    case = make_case(count=1 if kind == "batch of one" else 12, scale=scale, bias=-10.0)
    if kind == "all weights zero":
        case = case._replace(weights=jnp.zeros(12))
    elif kind == "one present":
        case = case._replace(weights=jnp.zeros(12).at[3].set(1.0))
    elif kind == "one label":
        case = case._replace(labels=jnp.zeros(12, jnp.int32))
    elif kind == "opposed":
        case = case._replace(ztxt=-case.zimg)
    value, grads = value_and_grads(loss, case, bias=loss is sigmoid_loss)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)
    if kind == "all weights zero":
        assert value == 0
        assert not any(np.any(g) for g in grads)


@pytest.mark.parametrize("loss", [softmax_loss, sigmoid_loss])
def test_placeholders_are_invisible_even_when_not_finite(loss):
    case = make_case(count=16, scale=14.3, bias=-2.0, labels=True)
    assert case.labels is not None
    value, grads = value_and_grads(loss, case, bias=loss is sigmoid_loss)
    extra = jnp.full((3, case.zimg.shape[1]), jnp.nan)
    padded = case._replace(
        zimg=jnp.concatenate([extra, case.zimg]),
        ztxt=jnp.concatenate([extra, case.ztxt]),
        labels=jnp.concatenate([case.labels[:3], case.labels]),
        weights=jnp.concatenate([jnp.zeros(3), jnp.ones(16)]),
    )
    padded_value, padded_grads = value_and_grads(loss, padded, bias=loss is sigmoid_loss)
    np.testing.assert_allclose(padded_value, value, rtol=1e-6)
    for got, want in zip(padded_grads, grads, strict=True):
        assert not np.any(got[:3]) if got.ndim else True
        np.testing.assert_allclose(got[3:] if got.ndim else got, want, rtol=1e-5, atol=1e-7)


def test_fractional_weight_scales_only_what_a_pair_owns():
    case = make_case(count=8, scale=14.3)
    halved = case._replace(weights=jnp.ones(8).at[2].set(0.5))
    absent = case._replace(weights=jnp.ones(8).at[2].set(0.0))
    full, _ = softmax_loss(case.zimg, case.ztxt, case.scale)
    half, weight = softmax_loss(case.zimg, case.ztxt, case.scale, weights=halved.weights)
    none, _ = softmax_loss(case.zimg, case.ztxt, case.scale, weights=absent.weights)
    logits = case.scale * case.zimg @ case.ztxt.T
    own = (jax.nn.logsumexp(logits[2]) + jax.nn.logsumexp(logits[:, 2])) / 2 - logits[2, 2]
    np.testing.assert_allclose(full - half, own / 2, rtol=1e-4)
    assert weight == 7.5
    assert abs(float(none - (full - own))) > 1e-2


def test_scale_is_clipped_and_finds_its_way_back():
    value, grad = jax.value_and_grad(clipped_scale)(jnp.float32(2.0))
    np.testing.assert_allclose([value, grad], [np.exp(2.0)] * 2, rtol=1e-6)
    value, grad = jax.value_and_grad(clipped_scale)(jnp.float32(9.0))
    np.testing.assert_allclose([value, grad], [MAX_SCALE] * 2, rtol=1e-6)
