"""One suite scored: plain values, and what a report shows of it."""

from collections.abc import Callable
from typing import Any, cast

from etils import epath

from jvlm.evals.answerer import Answerer
from jvlm.evals.encoder import Encoder
from jvlm.evals.examples import retrieval_examples, save_examples
from jvlm.evals.retrieval import Retrieval


def asks(evaluator: Callable[..., Any]) -> bool:
    """Whether an evaluator wants an `Answerer` rather than an `Encoder`."""
    return getattr(evaluator, "asks", False)


def score(
    name: str, evaluator: Any, subject: Encoder | Answerer, examples: epath.PathLike | None = None
) -> dict[str, Any]:
    """`{metric: {value, low, high, chance, blind, n}}`; a retrieval leaves its examples in the folder `examples`."""
    if isinstance(evaluator, Retrieval) and examples is not None and isinstance(subject, Encoder):
        embedded = evaluator.embed(subject)
        save_examples(examples, name, retrieval_examples(embedded))
        scores = evaluator.scores(embedded, subject.mesh)
    else:
        scores = cast(Callable[[Any], Any], evaluator)(subject)
    return {metric: value.to_dict() for metric, value in scores.items()}
