"""Every evaluator, by the name that a suite's or a configuration's `evaluator` uses; imported when it is made.

An evaluator is made from plain fields and called with an `Encoder`; it returns `{metric: Score}`.
"""

from collections.abc import Callable
from typing import Any


def _retrieval(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.retrieval import Retrieval

    return Retrieval(**fields)


def _nearest_pixels(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.nearest_pixels import NearestPixels

    return NearestPixels(**fields)


def _zero_shot(**fields: Any) -> Callable[..., Any]:
    from jvlm.evals.zero_shot import ZeroShot

    return ZeroShot(**fields)


EVALUATORS: dict[str, Callable[..., Callable[..., Any]]] = {
    "retrieval": _retrieval,
    "nearest_pixels": _nearest_pixels,
    "zero_shot": _zero_shot,
}
