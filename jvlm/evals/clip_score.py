"""How well painted pictures show their prompts, as a dual encoder sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8

from jvlm.core.errors import ConfigError, UserError
from jvlm.evals.metrics import Score, beside_blind, cluster_bootstrap, proportion, recall_chance, shuffled
from jvlm.evals.nearest_pixels import matrix_ranks
from jvlm.evals.painter import How, Painter
from jvlm.evals.samples import Data, evenly, read_samples


class Judged(NamedTuple):
    """Pictures [n, H, W, 3], their prompts, and what the judge makes of both, [n, E] each of unit norm."""

    pictures: UInt8[np.ndarray, "n H W 3"]
    prompts: tuple[str, ...]
    zimg: Float32[np.ndarray, "n E"]
    ztxt: Float32[np.ndarray, "n E"]


@dataclass(frozen=True, kw_only=True)
class ClipScore(How):
    """CLIPScore (Hessel et al., arXiv:2104.08718, eq. 1, without its constant factor) of pictures painted from prompts.

    The prompts are the first captions of `data`, each once, `limit` of them evenly spaced. `judge` is the directory of
    the dual encoder. Beside the score: by how much it exceeds that of the same pictures with shuffled prompts, and how
    often the judge ranks a picture's own prompt among the first k of `candidates`. The rest are fields of `How`.
    """

    judge: str
    data: Data
    keys: Sequence[str] | None = None
    limit: int | None = None
    candidates: int = 100
    ks: Sequence[int] = (1, 10)

    subject: ClassVar[str] = "painter"

    def __post_init__(self) -> None:
        if self.candidates < 2 or (self.limit is not None and self.limit < 2):
            raise ConfigError(f"clip_score: {self.candidates} candidates, limit {self.limit}; give at least 2")

    def __call__(self, painter: Painter) -> dict[str, Score]:
        return self.scores(self.judged(painter))

    def prompts(self) -> tuple[str, ...]:
        """What is painted. UserError where the data has fewer than two different captions."""
        captions = read_samples(self.data, self.keys).captions
        texts = list(dict.fromkeys(some[0] for some in captions if some))
        if len(texts) < 2:
            raise UserError(f"clip_score: {len(texts)} captions in the data; a comparison takes two")
        return tuple(texts[at] for at in evenly(len(texts), self.limit or len(texts)))

    def judged(self, painter: Painter) -> Judged:
        """What `scores` compares, for a caller that shows the pictures too."""
        judge, prompts = painter.judge(self.judge), self.prompts()
        pictures = painter.paint(prompts, self.how)
        return Judged(pictures, prompts, judge.images(list(pictures)), judge.texts(prompts))

    def scores(self, judged: Judged) -> dict[str, Score]:
        """`clip_score`, `clip_score_margin`, `prompt_r1`, ...; blind: the pictures shuffled among the prompts."""
        similarity = judged.zimg.astype(np.float64) @ judged.ztxt.T.astype(np.float64)
        blind = similarity[shuffled(len(similarity))]
        return beside_blind(*(prompt_scores(s, self.candidates, self.ks) for s in (similarity, blind)))


def prompt_scores(similarity: Float[np.ndarray, "n n"], candidates: int, ks: Sequence[int]) -> dict[str, Score]:
    """Scores of the cosines of pictures (rows) and prompts, whose own are on the diagonal.

    `clip_score` is the mean of max(cosine, 0), its chance that of all pairs that do not belong together. The margin is
    a picture's own score less the mean of its others, which is the mean over all shuffles of the prompts. Intervals of
    both are bootstrapped over pictures.
    """
    n = len(similarity)
    positive = np.maximum(similarity, 0.0)
    own = positive.diagonal()
    margin = own - (positive.sum(axis=1) - own) / (n - 1)
    every = np.arange(n)
    out = {}
    for name, values, chance in (("clip_score", own, float((own - margin).mean())), ("clip_score_margin", margin, 0.0)):
        low, high = cluster_bootstrap(values, every)
        out[name] = Score(float(values.mean()), low, high, chance, float("nan"), n)
    ranks, sizes = prompt_ranks(similarity, candidates)
    for k in ks:
        ones = np.ones(1, np.int64)
        chance = float(np.mean([recall_chance(k, ones, int(size)) for size in sizes]))
        out[f"prompt_r{k}"] = proportion(ranks < k, chance)
    return out


def prompt_ranks(
    similarity: Float[np.ndarray, "n n"], candidates: int
) -> tuple[Integer[np.ndarray, "n"], Integer[np.ndarray, "n"]]:
    """How many of the prompts beside a picture's own score at least as high, and among how many prompts that is.

    The prompts are taken `candidates` at a time, in their order.
    """
    ranks, sizes = [], []
    for first in range(0, len(similarity), candidates):
        part = similarity[first : first + candidates, first : first + candidates]
        ranks.append(matrix_ranks(part, np.eye(len(part), dtype=bool)))
        sizes.append(np.full(len(part), len(part)))
    return np.concatenate(ranks), np.concatenate(sizes)
