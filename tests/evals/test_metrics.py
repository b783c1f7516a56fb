"""Values against brute force and closed forms; intervals against their definitions."""

import itertools
import math

import numpy as np
import pytest

from jvlm.evals import metrics


def test_recall_chance_is_the_mean_over_all_orders() -> None:
    for k, (positives, candidates) in itertools.product((1, 2, 4), [(1, 5), (2, 5), (5, 5), (0, 5)]):
        draws = list(itertools.combinations(range(candidates), k))
        brute = np.mean([any(c < positives for c in draw) for draw in draws])
        assert metrics.recall_chance(k, np.asarray([positives]), candidates) == pytest.approx(brute)
    mixed = metrics.recall_chance(1, np.asarray([1, 2, 2]), 4)
    assert mixed == pytest.approx((0.25 + 0.5 + 0.5) / 3)


def test_more_places_than_candidates_always_hits() -> None:
    assert metrics.recall_chance(10, np.asarray([1]), 3) == 1.0


def test_wilson_solves_its_equation() -> None:
    # The interval's ends are the p at which the observed value lies z standard errors away.
    for hits, n in [(3, 10), (57, 400), (10, 10), (0, 7)]:
        value = hits / n
        low, high = metrics.wilson(value, n)
        for p in (low, high):
            if 0 < p < 1:
                assert abs(value - p) == pytest.approx(metrics.Z95 * math.sqrt(p * (1 - p) / n), abs=1e-9)
        assert 0 <= low <= value <= high <= 1


def test_wilson_covers_about_95_percent() -> None:
    draws = np.random.default_rng(0).binomial(50, 0.3, 4000) / 50
    covered = np.mean([low <= 0.3 <= high for low, high in (metrics.wilson(v, 50) for v in draws)])
    assert 0.93 < covered < 0.97


def test_clusters_widen_the_interval_as_their_size_says() -> None:
    rng = np.random.default_rng(0)
    one = (rng.random(200) < 0.4).astype(float)
    groups = np.repeat(np.arange(200), 5)
    low, high = metrics.cluster_bootstrap(np.repeat(one, 5), groups)
    assert high - low == pytest.approx(2 * 1.96 * one.std() / math.sqrt(200), rel=0.1)
    assert metrics.cluster_bootstrap(np.repeat(one, 5), groups) == (low, high)


def test_an_interval_never_collapses_where_all_or_none_hit() -> None:
    for value in (False, True):
        score = metrics.proportion(np.full(10, value), 0.1, groups=np.repeat(np.arange(5), 2))
        assert (score.low, score.high) == metrics.wilson(float(value), 5)
        assert score.high - score.low > 0.3


def test_proportion_uses_wilson_for_single_queries() -> None:
    hits = np.asarray([True, False, True, True])
    score = metrics.proportion(hits, 0.25, groups=np.arange(4))
    assert (score.low, score.high) == metrics.wilson(0.75, 4)
    assert (score.value, score.chance, score.n) == (0.75, 0.25, 4)
    assert math.isnan(score.blind)


def test_class_scores_by_hand() -> None:
    labels = np.asarray([0, 0, 0, 1])
    ranks = np.asarray([0, 0, 3, 1])
    scores = metrics.class_scores(ranks, labels, classes=6)
    assert scores["accuracy_top1"].value == 0.5
    assert scores["accuracy_top5"].value == 1.0
    assert scores["accuracy_top5"].chance == pytest.approx(5 / 6)
    assert scores["accuracy_per_class"].value == pytest.approx((2 / 3 + 0) / 2)
    assert scores["accuracy_per_class"].low <= 1 / 3 <= scores["accuracy_per_class"].high


def test_class_bootstrap_is_stratified() -> None:
    # 1000 samples of a class always right and 10 of one right half the time: all spread comes from the ten.
    hits = np.concatenate([np.ones(1000), np.tile([0.0, 1.0], 5)])
    low, high = metrics.class_bootstrap(hits, np.repeat([0, 1], [1000, 10]))
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 10) / 2, rel=0.15)


def test_recall_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        metrics.proportion(np.zeros(0, bool), 0.5)
