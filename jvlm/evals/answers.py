"""Answers in the model's own words: VQA accuracy against ten annotators, and exact match."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jvlm.evals.answerer import Answerer, Prompt
from jvlm.evals.metrics import AnswerScore
from jvlm.evals.questions import Data, Questions, read_questions, scored
from jvlm.evals.vqa_text import exact_match, normalize_answer, simple, vqa_accuracy


@dataclass(frozen=True)
class VqaAccuracy:
    """The official VQA accuracy (`vqa_text.vqa_accuracy`), over all questions and per question type.

    `chance` is what the most common answer to a type's questions scores when it is given to all of them.
    """

    subject: ClassVar[str] = "answerer"

    data: Data
    limit: int | None = None
    types: Sequence[str] | None = None
    by: str = "question_type"
    max_new_tokens: int = 10

    def __call__(self, answerer: Answerer) -> dict[str, AnswerScore]:
        return _answered(self, answerer, vqa_accuracy, normalize_answer)


@dataclass(frozen=True)
class ExactMatch:
    """The fraction of answers that are one of those given, but for case, white space and a period at the end.

    `chance` as in `VqaAccuracy`.
    """

    subject: ClassVar[str] = "answerer"

    data: Data
    limit: int | None = None
    types: Sequence[str] | None = None
    by: str = "question_type"
    max_new_tokens: int = 16

    def __call__(self, answerer: Answerer) -> dict[str, AnswerScore]:
        return _answered(self, answerer, exact_match, simple)


def _answered(
    fields: VqaAccuracy | ExactMatch,
    answerer: Answerer,
    agreement: Callable[[str, Sequence[str]], float],
    normalize: Callable[[str], str],
) -> dict[str, AnswerScore]:
    questions = read_questions(fields.data, fields.limit, fields.types, fields.by)

    def score(prompts: Sequence[Prompt]) -> np.ndarray:
        texts = answerer.generate(prompts, fields.max_new_tokens)
        return np.asarray([agreement(text, answers) for text, answers in zip(texts, questions.answers, strict=True)])

    return scored(questions, score, lambda at: constant(questions, at, agreement, normalize))


def constant(
    questions: Questions,
    at: np.ndarray,
    agreement: Callable[[str, Sequence[str]], float],
    normalize: Callable[[str], str],
) -> float:
    """What the questions `at` score when each gets the most common answer to questions of its type."""
    total = 0.0
    types = np.asarray(questions.types)[at]
    for kind in np.unique(types):
        asked = [questions.answers[i] for i in at[types == kind]]
        common = Counter(normalize(answer) for answers in asked for answer in answers).most_common(1)[0][0]
        total += sum(agreement(common, answers) for answers in asked)
    return total / len(at)
