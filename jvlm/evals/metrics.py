"""Scores with their intervals and chance levels: proportions, recalls with several positives, accuracies."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

UNSCALED = ("perplexity", "psnr", "fid", "kid")
"""Metrics that are no fractions: shown as they are. A name may go on after an underscore."""
Z95 = 1.959963984540054
RESAMPLES = 2000
BLIND_SEED = 0


@dataclass(frozen=True)
class Score:
    """A fraction in 0..1, or a value of `UNSCALED`, with its 95 % interval, beside guessing and the model blind.

    `blind` is the same metric recomputed with the pictures shuffled among the samples; `n` counts queries.
    """

    value: float
    low: float
    high: float
    chance: float
    blind: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def with_blind(self, blind: "Score") -> "Score":
        return replace(self, blind=blind.value)


def shown(metric: str, value: float) -> str:
    """A score as people read it: per cent, or a number with two decimals."""
    return f"{value:.2f}" if metric.partition("_")[0] in UNSCALED else f"{100 * value:.1f}"


@dataclass(frozen=True)
class AnswerScore(Score):
    """A score of a model that answers in words: `blind` with the pictures of other questions, `removed` with none."""

    removed: float


def wilson(value: float, n: int) -> tuple[float, float]:
    """95 % interval of a proportion `value` out of `n` independent trials (Wilson, JASA 22, 1927)."""
    if n <= 0:
        return 0.0, 1.0
    centre = (value + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(value * (1 - value) / n + Z95**2 / (4 * n * n))
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def cluster_bootstrap(
    hits: Float[np.ndarray, "n"], groups: Integer[np.ndarray, "n"], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of mean(hits) when queries of one group (one picture's captions) stand or fall together.

    Whole groups are drawn with replacement, 2,000 times. Where all draws agree, nothing can be learnt from drawing:
    the interval is then Wilson's for as many trials as there are groups.
    """
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, hits), np.bincount(group)
    draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES)
    means = (draws @ sums) / (draws @ counts)
    return _percentiles(means, float(hits.mean()), len(sums))


def class_bootstrap(
    hits: Float[np.ndarray, "n"], classes: Integer[np.ndarray, "n"], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean of per-class means, samples drawn with replacement within each class."""
    _, label = np.unique(classes, return_inverse=True)
    counts = np.bincount(label)
    rates = np.bincount(label, hits) / counts
    # Hits are 0 or 1, so drawing samples of a class with replacement is drawing from a binomial.
    draws = np.random.default_rng(seed).binomial(counts, rates, (RESAMPLES, len(counts)))
    return _percentiles((draws / counts).mean(axis=1), float(rates.mean()), len(hits))


def _percentiles(draws: np.ndarray, value: float, trials: int) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    if low == high:
        return wilson(value, trials)
    return min(value, float(low)), max(value, float(high))


def proportion(hits: Bool[np.ndarray, "n"], chance: float, groups: Integer[np.ndarray, "n"] | None = None) -> Score:
    """Mean of `hits`; Wilson's interval, or the cluster bootstrap when `groups` repeat. `blind` is NaN as yet."""
    n = len(hits)
    if n == 0:
        raise ValueError("a score needs at least one query")
    as_float = hits.astype(np.float64)
    value = float(as_float.mean())
    if groups is not None and len(np.unique(groups)) < n:
        low, high = cluster_bootstrap(as_float, groups)
    else:
        low, high = wilson(value, n)
    return Score(value, low, high, chance, math.nan, n)


def recall(
    ranks: Integer[np.ndarray, "n"],
    k: int,
    positives: Integer[np.ndarray, "n"],
    candidates: int,
    groups: Integer[np.ndarray, "n"] | None = None,
) -> Score:
    """Recall@k: the fraction of queries with one of their positives among the first k.

    `ranks` counts the candidates that are not positives and score at least as high as the best positive (so a tie
    counts against the model: a collapsed model scores 0). Chance is that of a random order, in closed form.
    """
    return proportion(ranks < k, recall_chance(k, positives, candidates), groups)


def recall_chance(k: int, positives: Integer[np.ndarray, "n"], candidates: int) -> float:
    """Mean over queries of 1 - C(M - P, k) / C(M, k): a positive among k of M drawn without replacement."""

    def one(count: int) -> float:
        if count == 0:
            return 0.0
        missed = 1.0
        for drawn in range(min(k, candidates)):
            missed *= max(0, candidates - count - drawn) / (candidates - drawn)
        return 1 - missed

    values, counts = np.unique(positives, return_counts=True)
    return float(sum(one(int(v)) * c for v, c in zip(values, counts)) / len(positives))


def class_scores(
    ranks: Integer[np.ndarray, "n"], labels: Integer[np.ndarray, "n"], classes: int, ks: Sequence[int] = (1, 5)
) -> dict[str, Score]:
    """`accuracy_top1`, `_top5` (k below the number of classes only) and `accuracy_per_class`, the mean over classes.

    `ranks` counts the classes that score at least as high as the true one.
    """
    scores = {f"accuracy_top{k}": proportion(ranks < k, k / classes) for k in ks if k < classes or k == 1}
    hits = (ranks < 1).astype(np.float64)
    _, label = np.unique(labels, return_inverse=True)
    value = float((np.bincount(label, hits) / np.bincount(label)).mean())
    low, high = class_bootstrap(hits, labels)
    scores["accuracy_per_class"] = Score(value, low, high, 1 / classes, math.nan, len(labels))
    return scores


def beside_blind(scores: dict[str, Score], blind: dict[str, Score]) -> dict[str, Score]:
    """Each score with the value of its blind twin."""
    return {name: score.with_blind(blind[name]) for name, score in scores.items()}


def shuffled(n: int) -> Integer[np.ndarray, "n"]:
    """The fixed permutation that takes pictures away from their samples."""
    return np.random.default_rng(BLIND_SEED).permutation(n)
