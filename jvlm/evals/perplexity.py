"""Perplexity of the answers that the data has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Integer

from jvlm.evals.answerer import Answerer, Prompt
from jvlm.evals.metrics import RESAMPLES, AnswerScore
from jvlm.evals.questions import Data, by_type, read_questions


@dataclass(frozen=True)
class Perplexity:
    """exp(-mean log-probability) of the first answer's tokens, over all questions and per question type; lower is
    better.

    The interval draws pictures with replacement. Chance is the size of the vocabulary: every token as likely.
    """

    subject: ClassVar[str] = "answerer"

    data: Data
    limit: int | None = None
    types: Sequence[str] | None = None
    by: str = "question_type"

    def __call__(self, answerer: Answerer) -> dict[str, AnswerScore]:
        questions = read_questions(self.data, self.limit, self.types, self.by)
        texts = [answers[0] for answers in questions.answers]

        def likelihood(prompts: Sequence[Prompt]) -> tuple[np.ndarray, np.ndarray]:
            sums, counts = answerer.loglikelihood(prompts, texts)
            return np.asarray(sums, np.float64), np.asarray(counts, np.int64)

        seen, shuffled, removed = map(likelihood, (questions.prompts, questions.shuffled(), questions.removed()))
        out = {}
        for name, at in by_type(questions, "perplexity").items():
            value, other, none = (perplexity(sums[at], counts[at]) for sums, counts in (seen, shuffled, removed))
            low, high = interval(seen[0][at], seen[1][at], questions.groups[at])
            chance = float(answerer.vocab_size)
            out[name] = AnswerScore(value, min(low, value), max(high, value), chance, other, len(at), none)
        return out


def perplexity(sums: Float[np.ndarray, "n"], counts: Integer[np.ndarray, "n"]) -> float:
    """exp of the mean negative log-probability of all tokens together."""
    return float(np.exp(-sums.sum() / counts.sum()))


def interval(
    sums: Float[np.ndarray, "n"], counts: Integer[np.ndarray, "n"], groups: Integer[np.ndarray, "n"], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval when whole groups are drawn with replacement, `metrics.RESAMPLES` times."""
    _, group = np.unique(groups, return_inverse=True)
    total, tokens = np.bincount(group, sums), np.bincount(group, counts)
    draws = np.random.default_rng(seed).multinomial(len(total), np.full(len(total), 1 / len(total)), RESAMPLES)
    low, high = np.quantile(np.exp(-(draws @ total) / (draws @ tokens)), [0.025, 0.975])
    return float(low), float(high)
