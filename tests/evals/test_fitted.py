"""Linear probe and k-NN: the reference optimum, the definition by hand, and no dependence on the mesh."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize

from jvlm.core.errors import ConfigError, UserError
from jvlm.core.sharding import make_mesh
from jvlm.data.sources import Sample
from jvlm.evals.knn import NearestNeighbours, vote_ranks
from jvlm.evals.labelled import Labelled, score_ranks
from jvlm.evals.linear_probe import LinearProbe
from jvlm.evals.logistic import fit_logistic
from tests.evals import tiny


def mesh(devices: int):
    return make_mesh({"data": -1}, jax.devices()[:devices])


def data(n: int = 61, dim: int = 5, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    z = rng.normal(size=(classes, dim))[y] + 0.7 * rng.normal(size=(n, dim))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32), y


def objective(flat: np.ndarray, z: np.ndarray, y: np.ndarray, classes: int, c: float) -> tuple[float, np.ndarray]:
    """scikit-learn's objective in float64, with its gradient."""
    kernel, bias = flat[:-classes].reshape(z.shape[1], classes), flat[-classes:]
    logits = z.astype(np.float64) @ kernel + bias
    logits -= logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    value = -c * log_p[np.arange(len(y)), y].sum() + 0.5 * (kernel**2).sum()
    error = c * (np.exp(log_p) - np.eye(classes)[y])
    return value, np.concatenate([(z.T @ error + kernel).ravel(), error.sum(0)])


@pytest.mark.parametrize("c", [0.1, 10.0, 1000.0])
def test_the_probe_reaches_the_optimum_that_scipy_finds(c: float) -> None:
    z, y = data()
    found = fit_logistic(z, y, 4, c, mesh(1), tolerance=1e-5)
    assert found.gradient <= 1e-5
    flat = np.concatenate([found.kernel.ravel(), found.bias]).astype(np.float64)
    best = minimize(objective, np.zeros(24), (z, y, 4, c), "L-BFGS-B", jac=True, options=dict(ftol=1e-14, gtol=1e-9))
    ours = objective(flat, z, y, 4, c)[0]
    assert best.fun <= ours <= best.fun * (1 + 1e-5)
    at_zero = np.abs(objective(np.zeros(24), z, y, 4, c)[1]).max()
    assert np.abs(objective(flat, z, y, 4, c)[1]).max() <= 2e-5 * at_zero


def test_rows_and_devices_do_not_change_the_optimum() -> None:
    z, y = data()
    first = fit_logistic(z, y, 4, 10.0, mesh(1), tolerance=1e-5)
    for devices, rows in [(1, 7), (2, 100), (8, 16)]:
        other = fit_logistic(z, y, 4, 10.0, mesh(devices), tolerance=1e-5, rows=rows)
        np.testing.assert_allclose(other.kernel, first.kernel, atol=2e-3)
        np.testing.assert_allclose(other.logits(z), first.logits(z), atol=5e-3)


def test_the_strength_is_the_one_that_validates_best() -> None:
    z, y = data(400, 8, 3)
    probe = LinearProbe(tiny.Memory([]), tiny.Memory([]), strengths=(1e-4, 10.0))
    known = Labelled(z, y)
    assert probe.choose(known, 3, mesh(1)) == 10.0
    order = np.random.default_rng(0).permutation(400)
    validation, rest = order[:80], order[80:]
    accuracy = {}
    for c in (1e-4, 10.0):
        logits = fit_logistic(z[rest], y[rest], 3, c, mesh(1)).logits(z[validation])
        accuracy[c] = (logits.argmax(1) == y[validation]).mean()
    assert accuracy[10.0] > accuracy[1e-4]


def test_votes_by_hand() -> None:
    similarity = np.asarray([[0.9, 0.8, 0.8], [0.9, 0.2, 0.1]])
    voted = np.asarray([[0, 1, 1], [2, 2, 2]])
    # exp(0.9/t) against 2 exp(0.8/t): at t = 1 two weaker neighbours win, at t = 0.07 the closest does.
    assert vote_ranks(similarity, voted, np.asarray([0, 2]), 4, 1.0).tolist() == [1, 0]
    assert vote_ranks(similarity, voted, np.asarray([0, 2]), 4, 0.07).tolist() == [0, 0]
    # A class without a vote is behind all others, also those without a vote.
    assert vote_ranks(similarity, voted, np.asarray([3, 0]), 4, 0.07).tolist() == [3, 3]
    assert np.isfinite(vote_ranks(similarity, voted, np.asarray([0, 2]), 4, 1e-4)).all()


def test_nan_logits_never_hit() -> None:
    scores = np.asarray([[np.nan, 1.0, 0.0], [np.nan, 1.0, 0.0]])
    assert score_ranks(scores, np.asarray([0, 1])).tolist() == [2, 1]


def memory_pair() -> tuple[tiny.Memory, tiny.Memory]:
    """Test pictures that are training pictures, so that a right answer exists for a random model too."""
    pictures = tiny.pictures(24)
    train = tiny.Memory([Sample(d, [], 10 + i % 3, f"a{i}") for i, d in enumerate(pictures)])
    return train, tiny.Memory([Sample(d, [], 10 + i % 3, f"b{i}") for i, d in enumerate(pictures[:12])])


@pytest.mark.parametrize("kind", ["knn", "linear_probe"])
def test_scores_do_not_depend_on_devices_or_batches(kind: str) -> None:
    train, test = memory_pair()
    task = (
        NearestNeighbours(train, test, k=1)
        if kind == "knn"
        else LinearProbe(train, test, strengths=(1e6,), max_steps=20000, tolerance=1e-3)
    )
    first = task(tiny.encoder(1, 8))
    assert first["accuracy_top1"].value == 1
    assert first["accuracy_top1"].blind < 0.8
    assert first["accuracy_top1"].chance == pytest.approx(1 / 3)
    assert "accuracy_top5" not in first
    for devices, batch in [(1, 5), (8, 8)]:
        assert task(tiny.encoder(devices, batch)) == first


def test_wrong_data_is_named() -> None:
    train, test = memory_pair()
    few = tiny.Memory(train.samples[:1])
    with pytest.raises(UserError, match="label 11 is in the test data"):
        NearestNeighbours(few, test)(tiny.encoder())
    with pytest.raises(UserError, match="training data has no samples"):
        NearestNeighbours(tiny.Memory([]), test)(tiny.encoder())
    with pytest.raises(UserError, match="too few to hold some out"):
        LinearProbe(few, few)(tiny.encoder())
    with pytest.raises(UserError, match="did not converge in 1 steps; raise max_steps"):
        LinearProbe(train, test, strengths=(100.0,), max_steps=1)(tiny.encoder())
    with pytest.raises(ConfigError, match="strengths must be positive"):
        LinearProbe(train, test, strengths=(0.0,))
