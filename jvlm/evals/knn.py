"""Weighted nearest neighbours on frozen embeddings."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from jvlm.evals.blocks import nearest
from jvlm.evals.encoder import Encoder
from jvlm.evals.labelled import embed_labelled, score_ranks
from jvlm.evals.metrics import Score, beside_blind, class_scores, shuffled
from jvlm.evals.samples import Data

CHUNK = 4096


@dataclass(frozen=True)
class NearestNeighbours:
    """k-NN classification: each of the `k` most similar training pictures votes exp(similarity / temperature).

    As in instance discrimination (Wu et al., arXiv:1805.01978, section 3.4) and DINO (arXiv:2104.14294, section 4.1:
    k = 20, temperature 0.07). With fewer training pictures than `k` all of them vote.
    """

    train: Data
    data: Data
    k: int = 20
    temperature: float = 0.07

    def __call__(self, encoder: Encoder) -> dict[str, Score]:
        known, shown, classes = embed_labelled(encoder, self.train, self.data)

        def score(z: np.ndarray) -> dict[str, Score]:
            similarity, at = nearest(z, known.z, min(self.k, len(known.z)), encoder.mesh)
            found = vote_ranks(similarity, known.y[at], shown.y, classes, self.temperature)
            return class_scores(found, shown.y, classes)

        return beside_blind(score(shown.z), score(shown.z[shuffled(len(shown.z))]))


def vote_ranks(
    similarity: Float[np.ndarray, "n k"],
    voted: Integer[np.ndarray, "n k"],
    y: Integer[np.ndarray, "n"],
    classes: int,
    temperature: float,
) -> Integer[np.ndarray, "n"]:
    """How many other classes have at least as many votes as the true one; without a vote it is behind all."""
    out = []
    for start in range(0, len(y), CHUNK):
        part = slice(start, start + CHUNK)
        # Relative to the best neighbour: the same order of classes, and no overflow at a low temperature.
        close = similarity[part].astype(np.float64)
        weight = np.exp((close - close[:, :1]) / temperature)
        votes = np.zeros((len(weight), classes))
        np.add.at(votes, (np.arange(len(weight))[:, None], voted[part]), weight)
        out.append(score_ranks(votes, y[part]))
    return np.concatenate(out)
