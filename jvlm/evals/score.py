"""One suite scored: plain values, and what a report shows of it."""

from collections.abc import Callable
from typing import Any, cast

from etils import epath

from jvlm.evals.answerer import Answerer
from jvlm.evals.clip_score import ClipScore
from jvlm.evals.encoder import Encoder
from jvlm.evals.examples import painted_examples, retrieval_examples, save_examples
from jvlm.evals.painter import Painter
from jvlm.evals.retrieval import Retrieval

Subject = Encoder | Answerer | Painter


def subject_of(evaluator: Callable[..., Any]) -> str:
    """What an evaluator is called with: an `encoder` (also as a `reconstructor`), `answerer` or `painter`."""
    return getattr(evaluator, "subject", "encoder")


def score(
    name: str, evaluator: Any, subject: Subject, examples: epath.PathLike | None = None, step: int = 0
) -> dict[str, Any]:
    """`{metric: {value, low, high, chance, blind, n}}`.

    A retrieval leaves its examples in the folder `examples`, painted pictures theirs of each `step`.
    """
    if examples is not None and isinstance(evaluator, Retrieval) and isinstance(subject, Encoder):
        embedded = evaluator.embed(subject)
        save_examples(examples, name, retrieval_examples(embedded))
        scores = evaluator.scores(embedded, subject.mesh)
    elif examples is not None and isinstance(evaluator, ClipScore) and isinstance(subject, Painter):
        judged = evaluator.judged(subject)
        save_examples(examples, f"{name}@{step:08d}", painted_examples(judged, evaluator.candidates))
        scores = evaluator.scores(judged)
    else:
        scores = cast(Callable[[Any], Any], evaluator)(subject)
    return {metric: value.to_dict() for metric, value in scores.items()}
