"""Which steps to keep. A pure function, so that the rules can be read and tested without a disk."""

import math
from collections.abc import Mapping

from jvlm.core.errors import ConfigError

Best = tuple[str, str]
"""A metric, and which end of it is better: `max` or `min`."""


def check_rules(keep_last: int, keep_every: int | None, keep_best: Best | None) -> None:
    """Raises ConfigError for rules that make no sense."""
    if keep_last < 1:
        raise ConfigError(f"keep_last is {keep_last}: the newest checkpoint must stay, so give 1 or more")
    if keep_every is not None and keep_every < 1:
        raise ConfigError(f"keep_every is {keep_every}: give a number of steps of 1 or more, or None")
    if keep_best is not None and keep_best[1] not in ("max", "min"):
        raise ConfigError(f"keep_best is {keep_best!r}: its second part is 'max' or 'min'")


def kept_steps(
    metrics: Mapping[int, Mapping[str, float]],
    *,
    keep_last: int,
    keep_every: int | None = None,
    keep_best: Best | None = None,
) -> set[int]:
    """The steps that stay, out of the complete steps and their metrics, `{step: {metric: value}}`.

    These are the newest `keep_last`, every multiple of `keep_every`, and the one best by `keep_best` (the
    newest of equals; a step without the metric, or with NaN, is no candidate).
    """
    steps = sorted(metrics)
    kept = set(steps[-keep_last:])
    if keep_every is not None:
        kept |= {step for step in steps if step % keep_every == 0}
    if keep_best is not None:
        name, end = keep_best
        sign = 1.0 if end == "max" else -1.0
        scores = {step: sign * metrics[step][name] for step in steps if name in metrics[step]}
        scores = {step: score for step, score in scores.items() if not math.isnan(score)}
        if scores:
            kept.add(max(scores, key=lambda step: (scores[step], step)))
    return kept
