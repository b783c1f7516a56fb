"""Two sides measured in turns: what a busy machine does to one, it does to the other."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
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


def alternate(jvlm: Work, torch: Work, pairs: int) -> dict[str, Any]:
    """Times both `pairs` times, the order swapped from pair to pair, after one unmeasured call each.

    `ratio` is torch's time over jvlm's, above 1 where jvlm is faster: the median over the pairs, with the lowest and
    the highest.
    """
    jvlm()
    torch()
    ours, theirs = [], []
    for pair in range(pairs):
        sides = [(ours, jvlm), (theirs, torch)]
        for times, work in sides if pair % 2 == 0 else sides[::-1]:
            times.append(clock(work))
    report: dict[str, Any] = {}
    for at, kind in enumerate(("wall", "cpu")):
        a, b = [t[at] for t in ours], [t[at] for t in theirs]
        ratios = [theirs / ours for ours, theirs in zip(a, b)]
        report[kind] = {
            "jvlm_s": round(statistics.median(a), 4),
            "torch_s": round(statistics.median(b), 4),
            "ratio": round(statistics.median(ratios), 3),
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
        }
    return report


def rates(report: Mapping[str, Any], count: int) -> dict[str, Any]:
    """`report` of `alternate` with samples per second beside the seconds, `count` samples a call."""
    return {
        kind: {**part, **{f"{side}_per_s": round(count / part[f"{side}_s"], 1) for side in ("jvlm", "torch")}}
        for kind, part in report.items()
    }
