"""Multiple choice by likelihood: the model picks the choice that it would most likely have said."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from jvlm.core.errors import ConfigError, UserError
from jvlm.evals.answerer import Answerer, Prompt
from jvlm.evals.metrics import AnswerScore
from jvlm.evals.questions import Data, read_questions, scored
from jvlm.evals.vqa_text import simple


@dataclass(frozen=True)
class MultipleChoice:
    """The fraction of questions whose right choice is the most likely; a tie with a wrong one does not count.

    Choices are the data's `choices`, or `choices` for every question. `per` compares log-likelihoods of the whole
    choice ("choice") or of its mean token ("token"), which does not favour the short ones. Chance is one in as many as
    there are choices.
    """

    subject: ClassVar[str] = "answerer"

    data: Data
    choices: Sequence[str] | None = None
    per: str = "choice"
    limit: int | None = None
    types: Sequence[str] | None = None
    by: str = "question_type"

    def __post_init__(self) -> None:
        if self.per not in ("choice", "token"):
            raise ConfigError(f"multiple choice per {self.per!r} is unknown; valid names: choice, token")

    def __call__(self, answerer: Answerer) -> dict[str, AnswerScore]:
        questions = read_questions(self.data, self.limit, self.types, self.by)
        choices = [tuple(self.choices or own) for own in questions.choices]
        right = [
            np.asarray([simple(choice) in set(map(simple, answers)) for choice in own], bool)
            for own, answers in zip(choices, questions.answers)
        ]
        for key, own, hits in zip(questions.keys, choices, right):
            if len(own) < 2 or not hits.any():
                what = "fewer than two choices" if len(own) < 2 else "no right choice"
                raise UserError(f"{key}: {what}; give the data's choices, or choices of your own")

        def score(prompts: Sequence[Prompt]) -> np.ndarray:
            pairs = [(prompt, choice) for prompt, own in zip(prompts, choices) for choice in own]
            sums, counts = answerer.loglikelihood([p for p, _ in pairs], [c for _, c in pairs])
            likely = sums / np.maximum(counts, 1) if self.per == "token" else sums
            ends = np.cumsum([len(own) for own in choices])[:-1]
            return np.asarray([picked(s, hits) for s, hits in zip(np.split(likely, ends), right)])

        share = np.asarray([hits.mean() for hits in right])
        return scored(questions, score, lambda at: float(share[at].mean()))


def picked(likely: Float[np.ndarray, "c"], right: np.ndarray) -> float:
    """1 where a right choice is more likely than every wrong one; NaN never wins."""
    wrong = likely[~right]
    best = likely[right].max()
    return float(bool((best > wrong).all()))
