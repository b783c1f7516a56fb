"""Questions about pictures as evaluators ask them: seen, with another question's pictures, and with none at all."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from jvlm.core import build
from jvlm.core.errors import UserError
from jvlm.data import DATASETS
from jvlm.data.conversations import Conversation, ConversationSource
from jvlm.data.image_ops import Picture
from jvlm.data.shuffle import permutation
from jvlm.evals.answerer import Prompt
from jvlm.evals.metrics import BLIND_SEED, AnswerScore, cluster_bootstrap, wilson

Data = Mapping[str, Any] | ConversationSource
OVERALL = "accuracy"


@dataclass(frozen=True)
class Questions:
    """`prompts`, what may be answered to each, its type ("" when the data has none), and a number for its pictures."""

    prompts: tuple[Prompt, ...]
    answers: tuple[tuple[str, ...], ...]
    choices: tuple[tuple[str, ...], ...]
    types: tuple[str, ...]
    groups: np.ndarray
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def removed(self) -> tuple[Prompt, ...]:
        """The prompts without their pictures."""
        return tuple(Prompt([_without(m) for m in prompt.messages]) for prompt in self.prompts)

    def shuffled(self) -> tuple[Prompt, ...]:
        """The prompts with the pictures of another question, never a question's own.

        Sets of pictures trade places with sets of as many; one that has no other to trade with stays.
        """
        first = {int(g): at for at, g in reversed(list(enumerate(self.groups)))}
        other: dict[int, int] = {}
        sizes = {group: len(self.prompts[at].pictures) for group, at in first.items()}
        for size in set(sizes.values()):
            alike = sorted(group for group in sizes if sizes[group] == size)
            cycle = [alike[i] for i in permutation(len(alike), BLIND_SEED)]
            other |= dict(zip(cycle, cycle[1:] + cycle[:1]))
        return tuple(
            prompt._replace(pictures=self.prompts[first[other[int(group)]]].pictures)
            for prompt, group in zip(self.prompts, self.groups)
        )


def read_questions(
    data: Data, limit: int | None = None, types: Sequence[str] | None = None, by: str = "question_type"
) -> Questions:
    """The questions of a source of conversations, `limit` of them drawn evenly, those of `types` alone if given.

    A question's type is `extra[by]` (VQAv2 has `question_type` and `answer_type`). The last message of the assistant is
    what is asked for; `extra["answers"]` says what counts as right, else that message does. UserError for captioned
    pictures, and for a question nobody answers.
    """
    source = _open(data)
    found: list[tuple[Conversation, list[dict[str, Any]], tuple[str, ...]]] = []
    for at in range(len(source)):
        conversation: Any = source[at]
        if not isinstance(conversation, Conversation):
            raise UserError("the data holds captioned pictures, not questions; wrap it in the dataset 'captioned'")
        if types is None or conversation.extra.get(by) in types:
            messages, answers = _asked(conversation)
            found.append((conversation, messages, answers))
    if limit is not None and limit < len(found):
        found = [found[i] for i in np.sort(permutation(len(found), BLIND_SEED)[:limit])]
    if not found:
        raise UserError("the data holds no questions" + (f" of type {', '.join(types)}" if types else ""))
    numbers: dict[tuple[str, ...], int] = {}
    groups = [numbers.setdefault(tuple(map(_identity, c.images)), len(numbers)) for c, _, _ in found]
    return Questions(
        prompts=tuple(Prompt(messages, tuple(c.images)) for c, messages, _ in found),
        answers=tuple(answers for _, _, answers in found),
        choices=tuple(tuple(c.extra.get("choices", ())) for c, _, _ in found),
        types=tuple(str(c.extra.get(by, "")) for c, _, _ in found),
        groups=np.asarray(groups, np.int64),
        keys=tuple(c.key for c, _, _ in found),
    )


def scored(
    questions: Questions,
    score: Callable[[Sequence[Prompt]], Float[np.ndarray, "n"]],
    chance: Callable[[Integer[np.ndarray, "k"]], float],
    name: str = OVERALL,
) -> dict[str, AnswerScore]:
    """`name` over all questions and `name_TYPE` over those of each type, each beside its two blind columns.

    `score` gives each prompt a value in 0..1, `chance` what guessing gives among the questions with these numbers.
    Questions about one picture stand or fall together in the intervals.
    """
    seen, shuffled, removed = (score(p) for p in (questions.prompts, questions.shuffled(), questions.removed()))
    return {
        metric: _mean(at, seen, shuffled, removed, questions.groups, chance(at))
        for metric, at in by_type(questions, name).items()
    }


def by_type(questions: Questions, name: str) -> dict[str, np.ndarray]:
    """The numbers of all questions under `name`, and of each type's under `name_TYPE` where there are several types."""
    kinds = sorted(set(questions.types))
    out = {name: np.arange(len(questions))}
    if len(kinds) > 1:
        types = np.asarray(questions.types)
        out |= {f"{name}_{'_'.join(kind.split()) or 'other'}": np.flatnonzero(types == kind) for kind in kinds}
    return out


def _mean(
    at: np.ndarray, seen: np.ndarray, shuffled: np.ndarray, removed: np.ndarray, groups: np.ndarray, chance: float
) -> AnswerScore:
    values, n = seen[at], len(at)
    value = float(values.mean())
    binary = bool(np.isin(values, (0.0, 1.0)).all())
    if binary and len(np.unique(groups[at])) == n:
        low, high = wilson(value, n)
    else:
        low, high = cluster_bootstrap(values, groups[at])
    return AnswerScore(value, low, high, chance, float(shuffled[at].mean()), n, float(removed[at].mean()))


def _asked(conversation: Conversation) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    messages = list(conversation.messages)
    said = None
    if messages and messages[-1]["role"] == "assistant":
        said = "".join(part.get("text", "") for part in messages.pop()["content"]).strip()
    answers = tuple(conversation.extra.get("answers") or ([said] if said else []))
    if not answers or not messages:
        raise UserError(f"{conversation.key}: a question without an answer; an evaluation needs one for each")
    return messages, answers


def _without(message: Mapping[str, Any]) -> dict[str, Any]:
    return {**message, "content": [part for part in message["content"] if part["type"] != "image"]}


def _identity(picture: Picture) -> str:
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).hexdigest()
    return os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else str(id(picture))


def _open(data: Data) -> Any:
    if not isinstance(data, Mapping):
        return data
    fields = dict(data)
    name = fields.pop("name", "?")
    return build.call(build.lookup(DATASETS, name, "dataset"), fields, f"dataset {name!r}")
