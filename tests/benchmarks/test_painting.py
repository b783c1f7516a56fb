"""The comparison of painting runs, on a toy: both sides compute the same, and what falls short is named."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import painting

# diffusers makes arrays of tensors in a way that numpy will stop to accept.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_both_sides_paint_the_same(tmp_path: Path) -> None:
    painting.write("toy", tmp_path / "model")
    report = painting.measure(tmp_path / "model", "toy", pixels=16, steps=3, repeats=1, cores=1)
    for work, limit in (("unet", 1e-4), ("decode", 1e-4), ("picture", 2)):
        assert report[work]["largest_difference"] <= limit, work
        assert report[work]["wall"]["ratio"] > 0
    assert painting.resident() > 10e6


def test_what_falls_short_is_named() -> None:
    works = {"unet": 0.79, "decode": 0.8, "picture": 1.2}
    report: dict[str, Any] = {work: {"wall": {"ratio": ratio}} for work, ratio in works.items()}
    assert painting.missed({**report, "peak_bytes": dict(jvlm=3, torch=3)}) == ["unet"]
    assert painting.missed({**report, "peak_bytes": dict(jvlm=4, torch=3)}) == ["unet", "peak"]
