"""One suite scored: plain values, and what a report shows of it."""

from collections.abc import Callable
from typing import Any

from etils import epath

from jvlm.evals.encoder import Encoder
from jvlm.evals.examples import retrieval_examples, save_examples
from jvlm.evals.retrieval import Retrieval


def score(
    name: str, evaluator: Callable[..., Any], encoder: Encoder, examples: epath.PathLike | None = None
) -> dict[str, Any]:
    """`{metric: {value, low, high, chance, blind, n}}`; a retrieval leaves its examples in the folder `examples`."""
    if isinstance(evaluator, Retrieval) and examples is not None:
        embedded = evaluator.embed(encoder)
        save_examples(examples, name, retrieval_examples(embedded))
        scores = evaluator.scores(embedded, encoder.mesh)
    else:
        scores = evaluator(encoder)
    return {metric: value.to_dict() for metric, value in scores.items()}
