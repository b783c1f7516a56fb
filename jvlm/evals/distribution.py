"""How near painted pictures are to real ones as a whole: distances between the features of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jvlm.core.errors import ConfigError, UserError
from jvlm.evals.metrics import Score, proportion
from jvlm.evals.painter import How, Painter
from jvlm.evals.samples import Data, evenly, read_samples

RESAMPLES, SEED = 200, 0
Features = Float[np.ndarray, "_ E"]


@dataclass(frozen=True, kw_only=True)
class Distribution(How):
    """FID, KID, precision and recall of pictures painted from captions, against the pictures of `data`.

    `features` is the directory of a vision tower, or of a model with one; with other features than Inception's the
    numbers compare with each other only. The captions are the first of each sample, `limit` samples evenly spaced. None
    of the four looks at which picture belongs to which caption, so `blind` is the value itself; `chance` is what
    pictures of noise score. The rest are fields of `How`.
    """

    features: str
    data: Data
    keys: Sequence[str] | None = None
    limit: int | None = None
    neighbours: int = 3

    subject: ClassVar[str] = "painter"

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigError(f"distribution: {self.neighbours} neighbours; give at least 1")

    def __call__(self, painter: Painter) -> dict[str, Score]:
        samples = read_samples(self.data, self.keys)
        samples = samples.take(evenly(len(samples), self.limit or len(samples)))
        if len(samples) <= self.neighbours + 1:
            raise UserError(f"distribution: {len(samples)} pictures in the data; give more than {self.neighbours + 1}")
        if missing := [key for key, some in zip(samples.keys, samples.captions) if not some]:
            raise UserError(f"distribution: sample {missing[0]!r} has no caption to paint from")
        tower = painter.tower(self.features)
        painted = painter.paint([some[0] for some in samples.captions], self.how)
        noise = np.random.default_rng(SEED).integers(0, 256, painted.shape, np.uint8)
        real, made, none = (
            tower.images(pictures).astype(np.float64) for pictures in (samples.pictures, list(painted), list(noise))
        )
        return distribution_scores(real, made, none, self.neighbours)


def distribution_scores(real: Features, made: Features, none: Features, neighbours: int) -> dict[str, Score]:
    """`fid`, `kid`, `precision`, `recall` of `made`; those of `none` are their chance.

    The intervals of the distances are basic bootstrap intervals over pictures of both, those of the shares Wilson's.
    """
    out = {}
    for name, distance in (("fid", frechet_distance), ("kid", kernel_distance)):
        value = distance(real, made)
        rng = np.random.default_rng(SEED)
        draws = [distance(*(x[rng.integers(0, len(x), len(x))] for x in (real, made))) for _ in range(RESAMPLES)]
        # A sample drawn with replacement is farther from the other than the pictures themselves: reflected, not taken.
        high, low = 2 * value - np.quantile(draws, [0.025, 0.975])
        low, high = min(value, float(low)), max(value, float(high))
        out[name] = Score(value, low, high, distance(real, none), value, len(made))
    for name, pair, other in (("precision", (real, made), (real, none)), ("recall", (made, real), (none, real))):
        found = proportion(covered(*pair, neighbours), float(covered(*other, neighbours).mean()))
        out[name] = found.with_blind(found)
    return out


def frechet_distance(a: Features, b: Features) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of means and covariances (Heusel et al., arXiv:1706.08500, eq. 6)."""
    (m1, c1), (m2, c2) = ((x.mean(0), np.cov(x, rowvar=False).reshape(x.shape[1], -1)) for x in (a, b))
    values, vectors = np.linalg.eigh(c1)
    root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
    # The product's eigenvalues are those of root C2 root, which is symmetric.
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c2 @ root), 0.0)).sum()
    return float(np.square(m1 - m2).sum() + np.trace(c1) + np.trace(c2) - 2 * cross)


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased squared maximum mean discrepancy under (x.y / E + 1)^3 (Binkowski et al., arXiv:1801.01401, section 4).

    It may be below 0, where both are alike.
    """

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1.0) ** 3

    def within(x: np.ndarray) -> float:
        k = kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def covered(known: Features, asked: Features, neighbours: int) -> np.ndarray:
    """Which of `asked` lie in the manifold of `known`: as near to some known point as that one's k-th neighbour is.

    Of painted pictures in the manifold of real ones the share is their precision, the other way round their recall
    (Kynkaanniemi et al., arXiv:1904.06991, eq. 1 and 2).
    """

    def squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.maximum(np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T, 0.0)

    own = squares(known, known)
    np.fill_diagonal(own, 0.0)
    radius = np.sort(own, axis=1)[:, neighbours]  # the nearest is the point itself
    return np.any(squares(asked, known) <= radius, axis=1)
