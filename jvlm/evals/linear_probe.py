"""Linear probe: a logistic regression on frozen embeddings, its strength chosen on held-out training pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from jvlm.core.errors import ConfigError, UserError
from jvlm.evals.encoder import Encoder
from jvlm.evals.labelled import Labelled, embed_labelled, score_ranks
from jvlm.evals.logistic import Logistic, fit_logistic
from jvlm.evals.metrics import Score, beside_blind, class_scores, shuffled
from jvlm.evals.samples import Data

CHUNK = 4096


@dataclass(frozen=True)
class LinearProbe:
    """Accuracy of an L2-regularized logistic regression (arXiv:2103.00020, appendix A.3).

    `strengths` are scikit-learn's C for unit-norm embeddings, tried from weak to strong on a fixed random
    `validation_share` of the training data; the best (the weakest of equals) is fitted again on all of it. The sweep
    ends before the first strength whose fit does not converge in `max_steps`.
    """

    train: Data
    data: Data
    strengths: Sequence[float] = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
    validation_share: float = 0.2
    seed: int = 0
    tolerance: float = 1e-4
    max_steps: int = 1000

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) <= 0 or not 0 < self.validation_share < 1:
            raise ConfigError("linear_probe: strengths must be positive, validation_share between 0 and 1")

    def __call__(self, encoder: Encoder) -> dict[str, Score]:
        known, shown, classes = embed_labelled(encoder, self.train, self.data)
        c = self.choose(known, classes, encoder.mesh)
        probe = self.fit(known, classes, c, encoder.mesh)
        if probe.gradient > self.tolerance:
            raise UserError(f"linear_probe: C = {c:g} did not converge in {probe.steps} steps; raise max_steps")

        def score(z: np.ndarray) -> dict[str, Score]:
            return class_scores(logit_ranks(probe, z, shown.y), shown.y, classes)

        return beside_blind(score(shown.z), score(shown.z[shuffled(len(shown.z))]))

    def choose(self, known: Labelled, classes: int, mesh: Mesh) -> float:
        """The strength with the best accuracy on the validation part; each fit starts from the weaker one's."""
        if len(self.strengths) == 1:
            return self.strengths[0]
        held = round(self.validation_share * len(known.y))
        if not 0 < held < len(known.y):
            raise UserError(f"linear_probe: {len(known.y)} training samples are too few to hold some out")
        order = np.random.default_rng(self.seed).permutation(len(known.y))
        validation, rest = order[:held], order[held:]
        part = Labelled(known.z[rest], known.y[rest])
        best, chosen, probe = -1.0, self.strengths[0], None
        for c in sorted(self.strengths):
            probe = self.fit(part, classes, c, mesh, probe)
            if probe.gradient > self.tolerance:
                break
            accuracy = float((logit_ranks(probe, known.z[validation], known.y[validation]) < 1).mean())
            if accuracy > best:
                best, chosen = accuracy, c
        return chosen

    def fit(self, known: Labelled, classes: int, c: float, mesh: Mesh, start: Logistic | None = None) -> Logistic:
        """The regression on `known`."""
        return fit_logistic(
            known.z, known.y, classes, c, mesh, start=start, tolerance=self.tolerance, max_steps=self.max_steps
        )


def logit_ranks(probe: Logistic, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How many other classes' logits reach the true one's, a chunk of rows at a time."""
    parts = [
        score_ranks(probe.logits(z[start : start + CHUNK]), y[start : start + CHUNK])
        for start in range(0, len(y), CHUNK)
    ]
    return np.concatenate(parts)
