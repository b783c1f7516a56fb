"""A baseline without a model: retrieval by the nearest small picture of the training set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, Integer
from PIL import Image

from jvlm.core.errors import UserError
from jvlm.data.image_ops import Picture, read_picture
from jvlm.evals.metrics import Score, beside_blind, shuffled
from jvlm.evals.retrieval import recalls
from jvlm.evals.samples import Data, read_samples


@dataclass(frozen=True)
class NearestPixels:
    """What retrieval over labels scores when a caption is known by its label's training pictures alone.

    Pictures are shrunk to `side` x `side` RGB and compared by correlation, which does better than distance. A picture
    and a caption are as close as the picture and the most similar of the caption's training pictures.
    """

    data: Data
    train: Data
    side: int = 12
    ks: Sequence[int] = (1, 5, 10)

    def __call__(self, encoder: Any = None) -> dict[str, Score]:
        shown, known = read_samples(self.data), read_samples(self.train)
        labels = np.unique(shown.labels)
        known = known.take(np.flatnonzero(np.isin(known.labels, labels)))
        if missing := set(labels.tolist()) - set(known.labels.tolist()):
            raise UserError(f"nearest pixels: label {min(missing)} has no training picture")
        closeness = pixel_similarity(
            small_pixels(shown.pictures, self.side), small_pixels(known.pictures, self.side), known.labels, labels
        )

        def both(closeness: np.ndarray) -> dict[str, Score]:
            own = shown.labels[:, None] == labels
            return recalls(
                matrix_ranks(closeness, own), matrix_ranks(closeness.T, own.T), shown.labels, labels, self.ks
            )

        return beside_blind(both(closeness), both(closeness[shuffled(len(closeness))]))


def small_pixels(pictures: Iterable[Picture], side: int) -> Float[np.ndarray, "n P"]:
    """Pictures as `side` x `side` RGB, flattened, less their mean, of unit norm (zero for a picture of one colour)."""

    def one(picture: Picture) -> np.ndarray:
        small = read_picture(picture).resize((side, side), Image.Resampling.BOX)
        flat = np.asarray(small, np.float64).reshape(-1)
        flat = flat - flat.mean()
        return flat / max(float(np.linalg.norm(flat)), 1e-12)

    return np.stack([one(picture) for picture in pictures])


def pixel_similarity(
    shown: Float[np.ndarray, "n P"],
    known: Float[np.ndarray, "m P"],
    known_labels: Int64[np.ndarray, "m"],
    labels: Int64[np.ndarray, "c"],
) -> Float[np.ndarray, "n c"]:
    """Correlation of each picture with the most similar known picture of each label."""
    correlation = shown @ known.T
    return np.stack([correlation[:, known_labels == label].max(axis=1) for label in labels], axis=1)


def matrix_ranks(similarity: Float[np.ndarray, "n m"], own: Bool[np.ndarray, "n m"]) -> Integer[np.ndarray, "n"]:
    """How many columns not its own score at least as high as the best of a row's own columns."""
    best = np.where(own, similarity, -np.inf).max(axis=1, keepdims=True)
    return (~own & ~(similarity < best)).sum(axis=1)
