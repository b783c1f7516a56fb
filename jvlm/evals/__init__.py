"""Every evaluator, by the name that a suite's or a configuration's `evaluator` uses; imported when it is made.

An evaluator is made from plain fields and called with an `Encoder`, those of answers with an `Answerer`, those of
painted pictures with a `Painter`; it returns `{metric: Score}`. ConfigError names a field that it does not have.
"""

from collections.abc import Callable
from typing import Any

from jvlm.core import build


def _retrieval(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.retrieval import Retrieval

    return build.call(Retrieval, fields, "evaluator 'retrieval'")


def _nearest_pixels(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.nearest_pixels import NearestPixels

    return build.call(NearestPixels, fields, "evaluator 'nearest_pixels'")


def _zero_shot(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.zero_shot import ZeroShot

    return build.call(ZeroShot, fields, "evaluator 'zero_shot'")


def _linear_probe(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.linear_probe import LinearProbe

    return build.call(LinearProbe, fields, "evaluator 'linear_probe'")


def _knn(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.knn import NearestNeighbours

    return build.call(NearestNeighbours, fields, "evaluator 'knn'")


def _vqa_accuracy(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.answers import VqaAccuracy

    return build.call(VqaAccuracy, fields, "evaluator 'vqa_accuracy'")


def _exact_match(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.answers import ExactMatch

    return build.call(ExactMatch, fields, "evaluator 'exact_match'")


def _multiple_choice(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.multiple_choice import MultipleChoice

    return build.call(MultipleChoice, fields, "evaluator 'multiple_choice'")


def _perplexity(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.perplexity import Perplexity

    return build.call(Perplexity, fields, "evaluator 'perplexity'")


def _clip_score(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.clip_score import ClipScore

    return build.call(ClipScore, fields, "evaluator 'clip_score'")


def _distribution(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.distribution import Distribution

    return build.call(Distribution, fields, "evaluator 'distribution'")


def _reconstruction(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.reconstruction import Reconstruction

    return build.call(Reconstruction, fields, "evaluator 'reconstruction'")


EVALUATORS: dict[str, Callable[..., Callable[..., Any]]] = {
    "retrieval": _retrieval,
    "nearest_pixels": _nearest_pixels,
    "zero_shot": _zero_shot,
    "linear_probe": _linear_probe,
    "knn": _knn,
    "vqa_accuracy": _vqa_accuracy,
    "exact_match": _exact_match,
    "multiple_choice": _multiple_choice,
    "perplexity": _perplexity,
    "clip_score": _clip_score,
    "distribution": _distribution,
    "reconstruction": _reconstruction,
}
