"""Embedded training and test pictures with their classes, for what is fitted on frozen embeddings."""

from typing import NamedTuple

import numpy as np

from jvlm.core.errors import UserError
from jvlm.evals.encoder import Encoder
from jvlm.evals.samples import Data, Samples, read_samples


class Labelled(NamedTuple):
    """Unit embeddings [n, E] and classes [n], numbered from 0 by the labels of the training data."""

    z: np.ndarray
    y: np.ndarray


def embed_labelled(encoder: Encoder, train: Data, test: Data) -> tuple[Labelled, Labelled, int]:
    """(train, test, number of classes). UserError for a test label that training never shows."""
    known, shown = read_samples(train), read_samples(test)
    if not len(known) or not len(shown):
        raise UserError(f"{'training' if not len(known) else 'test'} data has no samples")
    classes = np.unique(known.labels)
    if len(new := np.setdiff1d(shown.labels, classes)):
        raise UserError(f"label {new[0]} is in the test data, but not in the training data")

    def embed(samples: Samples) -> Labelled:
        return Labelled(encoder.images(samples.pictures), np.searchsorted(classes, samples.labels))

    return embed(known), embed(shown), len(classes)


def score_ranks(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How many other classes [n, c] score at least as high as the true one; NaN never hits."""
    own = scores[np.arange(len(y)), y][:, None]
    # The comparison is false for NaN on either side: such a class counts as ahead, the true one as itself.
    return (~(scores < own)).sum(axis=1) - 1
