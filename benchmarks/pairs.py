"""Two sides measured in turns: what a busy machine does to one, it does to the other."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Work = Callable[[], Any]


def hold_cores(count: int, **options: Any) -> None:
    """Keeps this process to its first `count` cores and sets it up as a jvlm program on the CPU.

    Call it before jax and torch count the cores. The allocator that `runtime.start` sets serves torch as well; it takes
    the `options`.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jvlm.train import runtime

    runtime.start(**options)


def clock(work: Work) -> tuple[float, float]:
    """Seconds by the wall and by the processor, all threads together."""
    wall, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - used


def in_turns(jvlm: Work, torch: Work, pairs: int) -> tuple[list[Any], list[Any]]:
    """What `pairs` calls of each return, the order swapped from pair to pair, after one call each that is dropped."""
    jvlm()
    torch()
    ours: list[Any] = []
    theirs: list[Any] = []
    for pair in range(pairs):
        sides = [(ours, jvlm), (theirs, torch)]
        for found, work in sides if pair % 2 == 0 else sides[::-1]:
            found.append(work())
    return ours, theirs


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Median seconds of both, and `ratio`, torch's time over jvlm's, above 1 where jvlm is faster: the median over the
    pairs, with the lowest and the highest.
    """
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "jvlm_s": round(statistics.median(ours), 4),
        "torch_s": round(statistics.median(theirs), 4),
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def alternate(jvlm: Work, torch: Work, pairs: int) -> dict[str, Any]:
    """`compare` of both, timed `pairs` times in turns, by the wall and by the processor."""
    ours, theirs = in_turns(lambda: clock(jvlm), lambda: clock(torch), pairs)
    return {
        kind: compare(*([t[at] for t in side] for side in (ours, theirs))) for at, kind in enumerate(("wall", "cpu"))
    }


def rates(report: Mapping[str, Any], count: int) -> dict[str, Any]:
    """`report` of `alternate` with samples per second beside the seconds, `count` samples a call."""
    return {
        kind: {**part, **{f"{side}_per_s": round(count / part[f"{side}_s"], 1) for side in ("jvlm", "torch")}}
        for kind, part in report.items()
    }
