"""Blockwise ranks and neighbours equal the whole matrix, on any mesh, with ties and NaN."""

import jax
import numpy as np
import pytest

from jvlm.core.sharding import make_mesh
from jvlm.evals.blocks import TIE, nearest, ranks


def unit(rng: np.random.Generator, n: int, dim: int = 6) -> np.ndarray:
    z = rng.normal(size=(n, dim)).astype(np.float32)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def brute_ranks(queries: np.ndarray, candidates: np.ndarray, qid: np.ndarray, cid: np.ndarray) -> list[int]:
    out = []
    for q, i in zip(queries, qid):
        scores = [float(np.dot(q.astype(np.float64), c)) for c in candidates]
        own = [s for s, j in zip(scores, cid) if j == i and not np.isnan(s)]
        best = max(own, default=-np.inf)
        out.append(sum(1 for s, j in zip(scores, cid) if j != i and not s < best - TIE))
    return out


def mesh(devices: int):
    return make_mesh({"data": -1}, jax.devices()[:devices])


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("block", [(1024, 8192), (8, 5), (3, 1)])
def test_ranks_equal_brute_force_with_several_positives(devices: int, block: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    q, c = unit(rng, 21), unit(rng, 33)
    qid, cid = rng.integers(0, 9, 21), np.concatenate([np.arange(9), rng.integers(0, 9, 24)])
    assert ranks(q, c, qid, cid, mesh(devices), block=block).tolist() == brute_ranks(q, c, qid, cid)


def test_ties_count_against_the_model() -> None:
    same = np.tile(unit(np.random.default_rng(0), 1), (5, 1))
    ids = np.arange(5)
    assert ranks(same, same, ids, ids, mesh(1)).tolist() == [4] * 5


def test_nan_never_hits() -> None:
    rng = np.random.default_rng(2)
    z = unit(rng, 6)
    ids = np.arange(6)
    broken = z.copy()
    broken[2] = np.nan
    out = ranks(z, broken, ids, ids, mesh(2))
    assert out[2] >= 5  # its own candidate is NaN
    assert out.tolist()[:2] == [1, 1]  # the NaN counts as ahead of everybody else's
    assert (ranks(broken, z, ids, ids, mesh(2))[2]) >= 5


def test_one_nan_among_several_positives_leaves_the_others() -> None:
    z = unit(np.random.default_rng(2), 4)
    candidates = np.concatenate([z, np.full((1, 6), np.nan, np.float32)])
    out = ranks(z, candidates, np.arange(4), np.asarray([0, 1, 2, 3, 0]), mesh(1))
    assert out.tolist() == [0, 1, 1, 1]  # the NaN is one of the first query's own, and ahead of the others'


def test_a_query_without_a_candidate_of_its_own_is_behind_all() -> None:
    z = unit(np.random.default_rng(3), 4)
    assert ranks(z[:1], z[1:], np.asarray([0]), np.asarray([1, 2, 3]), mesh(1))[0] >= 3


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("block", [(1024, 8192), (4, 7), (2, 1)])
def test_nearest_equals_sorting(devices: int, block: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    q, c = unit(rng, 13), unit(rng, 29)
    values, at = nearest(q, c, 5, mesh(devices), block=block)
    whole = q @ c.T
    expected = np.argsort(-whole, axis=1)[:, :5]
    assert at.tolist() == expected.tolist()
    np.testing.assert_allclose(values, np.take_along_axis(whole, expected, 1), atol=1e-6)


def test_nearest_puts_nan_last_and_names_every_candidate_once() -> None:
    c = unit(np.random.default_rng(5), 7)
    c[3] = np.nan
    _, at = nearest(c[:1], c, 7, mesh(1), block=(4, 2))
    assert sorted(at[0].tolist()) == list(range(7))
    assert at[0, -1] == 3


def test_more_neighbours_than_candidates_is_an_error() -> None:
    z = unit(np.random.default_rng(6), 3)
    with pytest.raises(ValueError, match="k = 4 of 3"):
        nearest(z, z, 4, mesh(1))
